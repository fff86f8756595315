"""The records of one run folder, and what is wrong with them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from mtrl_conic.settings import older

Array = NDArray[np.float64]
_SHOWN = 5  # numbers of damaged lines that a note lists
_HUGE = 2**53  # beyond any number of steps or episodes


@dataclass
class Curve:
    """The evaluations of one seed: T of them on K tasks, in the order of their steps.

    Args:
        steps: [T] environment steps per task.
        success: [T, K] share of episodes with success.
        returns: [T, K] mean return, NaN where not recorded.
        episodes: [T] episodes per task.
        wall_seconds: [T] seconds of training so far, NaN where not recorded.
    """

    steps: NDArray[np.int64]
    success: Array
    returns: Array
    episodes: NDArray[np.int64]
    wall_seconds: Array

    def up_to(self, step: int) -> Curve:
        """Its part before and at a step."""
        return Curve(*(values[self.steps <= step] for values in astuple(self)))


Trace = tuple[NDArray[np.int64], Array]  # steps [T], values [T] or, one per task, [T, K]


@dataclass
class Run:
    """What the records of a run folder say.

    Args:
        folder: as it was named.
        config: the stored settings, as plain dictionaries.
        pieces: the entries of provenance.json, empty when it cannot be read.
        tasks: the K task names.
        curves: by seed.
        traces: combiner diagnostics by seed, then by "critic/cosine", "actor/weight" and so on.
        halted: what stopped a seed that learns no more, by seed; its curve ends before.
    """

    folder: Path
    config: dict[str, Any]
    pieces: list[dict[str, Any]]
    tasks: tuple[str, ...]
    curves: dict[int, Curve]
    traces: dict[int, dict[str, Trace]] = field(default_factory=dict)
    halted: dict[int, str] = field(default_factory=dict)

    @property
    def budget(self) -> int:
        """The length of the run in steps per task."""
        return int(self.config["steps_per_task"])

    def up_to(self, step: int) -> Run:
        """The same run with its curves and traces before and at a step."""
        curves = {seed: curve.up_to(step) for seed, curve in self.curves.items()}
        traces = {
            seed: {key: (steps[steps <= step], values[steps <= step]) for key, (steps, values) in found.items()}
            for seed, found in self.traces.items()
        }
        return replace(self, curves=curves, traces=traces)


def read_run(folder: Path, notes: list[str]) -> Run | None:
    """Read a run folder; None when nothing of it can be used. What is wrong is added to `notes`."""
    notes_here: list[str] = []
    config = _config(folder / "config.yaml", notes_here)
    halted = _halted(folder / "halted.json", notes_here)
    tasks, curves = _evaluations(folder / "evaluations.jsonl", notes_here, halted)
    run = None
    notes_here += [f"seed {seed} {what}" for seed, what in sorted(halted.items())]
    if config is not None and curves:
        pieces = _provenance(folder / "provenance.json", notes_here)
        run = Run(folder, config, pieces, tasks, curves, halted=halted)
        run.traces = _metrics(folder / "metrics.jsonl", tasks, notes_here)
        _check_completeness(run, notes_here)
    notes += [f"{folder}: {note}" for note in notes_here]
    return run


def _config(path: Path, notes: list[str]) -> dict[str, Any] | None:
    left_out = "protocol and method are unknown, so the run is in no table"
    if not path.is_file():
        notes.append(f"config.yaml is missing; {left_out}")
        return None
    try:
        config = older.settings(OmegaConf.to_container(OmegaConf.load(path)))
        usable = (
            isinstance(config, dict)
            and isinstance(config["env"]["_target_"], str)
            and isinstance(config["combiner"]["_target_"], str)
            and int(config["steps_per_task"]) > 0
            and all(isinstance(seed, int) for seed in config["seeds"])
            and isinstance(config.get("agent", {}), dict)
        )
    except Exception:  # a parser's errors are many, and mean the same here
        usable = False
    if not usable:
        notes.append(f"config.yaml cannot be read; {left_out}")
        return None
    assert isinstance(config, dict)
    return config


def _provenance(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    try:
        pieces = json.loads(path.read_text(errors="replace"))["pieces"]
        if isinstance(pieces, list) and pieces and all(isinstance(piece, dict) for piece in pieces):
            return pieces
    except (OSError, ValueError, KeyError, TypeError):
        pass
    notes.append(f"provenance.json is {'damaged' if path.exists() else 'missing'}; versions and device are unknown")
    return []


def _lines(path: Path, damaged: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of each line with a step and a seed; the numbers of other lines go to `damaged`."""
    with path.open(errors="replace") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                if type(line["step"]) is int and type(line["seed"]) is int and 0 <= line["step"] < _HUGE:
                    yield number, line
                    continue
            except (ValueError, KeyError, TypeError, RecursionError):
                pass
            damaged.append(number)


def _halted(path: Path, notes: list[str]) -> dict[int, str]:
    """What stopped the seeds that learn no more, by seed."""
    if not path.is_file():
        return {}
    try:
        lines = json.loads(path.read_text(errors="replace"))
        return {int(line["seed"]): _stop(line["step"], f"{line['network']}: {line['cause']}") for line in lines}
    except (ValueError, KeyError, TypeError):
        notes.append("halted.json is damaged; it says which seeds stopped learning, and why")
        return {}


def _stop(step: int, cause: str) -> str:
    return f"stopped learning at step {step:,} ({cause} is not finite)"


def _evaluations(path: Path, notes: list[str], halted: dict[int, str]) -> tuple[tuple[str, ...], dict[int, Curve]]:
    if not path.is_file():
        notes.append("evaluations.jsonl is missing; the run is left out")
        return (), {}
    damaged: list[int] = []
    lines = []
    for number, line in _lines(path, damaged):
        if _is_evaluation(line):
            lines.append((number, line))
        else:
            damaged.append(number)
    kinds = Counter(tuple(line["success"]) for _, line in lines)
    tasks = kinds.most_common(1)[0][0] if kinds else ()
    damaged += [number for number, line in lines if set(line["success"]) != set(tasks)]
    by_seed: dict[int, dict[int, dict[str, Any]]] = {}
    for _, line in lines:
        if type(line.get("halted")) is int:  # of weights that learn no more
            halted.setdefault(line["seed"], _stop(line["halted"], "a number"))
        elif set(line["success"]) == set(tasks):
            by_seed.setdefault(line["seed"], {})[line["step"]] = line  # the last of a step counts
    if damaged:
        notes.append(f"evaluations.jsonl: {_number_of(damaged)} cannot be used and {_are(damaged)} left out")
    if not by_seed:
        notes.append("evaluations.jsonl holds no usable evaluation; the run is left out")
    return tasks, {seed: _curve(by_step, tasks) for seed, by_step in sorted(by_seed.items())}


def _number_of(lines: list[int]) -> str:
    lines = sorted(lines)
    listed = ", ".join(map(str, lines[:_SHOWN])) + (", ..." if len(lines) > _SHOWN else "")
    return f"line {listed}" if len(lines) == 1 else f"{len(lines)} lines ({listed})"


def _are(lines: list[int]) -> str:
    return "is" if len(lines) == 1 else "are"


def _is_evaluation(line: Mapping[str, Any]) -> bool:
    success = line.get("success")
    if not (isinstance(success, dict) and success and type(line.get("episodes")) is int):
        return False
    rates = all(_is_number(rate) and 0 <= rate <= 1 for rate in success.values())
    return rates and 0 < line["episodes"] < _HUGE and all(task.isprintable() for task in success)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _curve(by_step: dict[int, dict[str, Any]], tasks: tuple[str, ...]) -> Curve:
    steps = sorted(by_step)
    lines = [by_step[step] for step in steps]
    wall = [line.get("wall_seconds") for line in lines]
    returns = [line["return"] if isinstance(line.get("return"), dict) else {} for line in lines]
    return Curve(
        np.array(steps),
        np.array([[line["success"][task] for task in tasks] for line in lines], dtype=float),
        np.array([[_number(line.get(task)) for task in tasks] for line in returns]),
        np.array([line["episodes"] for line in lines]),
        np.array([_number(value) for value in wall]),
    )


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else math.nan


def _metrics(path: Path, tasks: tuple[str, ...], notes: list[str]) -> dict[int, dict[str, Trace]]:
    """The combiner's diagnostics; lines are read one at a time, as a long run's file is large."""
    if not path.is_file():
        notes.append("metrics.jsonl is missing; no task weights, cosine or conflict rate of this run")
        return {}
    damaged: list[int] = []
    kept: dict[int, dict[str, dict[int, Any]]] = {}
    for _, line in _lines(path, damaged):
        seed = kept.setdefault(line["seed"], {})
        for network in dict.fromkeys(key.split("/")[1] for key in line if key.startswith("combiner/")):
            prefix = f"combiner/{network}/"
            for name in ("cosine", "conflict"):
                if _is_number(value := line.get(prefix + name)):
                    seed.setdefault(f"{network}/{name}", {})[line["step"]] = value
            weights = [line.get(f"{prefix}weight/{task}") for task in tasks]
            if all(_is_number(weight) for weight in weights):
                seed.setdefault(f"{network}/weight", {})[line["step"]] = weights
    if damaged:
        notes.append(f"metrics.jsonl: {_number_of(damaged)} cannot be read and {_are(damaged)} left out")
    return {
        seed: {key: (np.array(sorted(by_step)), _in_order(by_step)) for key, by_step in traces.items()}
        for seed, traces in kept.items()
    }


def _in_order(by_step: dict[int, Any]) -> Array:
    return np.array([by_step[step] for step in sorted(by_step)], dtype=float)


def _check_completeness(run: Run, notes: list[str]) -> None:
    missing = sorted(set(run.config["seeds"]) - run.curves.keys() - run.halted.keys())
    if missing:
        named = f"seeds {', '.join(map(str, missing))} have" if len(missing) > 1 else f"seed {missing[0]} has"
        notes.append(f"{named} no usable evaluation, though config.yaml names {'them' if len(missing) > 1 else 'it'}")
    stopped: dict[int, list[int]] = {}
    for seed, curve in run.curves.items():
        if curve.steps[-1] < run.budget and seed not in run.halted:
            stopped.setdefault(int(curve.steps[-1]), []).append(seed)
    for step, seeds in sorted(stopped.items()):
        named = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        notes.append(f"unfinished: the last evaluation of {named} is at step {step:,} of {run.budget:,}")
