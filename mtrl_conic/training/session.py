"""One process's work on a run: its folder opened, the training, how it ended."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from mtrl_conic.envs.vector import WorkerError
from mtrl_conic.runs.checkpoint import NEWEST, CheckpointError, Checkpoints, Start
from mtrl_conic.runs.files import WriteError
from mtrl_conic.runs.folder import open_run
from mtrl_conic.runs.stage import Stage, prepare, stage
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.system.capture import CaptureError
from mtrl_conic.system.foreign import exited
from mtrl_conic.system.signals import Signals
from mtrl_conic.training.seed_watch import HaltedSeed, read_halted
from mtrl_conic.training.summary import starting, too_short
from mtrl_conic.training.trainer import AllHaltedError, Trainer


def train(
    config: TrainConfig,
    resume: bool,
    stopped: Signals,
    started: float | None = None,
    start: Start = NEWEST,
) -> int:
    """Train in the run folder of `config` and say on standard error what ended it, if not its last step.

    Args:
        config: settings, already validated.
        resume: go on with what the folder holds.
        stopped: looked at each step.
        started: when `max_wall_seconds` began, in `time.perf_counter`; by default now.
        start: which checkpoint to go on from.

    Returns:
        The exit status: 0 done or out of `max_wall_seconds`, 128 + n stopped by a signal, 1 anything else, also a run
        of which a seed stopped learning.

    Raises:
        ConfigError: the folder cannot be used, or no checkpoint of it.
    """
    started = time.perf_counter() if started is None else started
    try:
        return _train(config, resume, stopped, started, start)
    except WriteError as error:
        print(f"error: {error}; {_way_on(config.run_dir)}", file=sys.stderr)
    except _Failed as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def _way_on(run_dir: str | None) -> str:
    """What to do after a disk that was full."""
    if run_dir is None or not Path(run_dir, "config.yaml").is_file():
        return "nothing was begun: make room, and start again"
    newest = max(Checkpoints(Path(run_dir, "checkpoints")).steps(), default=0)
    return f"make room, and resume={run_dir} goes on from step {newest}"


class _Failed(RuntimeError):
    """A run that ended as it should not; the message is a line for the user."""


def _train(config: TrainConfig, resume: bool, stopped: Signals, started: float, start: Start) -> int:
    with open_run(config, resume) as run_dir:
        print(f"run folder: {run_dir}\n{starting(config)}", flush=True)
        if warning := too_short(config):
            print(warning, file=sys.stderr)
        trainer = _made_trainer(config, run_dir, resume, start)
        begun, start_up = trainer.step, time.perf_counter() - started
        print(f"started after {start_up:.0f} s, at step {begun} of {config.steps_per_task}", flush=True)
        complete = _run(trainer, run_dir, stopped, started)
        if not complete:
            if trainer.step == begun and not stopped():
                print(_no_step(config, trainer.step, start_up), file=sys.stderr)
            print(f"stopped at step {trainer.step}; continue with resume={run_dir}", file=sys.stderr)
        if stopped.received and not complete:
            return 128 + stopped.received
        return _name_halted(trainer.seed_watch.halted.values())


def _made_trainer(config: TrainConfig, run_dir: Path, resume: bool, start: Start) -> Trainer:
    try:
        return Trainer(config, run_dir, resume, start)
    except CheckpointError as error:
        raise ConfigError(f"resume={run_dir}: {error}") from error
    except ConfigError:
        if not resume:  # all that is in the folder was written by this process, and nobody has use for it
            shutil.rmtree(run_dir, ignore_errors=True)
        raise
    except AllHaltedError as error:
        raise _Failed(f"resume={run_dir}: {error}; {_go_back(run_dir)}") from error
    except WorkerError as error:
        raise _Failed(str(error)) from error
    except SystemExit as error:
        raise _Failed(exited(error)) from error


def _run(trainer: Trainer, run_dir: Path, stopped: Signals, started: float) -> bool:
    """Train; gives whether the run is complete."""
    try:
        return trainer.run(stopped, started)
    except AllHaltedError as error:
        raise _Failed(f"{error}; {_go_back(run_dir)}") from error
    except WorkerError as error:
        raise _Failed(f"{error}; a checkpoint was written: resume={run_dir}") from error
    except SystemExit as error:
        raise _Failed(f"{exited(error)}; resume={run_dir} goes on from its last checkpoint") from error
    except CaptureError as error:
        hint = f"use resume={run_dir} cuda_graphs=false"
        raise _Failed(f"a CUDA graph cannot be recorded ({error}); {hint}") from error
    finally:
        trainer.close()


def _no_step(config: TrainConfig, step: int, start_up: float) -> str:
    """What a job that is queued again and again must not keep to itself."""
    limit = config.max_wall_seconds or 0.0
    reason = f"starting took {start_up:.0f} s" if start_up >= limit else f"the evaluation at step {step} did not end"
    return f"max_wall_seconds={limit:g}: no step was made, as {reason}; with no more time the run never goes on"


def resume(config: TrainConfig, stopped: Signals, started: float | None = None, start: Start = NEWEST) -> int:
    """`train` on in the folder of a run, from `start`.

    Raises:
        ConfigError: as `train`, or the folder has records and no checkpoint, which a new start would remove, or none of
            the step asked for.
    """
    run_dir = Path(str(config.run_dir))
    checkpoints = Checkpoints(run_dir / "checkpoints")
    steps = checkpoints.steps()
    if start.step is not None and start.step not in steps:
        there_are = ", ".join(map(str, sorted(steps))) or "none"
        raise ConfigError(f"resume_from={start.step}: no such checkpoint; there are those of step {there_are}")
    if not steps and stage(run_dir, config.seeds, config.steps_per_task) is Stage.COMPLETE:
        if checkpoints.folder.is_dir():
            raise ConfigError(f"resume={run_dir}: no usable checkpoint in {checkpoints.folder}")
        return _leave(config)
    return train(config, True, stopped, started, start)


def _leave(config: TrainConfig) -> int:
    print(f"complete: {config.run_dir}", flush=True)
    return _name_halted(read_halted(Path(str(config.run_dir))))


def _name_halted(halted: Iterable[HaltedSeed]) -> int:
    """Say which seeds stopped learning before the end; returns the exit status."""
    lines = [f"error: {seed}; its results since are those of its last finite weights" for seed in halted]
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


def _go_back(run_dir: Path) -> str:
    step = Checkpoints(run_dir / "checkpoints").last_healthy()
    if step is None:
        return "no checkpoint is left of before"
    return f"resume={run_dir} resume_from={step} goes back to the last checkpoint before it"


def train_or_resume(config: TrainConfig, stopped: Signals, started: float | None = None) -> int:
    """`train` a new run, or go on with what `config.run_dir` holds; a complete one is left as it is.

    Raises:
        ConfigError: as `train`, or the folder holds another run.
    """
    found = prepare(config)
    if found is Stage.COMPLETE:
        return _leave(config)
    return train(config, found is Stage.BEGUN, stopped, started)
