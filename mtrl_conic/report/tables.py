"""The numbers of a section: a row a method, with where it comes from, and the same as CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtrl_conic.report import statistics
from mtrl_conic.report.grouping import Method, Section
from mtrl_conic.report.pictures import pairs
from mtrl_conic.report.reading import NETWORKS

_VERSIONS = ("torch", "metaworld", "mujoco")


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error over seeds, None where there is one seed."""

    mean: float
    error: float | None


@dataclass(frozen=True)
class Row:
    """The main results of a method.

    Args:
        method: whose.
        final: success at the last step, mean over tasks.
        best: the same at the step with the best mean over seeds.
        best_step: that step.
        iqm: interquartile mean of the final success over tasks and seeds.
        interval: its 95 % stratified bootstrap interval.
        remarks: what makes the row less comparable than the others.
    """

    method: Method
    final: Estimate
    best: Estimate
    best_step: int
    iqm: float
    interval: statistics.Interval | None
    remarks: list[str]


def estimate(values: Any) -> Estimate:
    """Mean and standard error of values [S]."""
    return Estimate(float(np.mean(values)), statistics.standard_error(np.asarray(values)))


def rows(section: Section, limit: int | None = None) -> list[Row]:
    """The main table of a section."""
    found = []
    for method in section.methods:
        mean = method.success.mean(2)  # [T, S]
        best = int(mean.mean(1).argmax())
        found.append(
            Row(
                method,
                estimate(mean[-1]),
                estimate(mean[best]),
                int(method.steps[best]),
                statistics.interquartile_mean(method.final),
                statistics.stratified_interval(method.final, statistics.interquartile_means),
                _remarks(method, section, limit),
            )
        )
    return found


def _remarks(method: Method, section: Section, limit: int | None) -> list[str]:
    found = []
    if len(method.seeds) == 1:
        found.append("one seed: no standard error, no interval")
    if method.stopped:
        found.append(f"not in the numbers, as stopped earlier: seed {', '.join(map(str, method.stopped))}")
    if limit is None and method.steps[-1] < method.budget:
        found.append(f"unfinished: {method.steps[-1]:,} of {method.budget:,} steps")
    if limit is not None and method.steps[-1] < limit:
        found.append(f"no evaluation at {limit:,}: numbers of step {method.steps[-1]:,}")
    for what, value in _COMPARED.items():
        usual = _usual(section.methods, value)
        if usual is not None and value(method) != usual:
            found.append(f"{what}: {value(method)}, most rows {usual}")
        elif usual is None:
            found.append(f"{what}: {value(method)}, rows differ")
    return found


def _usual(methods: Sequence[Method], value: Callable[[Method], str]) -> str | None:
    """What most methods have; None where none is in the majority."""
    usual, count = Counter(map(value, methods)).most_common(1)[0]
    return usual if 2 * count > len(methods) or count == len(methods) else None


def seeds_text(method: Method) -> str:
    """ "0-4, 7" """
    return ranges(method.seeds)


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers, neighbours joined: "0-4, 7"."""
    pieces: list[list[int]] = []
    for number in sorted(numbers):
        if pieces and number == pieces[-1][-1] + 1:
            pieces[-1].append(number)
        else:
            pieces.append([number])
    return ", ".join(f"{piece[0]}-{piece[-1]}" if len(piece) > 1 else str(piece[0]) for piece in pieces)


def episodes_text(method: Method) -> str:
    """Evaluation episodes a task, "during / final", such as "5 / 50"."""
    during, final = (ranges(set(part.ravel().tolist())) for part in (method.episodes[:-1], method.episodes[-1]))
    return f"{during or '-'} / {final}"


def versions(method: Method) -> dict[str, str]:
    """torch, metaworld, mujoco and the git commit of the runs; several where they differ."""
    pieces = [piece for run in method.folders for piece in run.pieces]
    found = {name: _several(_version(piece, name) for piece in pieces) for name in _VERSIONS}
    return found | {"mtrl_conic": _several(map(_commit, pieces)), "device": _several(map(_device, pieces))}


def _several(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values)) or "not recorded"


def _version(piece: dict[str, Any], name: str) -> str:
    known = piece.get("versions")
    return str((known.get(name) if isinstance(known, dict) else None) or "not recorded")


def _commit(piece: dict[str, Any]) -> str:
    git = piece.get("git")
    if not isinstance(git, dict):
        return _version(piece, "mtrl_conic")
    return str(git.get("commit", "?"))[:10] + ("" if git.get("clean", True) else " + uncommitted changes")


def _device(piece: dict[str, Any]) -> str:
    return f"{piece.get('device', '?')}, {piece.get('cores', '?')} cores, {piece.get('torch_threads', '?')} threads"


def seeds_a_run(method: Method) -> str:
    """How many seeds the runs trained at once."""
    return ranges({len(run.config["seeds"]) for run in method.folders})


# What should be equal for rows to be compared, beyond the protocol.
_COMPARED: dict[str, Callable[[Method], str]] = {
    "steps a task": lambda method: f"{method.steps[-1]:,}",
    "evaluation episodes (during / final)": episodes_text,
    "evaluations to choose the best from": lambda method: str(len(method.steps)),
    "seeds": seeds_text,
    "metaworld and mujoco": lambda method: " and ".join(versions(method)[name] for name in ("metaworld", "mujoco")),
}


def origin(method: Method, section: Section) -> dict[str, str]:
    """Where a row comes from: protocol, length, evaluation, versions, folders."""
    steps = int(method.steps[-1])
    return {
        "protocol": f"{section.title}: {section.sentence}",
        "gradient scope": method.settings.get("agent.gradient_scope", "?"),
        "steps a task": f"{steps:,} of {method.budget:,}",
        "transitions": f"{steps * len(section.tasks):,}",
        "evaluation episodes (during / final)": episodes_text(method),
        "evaluations": str(len(method.steps)),
        "seeds": seeds_text(method),
        "seeds a run": seeds_a_run(method),
        **versions(method),
        "run folders": ", ".join(str(run.folder) for run in method.folders),
    }


def write_csv(section: Section, results: list[Row], folder: Path) -> list[Path]:
    """Write table.csv, tasks.csv, improvement.csv, curves.csv and diagnostics.csv; returns the files."""
    contents = {
        "table": _main(section, results),
        "tasks": _tasks(section),
        "improvement": _improvement(section),
        "curves": _curves(section),
        "diagnostics": _diagnostics(section),
    }
    files = []
    for name, lines in contents.items():
        files.append(folder / f"{name}.csv")
        with files[-1].open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
    return files


Lines = list[list[Any]]


def _main(section: Section, results: list[Row]) -> Lines:
    names = "method final_success final_standard_error best_success best_standard_error best_step iqm iqm_low iqm_high"
    lines: Lines = []
    for row in results:
        numbers = [row.final.mean, row.final.error, row.best.mean, row.best.error, row.best_step, row.iqm]
        bounds = row.interval or (None, None)
        where = origin(row.method, section)
        lines.append([row.method.label, *numbers, *bounds, "; ".join(row.remarks), *where.values()])
        header = [*names.split(), "remarks", *(key.replace(" ", "_") for key in where)]
    return [header, *lines]


def _tasks(section: Section) -> Lines:
    lines: Lines = [["method", "task", "final_success", "standard_error", *("low", "high"), "seeds"]]
    for method in section.methods:
        for column, task in enumerate(section.tasks):
            values = method.final[:, column]
            interval = statistics.stratified_interval(values[:, None], lambda drawn: drawn.mean((1, 2))) or ("", "")
            result = estimate(values)
            lines.append([method.label, task, result.mean, result.error, *interval, len(values)])
    return lines


def _improvement(section: Section) -> Lines:
    lines: Lines = [["x", "y", "probability_x_above_y", "low", "high"]]
    for first, second, probability, interval in pairs(section):
        lines.append([first.label, second.label, probability, *(interval or ("", ""))])
    return lines


def _curves(section: Section) -> Lines:
    lines: Lines = [["method", "seed", "counted", "step", "wall_seconds", "episodes", "success_rate", *section.tasks]]
    for method in section.methods:
        for seed, curve in method.curves.items():
            for step, wall, episodes, success in zip(
                curve.steps.tolist(), curve.wall_seconds.tolist(), curve.episodes.tolist(), curve.success, strict=True
            ):
                shared = [step, "" if np.isnan(wall) else wall, episodes, float(success.mean())]
                lines.append([method.label, seed, int(seed in method.seeds), *shared, *success.tolist()])
    return lines


def _diagnostics(section: Section) -> Lines:
    lines: Lines = [["method", "seed", "network", "step", "cosine", "conflict", *(f"weight/{t}" for t in section.tasks)]]
    for method in section.methods:
        for seed, run in method.runs.items():
            for network in NETWORKS:
                by_step: dict[int, dict[str, Any]] = {}
                for name in ("cosine", "conflict", "weight"):
                    steps, values = run.traces.get(seed, {}).get(f"{network}/{name}", ((), ()))
                    for step, value in zip(steps, values, strict=True):
                        by_step.setdefault(int(step), {})[name] = value.tolist()
                for step, found in sorted(by_step.items()):
                    weights = found.get("weight", [""] * len(section.tasks))
                    numbers = [found.get("cosine", ""), found.get("conflict", "")]
                    lines.append([method.label, seed, network, step, *numbers, *weights])
    return lines
