"""The numbers of a section: a row per method, with where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtrl_conic.report import protocol, statistics
from mtrl_conic.report.grouping import Method, Section, ranges

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
    found += [f"seed {seed} {run.halted[seed]}" for seed, run in method.runs.items() if seed in run.halted]
    if method.stopped:
        found.append(f"not in the numbers, as stopped earlier: seed {', '.join(map(str, method.stopped))}")
    if limit is None and method.steps[-1] < method.budget:
        found.append(f"unfinished: {method.steps[-1]:,} of {method.budget:,} steps")
    if limit is not None and method.steps[-1] < limit:
        found.append(f"no evaluation at {limit:,}: numbers of step {method.steps[-1]:,}")
    for what, value in _COMPARED.items():
        usual = protocol.usual(map(value, section.methods))
        if value(method) != usual:
            found.append(f"{what}: {value(method)}, " + ("rows differ" if usual is None else f"most rows {usual}"))
    return found


def estimate_text(value: Estimate) -> str:
    """Such as "0.956 ± 0.019"; the mean alone for one seed."""
    return f"{value.mean:.3f}" if value.error is None else f"{value.mean:.3f} ± {value.error:.3f}"


def interval_text(value: statistics.Interval | None) -> str:
    """Such as "0.912 to 0.988"."""
    return "one seed" if value is None else f"{value.low:.3f} to {value.high:.3f}"


def seeds_text(method: Method) -> str:
    """The seeds that count, such as "0-4, 7"."""
    return ranges(method.seeds)


def episodes_text(method: Method) -> str:
    """Evaluation episodes per task, "during / final", such as "5 / 50"."""
    during, final = (ranges(set(part.ravel().tolist())) for part in (method.episodes[:-1], method.episodes[-1]))
    return f"{during or '-'} / {final}"


def versions(method: Method) -> dict[str, str]:
    """torch, metaworld, mujoco and the git commit of the runs; several where they differ."""
    pieces = [piece for run in method.folders for piece in run.pieces]
    found = {name: _several(_version(piece, name) for piece in pieces) for name in _VERSIONS}
    return found | {"mtrl_conic": _several(map(_commit, pieces))}


def devices(method: Method) -> str:
    """What the runs were made on; several where they differ."""
    return _several(_device(piece) for run in method.folders for piece in run.pieces)


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


def seeds_per_run(method: Method) -> str:
    """How many seeds the runs trained at once."""
    return ranges({len(run.config["seeds"]) for run in method.folders})


# What should be equal for rows to be compared, beyond the protocol.
_COMPARED: dict[str, Callable[[Method], str]] = {
    "steps per task": lambda method: f"{method.steps[-1]:,}",
    "evaluation episodes (during / final)": episodes_text,
    "evaluations to choose the best from": lambda method: str(len(method.steps)),
    "seeds": seeds_text,
    "metaworld and mujoco": lambda method: " and ".join(versions(method)[name] for name in ("metaworld", "mujoco")),
}


def origin(method: Method, section: Section) -> dict[str, str]:
    """Where a row comes from: protocol, length, evaluation, versions, folders."""
    steps = int(method.steps[-1])
    apart = protocol.differing(method.settings, [other.settings for other in section.methods])
    return {
        "protocol": f"{section.title}: {section.sentence}",
        "settings that differ": ", ".join(apart) or "none",
        "gradient scope": method.settings.get("agent.gradient_scope", "?"),
        "steps per task": f"{steps:,} of {method.budget:,}",
        "transitions": f"{steps * len(section.tasks):,}",
        "evaluation episodes (during / final)": episodes_text(method),
        "evaluations": str(len(method.steps)),
        "seeds": seeds_text(method),
        "seeds per run": seeds_per_run(method),
        **versions(method),
        "device": devices(method),
        "run folders": ", ".join(str(run.folder) for run in method.folders),
    }
