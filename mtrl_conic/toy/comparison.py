"""What the toy command does: descents of the chosen combiners, their table and their pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.runs.files import write_whole
from mtrl_conic.runs.outputs import check_file, check_folder
from mtrl_conic.settings import arguments as read
from mtrl_conic.system.provenance import provenance
from mtrl_conic.toy import methods, problem, table
from mtrl_conic.toy.descent import Descent, descend

_RECORDS = 1000  # of each descent, for the pictures
_DRAWN = ("conicgrad", "cagrad")  # in the picture of the cone and the ball, whichever run


@dataclass
class Options:
    """What to compare, and where the results go."""

    combiners: list[str]
    scale: float
    steps: int
    out: Path
    json: Path | None
    changes: dict[str, dict[str, Any]]  # of settings, by combiner


def parse(arguments: Sequence[str]) -> Options:
    """Read the `key=value` arguments, check them and make the folders.

    Raises:
        ConfigError: one is unknown, given twice or of no use.
    """
    readers: dict[str, read.Reader] = {
        "combiners": read.listed(*methods.available()),
        "scale": read.choice("0.1", "1", "1.0"),
        "steps": read.whole(1),
        "out": read.path,
        "json": read.path,
    }
    overrides = [text for text in arguments if "." in text.partition("=")[0]]
    found = read.parse([text for text in arguments if text not in overrides], readers)
    combiners = found.get("combiners", methods.default_methods())
    used = list(dict.fromkeys([*combiners, *_DRAWN]))
    changes = methods.parse_overrides(overrides, used)
    for name in used:
        methods.check(name, changes.get(name))
    out, record = found.get("out", Path("runs/toy")), found.get("json")
    if record is not None:
        check_file("json", record, make_folder=True)
    check_folder("out", out)
    return Options(combiners, float(found.get("scale", 0.1)), found.get("steps", 50_000), out, record, changes)


def compare(options: Options) -> None:
    """Run the combiners, print their table, draw the pictures and write the record.

    Raises:
        WriteError: the disk does not take them.
    """
    torch.set_num_threads(1)  # on matrices this small, threads only wait for each other
    results: dict[str, Any] = {"provenance": provenance(torch.device("cpu"))}
    results |= {"scale": options.scale, "steps": options.steps, "methods": {}}
    descents = {}
    print(table.heading(options.scale, options.steps), flush=True)
    for name in options.combiners:
        descents[name], results["methods"][name] = _run(name, options)
    _draw(descents, options)
    if options.json:
        write_whole(options.json, json.dumps(results, indent=2) + "\n")


def _run(name: str, options: Options) -> tuple[Descent, dict[str, Any]]:
    """The descent of one method and its record, which is printed."""
    combiner, settings = methods.make(name, options.changes.get(name))
    every = max(1, options.steps // _RECORDS)
    descent = descend(combiner, problem.STARTS, options.scale, options.steps, every=every)
    rows = table.rows(descent, problem.STARTS, options.scale)
    print(table.block(name, settings, rows), flush=True)
    return descent, {"settings": settings, "starts": rows}


def _draw(descents: dict[str, Descent], options: Options) -> None:
    from mtrl_conic.toy.geometry import draw_cone_and_ball
    from mtrl_conic.toy.pictures import draw_convergence, draw_trajectories

    draw_trajectories(descents, options.scale, options.out / "toy_trajectories.png")
    draw_convergence(descents, options.scale, options.out / "toy_convergence.png")

    def make(name: str) -> Combiner:
        return methods.make(name, options.changes.get(name))[0]

    draw_cone_and_ball(make, options.out / "cone_and_ball.png")
    print(f"pictures in {options.out}")
