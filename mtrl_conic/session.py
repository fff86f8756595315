"""One process's work on a run: its folder opened, the training, how it ended."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mtrl_conic.capture import CaptureError
from mtrl_conic.checkpoint import CheckpointError
from mtrl_conic.config import ConfigError, TrainConfig
from mtrl_conic.continuation import Stage, prepare, stage
from mtrl_conic.envs.vector import WorkerError
from mtrl_conic.run_folder import open_run
from mtrl_conic.signals import Signals
from mtrl_conic.trainer import NonFiniteError, Trainer


def train(config: TrainConfig, resume: bool, stopped: Signals, started: float | None = None) -> int:
    """Train in the run folder of `config` and say on standard error what ended it, if not its last step.

    Args:
        started: when `max_wall_seconds` began, in `time.perf_counter`; by default now.

    Returns:
        The exit status: 0 done or out of `max_wall_seconds`, 128 + n stopped by a signal, 1 anything else.

    Raises:
        ConfigError: the folder cannot be used, or no checkpoint of it.
    """
    started = time.perf_counter() if started is None else started
    with open_run(config, resume) as run_dir:
        print(f"run folder: {run_dir}", flush=True)
        try:
            trainer = Trainer(config, run_dir, resume)
        except CheckpointError as error:
            raise ConfigError(f"resume={run_dir}: {error}") from error
        except WorkerError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        begun, start_up = trainer.step, time.perf_counter() - started
        try:
            complete = trainer.run(stopped, started)
        except (NonFiniteError, WorkerError) as error:
            print(f"error: {error}; a checkpoint was written: resume={run_dir}", file=sys.stderr)
            return 1
        except CaptureError as error:
            hint = f"use resume={run_dir} cuda_graphs=false"
            print(f"error: a CUDA graph cannot be recorded ({error}); {hint}", file=sys.stderr)
            return 1
        finally:
            trainer.close()
        if not complete:
            if trainer.step == begun and not stopped():
                print(_no_step(config, trainer.step, start_up), file=sys.stderr)
            print(f"stopped at step {trainer.step}; continue with resume={run_dir}", file=sys.stderr)
        return 128 + stopped.received if stopped.received and not complete else 0


def _no_step(config: TrainConfig, step: int, start_up: float) -> str:
    """What a job that is queued again and again must not keep to itself."""
    limit = config.max_wall_seconds or 0.0
    reason = f"starting took {start_up:.0f} s" if start_up >= limit else f"the evaluation at step {step} did not end"
    return f"max_wall_seconds={limit:g}: no step was made, as {reason}; with no more time the run never goes on"


def resume(config: TrainConfig, stopped: Signals, started: float | None = None) -> int:
    """`train` on in the folder of a run.

    Raises:
        ConfigError: as `train`, or the folder has records and no checkpoint, which a new start would remove.
    """
    run_dir = Path(str(config.run_dir))
    unsure = not (run_dir / "checkpoints").is_dir()
    if unsure and stage(run_dir, config.seeds, config.steps_per_task) is Stage.COMPLETE:
        return _leave(config)
    return train(config, True, stopped, started)


def _leave(config: TrainConfig) -> int:
    print(f"complete: {config.run_dir}", flush=True)
    return 0


def train_or_resume(config: TrainConfig, stopped: Signals, started: float | None = None) -> int:
    """`train` a new run, or go on with what `config.run_dir` holds; a complete one is left as it is.

    Raises:
        ConfigError: as `train`, or the folder holds another run.
    """
    found = prepare(config)
    if found is Stage.COMPLETE:
        return _leave(config)
    return train(config, found is Stage.BEGUN, stopped, started)
