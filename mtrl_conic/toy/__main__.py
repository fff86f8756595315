"""Runs combiners on the toy problem, tabulates and draws what they do: `python -m mtrl_conic.toy`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mtrl_conic.runs.command import answer
from mtrl_conic.system import console

USAGE = """\
usage: python -m mtrl_conic.toy [key=value ...] [COMBINER.key=value ...]

Runs combiners on the two-task toy problem from its five starts, prints a table and draws toy_trajectories.png,
toy_convergence.png and cone_and_ball.png.

settings (default)
  combiners=A,B,...  which to run (all but torchjd)
  scale=0.1|1        of the first loss (0.1)
  steps=N            of Adam (50000)
  out=FOLDER         of the pictures (runs/toy)
  json=PATH          write the table with its provenance here
  COMBINER.key=VALUE such as conicgrad.c=0.4, in place of the toy's setting or of the yaml file's

exit status: 0 done, 2 bad input, 1 other
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return answer(arguments, lambda: USAGE, _run)


def _run(arguments: list[str]) -> int:
    from mtrl_conic.toy.comparison import compare, parse

    compare(parse(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main, printed=True))
