"""Runs put together: one section per protocol, in it one row per method, in it one curve per seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.report import protocol
from mtrl_conic.report.reading import Array, Curve, Run, Trace


@dataclass
class Method:
    """The runs of one method under one protocol; T evaluations that its S counted seeds share, K tasks.

    Args:
        label: what tables and legends call it.
        settings: all that makes it this method.
        runs: by seed, also those of seeds that do not count.
        seeds: the S seeds that count.
        steps: [T] environment steps per task, the last being the one whose numbers are called final.
        success: [T, S, K].
        episodes: [T, S] per task.
        wall_seconds: [T, S], NaN where not recorded.
        budget: the steps per task that were asked for.
    """

    label: str
    settings: protocol.Settings
    runs: dict[int, Run]
    seeds: list[int]
    steps: NDArray[np.int64]
    success: Array
    episodes: NDArray[np.int64]
    wall_seconds: Array
    budget: int

    @property
    def variant(self) -> str | None:
        """The name of the variant, where it is one."""
        return self.settings.get("variant")

    @property
    def final(self) -> Array:
        """Success [S, K] at the last step."""
        return self.success[-1]

    @property
    def curves(self) -> dict[int, Curve]:
        """The curve of every seed, counted or not."""
        return {seed: run.curves[seed] for seed, run in self.runs.items()}

    def traces(self, key: str) -> list[Trace]:
        """A diagnostic, such as "critic/cosine", of the seeds that count and have it."""
        found = (self.runs[seed].traces.get(seed, {}).get(key) for seed in self.seeds)
        return [trace for trace in found if trace is not None]

    @property
    def networks(self) -> list[str]:
        """Those of which there are diagnostics, in the order of the records."""
        keys = (key for seed, run in self.runs.items() for key in run.traces.get(seed, {}))
        return list(dict.fromkeys(key.partition("/")[0] for key in keys))

    @property
    def folders(self) -> list[Run]:
        """The run folders, each once."""
        return list({run.folder: run for run in self.runs.values()}.values())

    @property
    def stopped(self) -> list[int]:
        """Seeds with a curve that are not in the numbers, as they ended before the others."""
        return sorted(self.runs.keys() - set(self.seeds))


@dataclass(eq=False)
class Section:
    """What may be compared: methods under one protocol, the best final mean first."""

    title: str
    sentence: str
    slug: str
    tasks: tuple[str, ...]
    methods: list[Method] = field(default_factory=list)
    protocol: protocol.Settings = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of its methods."""
        return tuple(method.label for method in self.methods)

    @property
    def networks(self) -> list[str]:
        """Of its methods, those with diagnostics."""
        return list(dict.fromkeys(network for method in self.methods for network in method.networks))


def sections(runs: Iterable[Run], limit: int | None, notes: list[str]) -> list[Section]:
    """Put runs together.

    Args:
        runs: in any order.
        limit: compare at the last evaluation up to this step; None at the end of the runs.
        notes: what a reader should know is added here.
    """
    by_protocol: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        by_protocol.setdefault(tuple(protocol.protocol_of(run).items()), []).append(run)
    found: list[Section] = []
    for members in by_protocol.values():
        first, tasks = members[0], members[0].tasks
        section = Section(protocol.title(first), protocol.sentence(first), "", tasks)
        section.slug = _unique(protocol.slug(first), [other.slug for other in found])
        section.protocol = protocol.protocol_of(first)
        section.methods = _methods(members, tasks, limit, notes)
        if section.methods:
            found.append(section)
            _note_seeds(section, notes)
    if len(found) > 1:
        titles = "; ".join(section.title for section in found)
        notes.append(
            f"{len(found)} protocols, whose numbers must not be compared: {titles}. Each has tables of its own."
        )
    return sorted(found, key=lambda section: (-len(section.methods), section.slug))


def _note_seeds(section: Section, notes: list[str]) -> None:
    having = {method.label: ranges(method.runs) for method in section.methods}
    if len(set(having.values())) > 1:
        listed = "; ".join(f"{label} {seeds}" for label, seeds in having.items())
        notes.append(f"{section.title}: not all methods have the same seeds: {listed}")


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers, neighbours joined: "0-4, 7"."""
    pieces: list[list[int]] = []
    for number in sorted(numbers):
        if pieces and number == pieces[-1][-1] + 1:
            pieces[-1].append(number)
        else:
            pieces.append([number])
    return ", ".join(f"{piece[0]}-{piece[-1]}" if len(piece) > 1 else str(piece[0]) for piece in pieces)


def _unique(name: str, taken: list[str]) -> str:
    candidates = (name, *(f"{name}_{number}" for number in range(2, len(taken) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _methods(runs: list[Run], tasks: tuple[str, ...], limit: int | None, notes: list[str]) -> list[Method]:
    by_method: dict[frozenset[tuple[str, str]], tuple[protocol.Settings, list[Run]]] = {}
    for run in runs:
        settings = protocol.method_of(run)
        if limit is None:  # the same method run for other lengths is another row
            settings["steps_per_task"] = str(run.budget)
        by_method.setdefault(frozenset(settings.items()), (settings, []))[1].append(run)
    chosen = [protocol.chosen_combiner(members[0]) for _, members in by_method.values()]
    named = protocol.labels([settings for settings, _ in by_method.values()], chosen)
    methods = []
    for label, (settings, members) in zip(named, by_method.values(), strict=True):
        method = _method(label, settings, members, tasks, limit, notes)
        if method is not None:
            methods.append(method)
    return sorted(methods, key=lambda method: (-method.final.mean(), method.label))


def _method(
    label: str,
    settings: protocol.Settings,
    runs: list[Run],
    tasks: tuple[str, ...],
    limit: int | None,
    notes: list[str],
) -> Method | None:
    chosen = _one_per_seed(label, runs, notes)
    curves = {seed: _in_task_order(run, seed, tasks) for seed, run in sorted(chosen.items())}
    budget = max(run.budget for run in chosen.values())
    seeds = [seed for seed, curve in curves.items() if curve.steps[-1] >= (limit or budget)] or list(curves)
    common = sorted(set.intersection(*(set(curves[seed].steps.tolist()) for seed in seeds)))
    steps = np.array([step for step in common if limit is None or step <= limit], dtype=np.int64)
    if not len(steps):
        up_to = f" up to step {limit:,}" if limit else ""
        notes.append(f"{label}: its seeds have no evaluation in common{up_to}; it is in no table")
        return None
    rows = {seed: np.isin(curves[seed].steps, steps) for seed in seeds}
    return Method(
        label,
        settings,
        {seed: run if limit is None else run.up_to(limit) for seed, run in sorted(chosen.items())},
        seeds,
        steps,
        np.stack([curves[seed].success[rows[seed]] for seed in seeds], 1),
        np.stack([curves[seed].episodes[rows[seed]] for seed in seeds], 1),
        np.stack([curves[seed].wall_seconds[rows[seed]] for seed in seeds], 1),
        budget,
    )


def _one_per_seed(label: str, runs: list[Run], notes: list[str]) -> dict[int, Run]:
    """The run that counts for each seed: the one that went farthest, and of those the one started last."""
    chosen: dict[int, Run] = {}
    for run in runs:
        for seed, curve in run.curves.items():
            other = chosen.get(seed)
            if other is None:
                chosen[seed] = run
                continue
            kept, left = (run, other) if _rank(run, curve) > _rank(other, other.curves[seed]) else (other, run)
            chosen[seed] = kept
            notes.append(f"{label}, seed {seed} is in two run folders: {kept.folder} counts, {left.folder} does not")
    return chosen


def _rank(run: Run, curve: Curve) -> tuple[int, str]:
    return int(curve.steps[-1]), str(run.pieces[0].get("started", "")) if run.pieces else ""


def _in_task_order(run: Run, seed: int, tasks: tuple[str, ...]) -> Curve:
    """The seed's curve with its columns, and those of its traces, in the order of `tasks`."""
    if run.tasks != tasks:
        order = [run.tasks.index(task) for task in tasks]
        for curve in run.curves.values():
            curve.success = curve.success[:, order]
        for traces in run.traces.values():
            for key, (steps, values) in traces.items():
                traces[key] = (steps, values[:, order] if values.ndim == 2 else values)
        run.tasks = tasks
    return run.curves[seed]
