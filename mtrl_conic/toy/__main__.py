"""Runs combiners on the toy problem, tabulates and draws what they do: `python -m mtrl_conic.toy`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mtrl_conic.runs.files import WriteError, write_whole
from mtrl_conic.settings.arguments import path
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.system import console
from mtrl_conic.system.provenance import provenance
from mtrl_conic.toy import methods, problem, table
from mtrl_conic.toy.descent import Descent, descend

_RECORDS = 1000  # of each descent, for the pictures
_DRAWN = ("conicgrad", "cagrad")  # in the picture of the cone and the ball, whichever run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        names = list(dict.fromkeys(options.combiners.split(",")))
        used = list(dict.fromkeys([*names, *_DRAWN]))
        changes = methods.parse_overrides(options.overrides, used)
        for name in used:
            methods.check(name, changes.get(name))
        _check_outputs(options.out, options.json)
    except ConfigError as error:
        parser.error(str(error))
    torch.set_num_threads(1)  # on matrices this small, threads only wait for each other
    results: dict[str, Any] = {"provenance": provenance(torch.device("cpu"))}
    results |= {"scale": options.scale, "steps": options.steps, "methods": {}}
    descents = {}
    print(table.heading(options.scale, options.steps), flush=True)
    for name in names:
        descents[name], results["methods"][name] = _run(name, changes.get(name), options.scale, options.steps)
    try:
        _draw(descents, changes, options.scale, options.out)
        if options.json:
            write_whole(options.json, json.dumps(results, indent=2) + "\n")
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
    every = ",".join(methods.default_methods())
    parser.add_argument("--combiners", default=every, help="separated by commas (all but torchjd)")
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


def _check_outputs(out: Path, record: Path | None) -> None:
    """Make the folders, and find out before the run whether they can be written.

    Raises:
        ConfigError: a file cannot be written there.
    """
    if record and os.path.isdir(record):
        raise ConfigError(f"--json {record}: is a folder")
    for option, folder in (("--out", out), ("--json", record.parent if record else None)):
        if folder is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ConfigError(f"{option} {folder}: cannot be written ({error.strerror})") from error


def _run(name: str, changes: dict[str, Any] | None, scale: float, steps: int) -> tuple[Descent, dict[str, Any]]:
    """The descent of one method and its record, which is printed."""
    combiner, settings = methods.make(name, changes)
    descent = descend(combiner, problem.STARTS, scale, steps, every=max(1, steps // _RECORDS))
    rows = table.rows(descent, problem.STARTS, scale)
    print(table.block(name, settings, rows), flush=True)
    return descent, {"settings": settings, "starts": rows}


def _draw(descents: dict[str, Descent], changes: dict[str, dict[str, Any]], scale: float, out: Path) -> None:
    from mtrl_conic.toy.geometry import draw_cone_and_ball
    from mtrl_conic.toy.pictures import draw_convergence, draw_trajectories

    draw_trajectories(descents, scale, out / "toy_trajectories.png")
    draw_convergence(descents, scale, out / "toy_convergence.png")
    draw_cone_and_ball(lambda name: methods.make(name, changes.get(name))[0], out / "cone_and_ball.png")
    print(f"pictures in {out}")


if __name__ == "__main__":
    sys.exit(console.run(main, printed=True))
