"""The evaluations of runs as one table for pandas."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mtrl_conic.report import protocol
from mtrl_conic.report.options import find_runs
from mtrl_conic.report.reading import Curve, Run, read_run
from mtrl_conic.settings.errors import ConfigError

if TYPE_CHECKING:
    import pandas

_COLUMNS = (
    *("run", "env", "protocol", "combiner", "method", "seed", "step", "task"),
    *("success", "return", "episodes", "wall_seconds", "halted"),
)


def load_runs(runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> pandas.DataFrame:
    """The evaluations of any number of runs, one row per run, seed, step and task.

    Means are pandas' own: `frame.groupby(["protocol", "method", "step"])["success"].mean()` is each method's learning
    curve over tasks and seeds, `frame.groupby(["method", "task", "seed"]).last()` what each seed of a protocol ended
    with. What is damaged, missing or unfinished is a warning.

    Args:
        runs: a run folder, a folder that holds some at any depth, a glob, or a list of these.

    Returns:
        Rows in the order of the folders, seeds and steps, with the columns
        - run: the folder;
        - env, combiner: the names of their yaml files;
        - protocol: the title of the environments, as over the page's tables; numbers compare where it is the same;
        - method: the combiner's name in papers and whatever sets it apart from the other methods among the runs, or the
          name of its variant;
        - seed, step, task: `step` counts environment steps per task;
        - success, return: the share of `episodes` with success and their mean return;
        - episodes, wall_seconds: episodes per task and seed; seconds of training so far;
        - halted: whether the seed stopped learning later on; its rows are those of before.

    Raises:
        ConfigError: a ValueError: a name stands for nothing, or nothing of the runs can be used.
    """
    import pandas

    notes: list[str] = []
    named = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    if not named:
        raise ConfigError("runs=[]: must name at least one run folder")
    folders = dict.fromkeys(folder for name in named for folder in find_runs(os.fspath(name), notes))
    found = [run for folder in folders if (run := read_run(folder, notes)) is not None]
    if not found:
        raise ConfigError(f"{', '.join(map(str, named))}: nothing that can be used; {notes[0]}")
    for note in notes:
        warnings.warn(note, stacklevel=2)
    rows = [row for run, method in zip(found, _methods(found), strict=True) for row in _rows(run, method)]
    return pandas.DataFrame(rows, columns=[*_COLUMNS])


def _methods(runs: Sequence[Run]) -> list[str]:
    """Of each run."""
    keys = [(tuple(protocol.method_of(run).items()), protocol.chosen_combiner(run)) for run in runs]
    distinct = list(dict.fromkeys(keys))
    named = protocol.labels([dict(settings) for settings, _ in distinct], [chosen for _, chosen in distinct])
    return [named[distinct.index(key)] for key in keys]


def _rows(run: Run, method: str) -> Iterator[tuple[Any, ...]]:
    env = (protocol.env_name(run), protocol.title(run))
    combiner = _chosen(run, "combiner") or run.config["combiner"]["_target_"].rpartition(".")[2]
    for seed, curve in run.curves.items():
        for step, task, values in _cells(curve, run.tasks):
            yield str(run.folder), *env, combiner, method, seed, step, task, *values, seed in run.halted


def _chosen(run: Run, group: str) -> str | None:
    """The name of the yaml file; None of versions that did not store it."""
    choices = run.config.get("choices")
    return choices.get(group) if isinstance(choices, dict) else None


def _cells(curve: Curve, tasks: Sequence[str]) -> Iterator[tuple[int, str, tuple[Any, ...]]]:
    for row, step in enumerate(curve.steps.tolist()):
        shared = (int(curve.episodes[row]), float(curve.wall_seconds[row]))
        for column, task in enumerate(tasks):
            yield step, task, (float(curve.success[row, column]), float(curve.returns[row, column]), *shared)
