"""All commands by one name: `mtrl-conic train env=mt10`, or `python -m mtrl_conic train env=mt10`."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from mtrl_conic import __version__
from mtrl_conic.system import console

USAGE = """\
usage: mtrl-conic COMMAND [arguments]
       mtrl-conic COMMAND --help
       mtrl-conic --version

commands
  train      trains agents on many tasks at once, or goes on with a run
  evaluate   plays the policies of a run on every goal, with videos where wanted
  report     writes tables and pictures of any number of runs
  sweep      trains combiners, or named variants, × seeds, each pair a run of its own
  toy        runs combiners on the toy problem with two tasks
  benchmark  measures environments, updates and training

Each is also a module of its own: `mtrl-conic train` is `python -m mtrl_conic.train`.
"""

_MODULES = {
    "train": "mtrl_conic.train",
    "evaluate": "mtrl_conic.evaluate",
    "report": "mtrl_conic.report.__main__",
    "sweep": "mtrl_conic.sweep",
    "toy": "mtrl_conic.toy.__main__",
    "benchmark": "mtrl_conic.benchmark.__main__",
}
_PRINTED = ("toy", "benchmark")  # what they print is their result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, with the others; returns its exit status."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("-h", "--help"):
        print(USAGE, end="")
    elif name == "--version":
        print(f"mtrl_conic {__version__}")
    elif name in _MODULES:
        return importlib.import_module(_MODULES[name]).main(rest)
    else:
        print(_unknown(name), end="", file=sys.stderr)
        return 2
    return 0


def _unknown(name: str) -> str:
    if not name:
        return USAGE
    close = difflib.get_close_matches(name, _MODULES, n=1, cutoff=0.6)
    hint = f" (did you mean {close[0]}?)" if close else f"; there are {', '.join(_MODULES)}"
    return f"error: {name}: no such command{hint}\n"


def command() -> int:
    """What starts as `mtrl-conic`; its output is protected as that of each command alone."""
    if os.getcwd() not in sys.path:  # where a user's own classes are, as with `python -m`
        sys.path.insert(0, os.getcwd())
    return console.run(main, printed=sys.argv[1:2] in ([name] for name in _PRINTED))


if __name__ == "__main__":
    sys.exit(command())
