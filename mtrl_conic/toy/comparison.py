"""Combiners beside each other on the toy problem: their descents, tabulated and drawn."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from mtrl_conic.runs.files import write_whole
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.system.provenance import provenance
from mtrl_conic.toy import methods, problem, table
from mtrl_conic.toy.descent import Descent, descend

_RECORDS = 1000  # of each descent, for the pictures
_DRAWN = ("conicgrad", "cagrad")  # in the picture of the cone and the ball, whichever run


def compare(options: argparse.Namespace) -> None:
    """Run, print and draw what the command line asks for.

    Raises:
        ConfigError: something cannot be used; nothing was run.
        WriteError: a file could not be written.
    """
    named = options.combiners
    names = methods.default_methods() if named is None else list(dict.fromkeys(named.split(",")))
    changes = _checked_changes(options, names)
    _check_outputs(options.out, options.json)
    torch.set_num_threads(1)  # on matrices this small, threads only wait for each other
    results: dict[str, Any] = {"provenance": provenance(torch.device("cpu"))}
    results |= {"scale": options.scale, "steps": options.steps, "methods": {}}
    descents = {}
    print(table.heading(options.scale, options.steps), flush=True)
    for name in names:
        descents[name], results["methods"][name] = _run(name, changes.get(name), options.scale, options.steps)
    _draw(descents, changes, options.scale, options.out)
    if options.json:
        write_whole(options.json, json.dumps(results, indent=2) + "\n")


def _checked_changes(options: argparse.Namespace, names: list[str]) -> dict[str, dict[str, Any]]:
    """The settings given, by method; each method that is used can be made with them."""
    used = list(dict.fromkeys([*names, *_DRAWN]))
    changes = methods.parse_overrides(options.overrides, used)
    for name in used:
        methods.check(name, changes.get(name))
    return changes


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
