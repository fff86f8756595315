"""The command: what to measure, and where its results go."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from mtrl_conic.benchmark.options import parse, usage
from mtrl_conic.benchmark.timing import ProcessError
from mtrl_conic.runs.command import answer
from mtrl_conic.runs.files import write_whole
from mtrl_conic.system import console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    try:
        return answer(arguments, usage, _run)
    except ProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    options = parse(arguments)
    import torch

    from mtrl_conic.system.matmul import set_matmul_precision
    from mtrl_conic.system.provenance import provenance

    set_matmul_precision(options.matmul_precision, options.device)
    results: dict[str, Any] = {"provenance": provenance(torch.device(options.device))}
    threads = torch.get_num_threads()
    for part in options.parts:
        torch.set_num_threads(threads)  # the part before may have had those of its runs
        module = importlib.import_module(f"mtrl_conic.benchmark.{part}")
        results[part] = getattr(module, f"benchmark_{part}")(options)
        if options.json:  # after each part: the next may be interrupted
            write_whole(options.json, json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main, printed=True))
