"""Runs combiners on the toy problem, tabulates and draws what they do: `python -m mtrl_conic.toy`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mtrl_conic.runs.files import WriteError
from mtrl_conic.settings.arguments import path
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.system import console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    from mtrl_conic.toy.comparison import compare

    try:
        compare(options)
    except ConfigError as error:
        parser.error(str(error))
    except WriteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mtrl_conic.toy",
        usage="%(prog)s [options]",
        description="Runs combiners on the two-task toy problem from its five starts, prints a table and draws"
        " toy_trajectories.png, toy_convergence.png and cone_and_ball.png.",
    )
    parser.add_argument("--combiners", help="separated by commas (all but torchjd)")
    parser.add_argument("--scale", type=float, default=0.1, choices=[0.1, 1.0], help="of the first loss (0.1)")
    parser.add_argument("--steps", type=_positive, default=50_000, help="of Adam (%(default)s)")
    parser.add_argument("--out", type=path, default=Path("runs/toy"), help="folder of the pictures (%(default)s)")
    parser.add_argument("--json", type=path, help="write the table with its provenance here")
    settings = "such as conicgrad.c=0.4: <combiner>.<key>=<value>, in place of the toy setting or of the yaml file's"
    parser.add_argument("--overrides", nargs="+", action="extend", default=[], metavar="SETTING", help=settings)
    return parser


def _positive(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,14}", text):
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(console.run(main, printed=True))
