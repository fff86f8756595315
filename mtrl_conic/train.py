"""The training command: `python -m mtrl_conic.train env=mt10 combiner=conicgrad`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

USAGE = """\
usage: python -m mtrl_conic.train [--config-dir DIR] [key=value ...]
       python -m mtrl_conic.train resume=RUN_DIR [key=value ...]

Trains one multi-task SAC agent a seed and writes records, TensorBoard files and checkpoints into a run folder.

choices
  env={envs}
  combiner={combiners}
  experiment={experiments}
  agent={agents}

settings (default)
  seeds=[0,1,...] ([0])          one agent a seed, all in one process
  steps_per_task=N (2000000)     environment steps a task
  env.task=NAME                  the task of env=mt1
  env.num_envs_per_task=N (1)    env.workers=N (as many as cores)
  combiner.NAME=VALUE            a setting of the method, such as combiner.c=0.5
  agent.NAME=VALUE               such as agent.gradient_scope=shared|all
  eval.every=N (10000)           eval.episodes=N (5)  eval.final_episodes=N (50)
  device=auto|cpu|cuda (auto)    run_dir=PATH (a fresh folder under runs/)
  max_wall_seconds=N             stop with a checkpoint after this long
  matmul_precision=highest|high|medium (highest; high is TF32 on a GPU)
All settings with their meaning: configs/train.yaml and the folders beside it.

On resume, steps_per_task, device, cuda_graphs, env.workers, eval.* and max_wall_seconds may change. --config-dir adds a
folder of your own, so that DIR/combiner/mine.yaml becomes combiner=mine.

exit status: 0 done or out of max_wall_seconds, 2 bad input, 130 or 143 interrupted (with a checkpoint), 1 other
"""


class _Signals:
    """Remembers the first SIGINT or SIGTERM; a second one ends the process in the ordinary way."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self.received is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    from mtrl_conic.config import ConfigError

    try:
        config_dirs, resume, overrides = _split(arguments)
        if config_dirs is None:
            print(_usage(), end="")
            return 0
        return _train(config_dirs, resume, overrides)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train(config_dirs: list[str], resume: str | None, overrides: list[str]) -> int:
    from mtrl_conic.capture import CaptureError
    from mtrl_conic.checkpoint import CheckpointError
    from mtrl_conic.compose import compose_config, resume_config
    from mtrl_conic.config import ConfigError
    from mtrl_conic.envs.vector import WorkerError
    from mtrl_conic.run_folder import open_run
    from mtrl_conic.trainer import NonFiniteError, Trainer

    stopped = _Signals()
    config = compose_config(overrides, config_dirs) if resume is None else resume_config(resume, overrides)
    with open_run(config, resume is not None) as run_dir:
        print(f"run folder: {run_dir}", flush=True)
        try:
            trainer = Trainer(config, run_dir, resume is not None)
        except CheckpointError as error:
            raise ConfigError(f"resume={resume}: {error}") from error
        except WorkerError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        try:
            complete = trainer.run(stopped)
        except (NonFiniteError, WorkerError) as error:
            print(f"error: {error}; a checkpoint was written: resume={run_dir}", file=sys.stderr)
            return 1
        except CaptureError as error:
            print(
                f"error: no CUDA graph can be made ({error}); use resume={run_dir} cuda_graphs=false", file=sys.stderr
            )
            return 1
        finally:
            trainer.close()
        if not complete:
            print(f"stopped at step {trainer.step}; continue with resume={run_dir}", file=sys.stderr)
        return 128 + stopped.received if stopped.received and not complete else 0


def _split(arguments: list[str]) -> tuple[list[str] | None, str | None, list[str]]:
    """Flags, `resume` and the other overrides; None for the flags when help is asked for."""
    from mtrl_conic.config import ConfigError

    config_dirs: list[str] = []
    overrides: list[str] = []
    resume: str | None = None
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in ("-h", "--help"):
            return None, None, []
        if flag in ("--config-dir", "-cd"):
            config_dirs.append(value if equals else next(rest, ""))
        elif flag.startswith("-"):
            raise ConfigError(f"{argument}: no such option; there are --config-dir and --help")
        elif flag == "resume":
            resume = value
        else:
            overrides.append(argument)
    return config_dirs, resume, overrides


def _usage() -> str:
    from mtrl_conic.compose import CONFIG_DIR

    choices = {
        f"{group}s": "|".join(sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")))
        for group in ("env", "combiner", "experiment", "agent")
    }
    return USAGE.format(**choices)


if __name__ == "__main__":
    sys.exit(main())
