"""What a run folder holds and whether a run can go on in it: the logic that sweeps and `resume=auto` share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from mtrl_conic.envs.environments import VectorConfig
from mtrl_conic.runs.checkpoint import Checkpoints
from mtrl_conic.runs.lock import RunLocked, lock
from mtrl_conic.runs.records import read_records
from mtrl_conic.settings.changeable import is_changeable, refusal
from mtrl_conic.settings.compose import load_stored, typed
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.parts import with_defaults
from mtrl_conic.settings.schema import TrainConfig


class Stage(Enum):
    """How far a run is."""

    ABSENT = "not begun"
    UNSTARTED = "killed before its first checkpoint"
    BEGUN = "to be resumed"
    COMPLETE = "done"


def stage(run_dir: Path, seeds: Sequence[int], steps_per_task: int) -> Stage:
    """How far the run in a folder is, from its files' names and its evaluations alone.

    A run is complete when every seed has an evaluation at `steps_per_task` or later and so has the newest checkpoint;
    a run whose checkpoints were deleted afterwards stays complete.

    Raises:
        ConfigError: the folder holds something else, or evaluations without a checkpoint to go on from.
    """
    names = set(os.listdir(run_dir)) if os.path.isdir(run_dir) else set()
    if not names and (os.path.isdir(run_dir) or not os.path.lexists(run_dir)):
        return Stage.ABSENT
    newest = max(Checkpoints(run_dir / "checkpoints").steps(), default=None)
    evaluated = {line.get("seed") for line in _lines(run_dir, "evaluations") if line["step"] >= steps_per_task}
    if set(seeds) <= evaluated and (newest is None or newest >= steps_per_task):
        return Stage.COMPLETE
    if newest is not None and "config.yaml" in names:
        return Stage.BEGUN
    if not names or names - _OWN_FILES:
        raise ConfigError(f"run_dir={run_dir}: exists and is not a run folder; choose another")
    if any(_lines(run_dir, name) for name in ("evaluations", "metrics")):
        raise ConfigError(f"run_dir={run_dir}: has records but no checkpoint to go on from; move it away to start anew")
    return Stage.UNSTARTED


# All that a run writes before its first checkpoint is whole, and what is there for a moment only.
_WRITTEN = ("config.yaml", "provenance.json", "evaluations.jsonl", "metrics.jsonl")
_OWN_FILES = {
    *(".lock", "checkpoints", "tensorboard", "wandb"),
    *(file for name in _WRITTEN for file in (name, f".{name}.tmp", f"{Path(name).stem}.tmp")),  # the last: of old
}


def look(config: TrainConfig) -> Stage:
    """How far the run of `config` is in its `run_dir`; nothing is changed.

    Raises:
        ConfigError: the run there has other settings, or see `stage`.
    """
    assert config.run_dir is not None
    run_dir = Path(config.run_dir)
    found = stage(run_dir, config.seeds, config.steps_per_task)
    if found in (Stage.BEGUN, Stage.COMPLETE):
        _check_same(config, run_dir)
        check_length(config)
    return found


def check_length(config: TrainConfig, start: int | None = None) -> None:
    """Refuse to end a run before the step where it is: its numbers would stand under another length than theirs.

    A run that was to be longer cannot end at its very step either, as the last evaluation was not a final one.

    Args:
        config: settings of the run in its `run_dir`, with the new length.
        start: the step of an earlier checkpoint that it goes back to.

    Raises:
        ConfigError: `steps_per_task` is too low.
    """
    assert config.run_dir is not None
    run_dir, at_once = Path(config.run_dir), config.vector.steps_per_decision
    evaluated = [line["step"] for line in _lines(run_dir, "evaluations")]
    step = max(Checkpoints(run_dir / "checkpoints").steps() or evaluated, default=0) if start is None else start
    end = -(-config.steps_per_task // at_once) * at_once  # vector steps are whole
    before = typed(load_stored(run_dir)).steps_per_task
    if step > end or (step == end and config.steps_per_task < before):
        raise ConfigError(
            f"steps_per_task={config.steps_per_task}: the run in {run_dir} is at step {step} of {before} already;"
            f" must be {'more' if step < before else f'at least {step}'}"
        )


def prepare(config: TrainConfig) -> Stage:
    """`look`, and remove what a run killed before its first checkpoint left.

    Raises:
        ConfigError: as `look`, or another process works in the folder.
    """
    found = look(config)
    if found is Stage.UNSTARTED:
        assert config.run_dir is not None
        _clear(Path(config.run_dir))
    return found


def _clear(run_dir: Path) -> None:
    try:
        descriptor = lock(run_dir)
    except RunLocked as error:
        raise ConfigError(f"run_dir={error}") from error
    try:
        for path in run_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    finally:
        os.close(descriptor)


def _check_same(config: TrainConfig, run_dir: Path) -> None:
    before = typed(load_stored(run_dir))
    if before.combiner.get("_target_") != config.combiner.get("_target_"):
        raise ConfigError(f"{run_dir}: {refusal('combiner', config.combiner_name, before.combiner_name, before.agent)}")
    stored, wanted = (dict(_flat(_whole(each))) for each in (before, config))
    for key in [*wanted, *(key for key in stored if key not in wanted)]:
        compared = key != "run_dir" and not key.startswith("choices.") and not is_changeable(key, before.agent)
        if compared and stored.get(key) != wanted.get(key):
            raise ConfigError(f"{run_dir}: {refusal(key, wanted.get(key), stored.get(key), before.agent)}")


def _whole(config: TrainConfig) -> dict[str, Any]:
    """All settings, also those of environments, agent and combiners that a version did not know yet."""
    settings = asdict(config)
    settings |= {key: with_defaults(settings[key]) for key in ("env", "agent", "combiner")}
    settings["env"] = asdict(VectorConfig()) | settings["env"]
    settings["combiners"] = {network: with_defaults(own) for network, own in config.combiners.items()}
    return settings


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _lines(run_dir: Path, name: str) -> list[dict[str, Any]]:
    path = run_dir / f"{name}.jsonl"
    return read_records(path) if path.is_file() else []
