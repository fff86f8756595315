"""The command: what to measure, and where its results go."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PARTS = ("updates", "envs", "loop", "peers", "networks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _options(arguments)
    import torch

    from mtrl_conic.runtime import provenance

    results: dict[str, Any] = {"provenance": provenance(torch.device("cpu"))}
    if "updates" in options.parts:
        from mtrl_conic.benchmark.updates import benchmark_updates

        results["updates"] = benchmark_updates(options.combiners, options.env, options.rounds)
    if "envs" in options.parts:
        from mtrl_conic.benchmark.envs import benchmark_envs

        results["envs"] = benchmark_envs(options.env, options.workers, options.rounds)
    if "loop" in options.parts:
        from mtrl_conic.benchmark.loop import benchmark_loop

        results["loop"] = benchmark_loop(options.combiner, options.env, options.seeds, options.rounds, options.device)
    if "peers" in options.parts:
        from mtrl_conic.benchmark.peers import benchmark_peers

        results["peers"] = benchmark_peers(options.env, options.rounds)
    if "networks" in options.parts:
        from mtrl_conic.benchmark.networks import benchmark_networks

        results["networks"] = benchmark_networks(options.combiners, options.sizes, options.rounds, options.picture)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mtrl_conic.benchmark",
        description="Measures environments and updates. Run it with nothing else running: it reports medians and,"
        " as absolute times depend on the machine, ratios of what was measured in turns.",
    )
    parser.add_argument("parts", nargs="*", default=[], help=f"of {', '.join(PARTS)} (default: updates and envs)")
    parser.add_argument("--combiners", default="", help="comma list, compared with the first (default: ls, then all)")
    parser.add_argument("--env", default="mt10", help="whose sizes and environments are measured")
    parser.add_argument("--workers", type=int, default=2, help="processes of the environments")
    parser.add_argument("--combiner", default="conicgrad", help="loop: whose")
    parser.add_argument("--seeds", default="1,2,5,10", help="loop: numbers of seeds, a row each")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="loop: where")
    parser.add_argument("--sizes", default="6,25,34", help="networks: millions of parameters, of 6, 25 and 34")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each")
    parser.add_argument("--json", type=Path, help="write the results with their provenance here")
    parser.add_argument("--picture", type=Path, help="networks: draw the results here (png or svg)")
    options = parser.parse_args(arguments)
    options.parts = options.parts or ["updates", "envs"]
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"{part}: no such part; there are {', '.join(PARTS)}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1 is needed")
    _check_outputs(parser, options)
    options.combiners = _combiners(parser, options.combiners)
    _combiners(parser, options.combiner)
    options.sizes = _sizes(parser, options.sizes)
    try:
        options.seeds = [int(count) for count in options.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds {options.seeds}: numbers of seeds are needed, such as 1,10")
    return options


def _check_outputs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """See that what comes last will not fail for a reason known from the start."""
    from mtrl_conic.envs import EnvConfig, task_names

    try:
        task_names(EnvConfig(options.env))
    except ValueError as error:
        parser.error(f"--env: {error}")
    for name in ("json", "picture"):
        path = getattr(options, name)
        if path is not None and not path.parent.is_dir():
            parser.error(f"--{name} {path}: there is no folder {path.parent}")


def _combiners(parser: argparse.ArgumentParser, text: str) -> list[str]:
    from mtrl_conic.compose import CONFIG_DIR

    known = sorted(path.stem for path in (CONFIG_DIR / "combiner").glob("*.yaml"))
    if not text:
        return ["ls", *(name for name in known if name not in ("ls", "torchjd"))]
    for name in text.split(","):
        if name not in known:
            parser.error(f"{name!r}: no such combiner; there are {', '.join(known)}")
    return text.split(",")


def _sizes(parser: argparse.ArgumentParser, text: str) -> list[int]:
    from mtrl_conic.benchmark.networks import WIDTHS

    for size in text.split(","):
        if size not in map(str, WIDTHS):
            parser.error(f"--sizes {size}: there are {', '.join(map(str, WIDTHS))}")
    return [int(size) for size in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
