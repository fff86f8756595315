"""One process's work on a run: its folder opened, the training, how it ended."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

from mtrl_conic.capture import CaptureError
from mtrl_conic.checkpoint import CheckpointError, Checkpoints
from mtrl_conic.config import ConfigError, TrainConfig
from mtrl_conic.continuation import Stage, prepare, stage
from mtrl_conic.envs.vector import WorkerError
from mtrl_conic.files import WriteError
from mtrl_conic.run_folder import open_run
from mtrl_conic.trainer import NonFiniteError, Trainer


class Signals:
    """Remembers the first SIGINT or SIGTERM; a second one ends the process in the ordinary way.

    A handler that something else has set stays: a cluster's job runner has its own plans for SIGTERM.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler):
                signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self.received is not None


def train(config: TrainConfig, resume: bool, stopped: Signals, partial: bool = False) -> int:
    """Train in the run folder of `config` and say on standard error what ended it, if not its last step.

    Args:
        config: settings, already validated.
        resume: go on with what the folder holds.
        stopped: looked at each step.
        partial: where a part of the replay is lost, go on without it.

    Returns:
        The exit status: 0 done or out of `max_wall_seconds`, 128 + n stopped by a signal, 1 anything else.

    Raises:
        ConfigError: the folder cannot be used, or no checkpoint of it.
    """
    try:
        return _train(config, resume, stopped, partial)
    except WriteError as error:
        print(f"error: {error}; {_way_on(config.run_dir)}", file=sys.stderr)
        return 1


def _way_on(run_dir: str | None) -> str:
    """What to do after a disk that was full."""
    if run_dir is None or not Path(run_dir, "config.yaml").is_file():
        return "nothing was begun: make room, and start again"
    newest = max(Checkpoints(Path(run_dir, "checkpoints")).steps(), default=0)
    return f"make room, and resume={run_dir} goes on from step {newest}"


def _train(config: TrainConfig, resume: bool, stopped: Signals, partial: bool) -> int:
    with open_run(config, resume) as run_dir:
        print(f"run folder: {run_dir}", flush=True)
        try:
            trainer = Trainer(config, run_dir, resume, partial)
        except CheckpointError as error:
            raise ConfigError(f"resume={run_dir}: {error}") from error
        except WorkerError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        try:
            complete = trainer.run(stopped)
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
            print(f"stopped at step {trainer.step}; continue with resume={run_dir}", file=sys.stderr)
        return 128 + stopped.received if stopped.received and not complete else 0


def resume(config: TrainConfig, stopped: Signals, partial: bool = False) -> int:
    """`train` on in the folder of a run, if need be with a part of its replay only.

    Raises:
        ConfigError: as `train`, or the folder has records and no checkpoint, which a new start would remove.
    """
    run_dir = Path(str(config.run_dir))
    checkpoints = Checkpoints(run_dir / "checkpoints")
    if not checkpoints.steps() and stage(run_dir, config.seeds, config.steps_per_task) is Stage.COMPLETE:
        if checkpoints.folder.is_dir():
            raise ConfigError(f"resume={run_dir}: no usable checkpoint in {checkpoints.folder}")
        return _leave(config)
    return train(config, True, stopped, partial)


def _leave(config: TrainConfig) -> int:
    print(f"complete: {config.run_dir}", flush=True)
    return 0


def train_or_resume(config: TrainConfig, stopped: Signals) -> int:
    """`train` a new run, or go on with what `config.run_dir` holds; a complete one is left as it is.

    Raises:
        ConfigError: as `train`, or the folder holds another run.
    """
    found = prepare(config)
    if found is Stage.COMPLETE:
        return _leave(config)
    return train(config, found is Stage.BEGUN, stopped)
