"""The training command: `python -m mtrl_conic.train env=mt10 combiner=conicgrad`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtrl_conic.system import console

USAGE = """\
usage: python -m mtrl_conic.train [--config-dir DIR] [key=value ...]
       python -m mtrl_conic.train resume=RUN_DIR [key=value ...]
       python -m mtrl_conic.train --multirun key=value,value ... [hydra/launcher=NAME] [hydra.sweep.dir=DIR]

Trains one multi-task SAC agent per seed and writes records, TensorBoard files and checkpoints into a run folder.

choices
  env={envs}
  combiner={combiners}
  experiment={experiments}
  agent={agents}

settings (default)
  seeds=[0,1,...] ([0])          one agent per seed, all in one process
  steps_per_task=N (2000000)     environment steps per task
  env.task=NAME                  the task of env=mt1, which needs it
  env.tasks=[NAME,...]           some tasks of another env; for env=gym ids such as [Pendulum-v1] (docs/environments.md)
  env.num_envs_per_task=N (1)    env.workers=N (as many as cores)
  combiner.NAME=VALUE            a setting of the method, such as combiner.c=0.5
  agent.NAME=VALUE               such as agent.gradient_scope=shared|all
  eval.every=N (10000)           eval.episodes=N (5)  eval.final_episodes=N (50)
  device=auto|cpu|cuda (auto)    run_dir=PATH (a fresh folder under runs/)
  threads=N                      of the updates on the CPU (by the size of their work, at most the cores)
  max_wall_seconds=N             stop with a checkpoint so long after the command was started
  matmul_precision=highest|high|medium (highest; high is TF32 on a GPU)
  logger=wandb (null)            Weights & Biases beside TensorBoard and the records
All settings with their meaning: configs/train.yaml and the folders beside it.

resume=RUN_DIR uses the stored settings; steps_per_task, device, threads, cuda_graphs, env.workers, eval.*,
max_wall_seconds and logger may be given anew. resume=auto run_dir=RUN_DIR with the whole command starts the run, or
goes on with it. Paths are taken as the shell passes them, with ~ for the home folder.
resume=RUN_DIR resume_from=STEP goes back to an earlier checkpoint, say of before a seed stopped learning; what came
later is removed.
resume=RUN_DIR replay=partial goes on without transitions that are lost with a damaged file, where nothing else is left.
--config-dir adds a folder of your own, so that DIR/combiner/mine.yaml becomes combiner=mine, and so
for env, agent and experiment. --multirun (-m) does one
run for each combination of values and, started again with the same hydra.sweep.dir, what is missing: docs/sweeps.md.

exit status: 0 done or out of max_wall_seconds, 2 bad input, 129, 130 or 143 interrupted (with a checkpoint), 1 other
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    started = time.perf_counter()  # before torch is imported, which may take seconds
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    from mtrl_conic.runs.files import WriteError
    from mtrl_conic.settings.errors import ConfigError

    try:
        command = _split(arguments)
        if command is None:
            print(_usage(), end="")
            return 0
        from mtrl_conic.video.recording import drawing_elsewhere

        with drawing_elsewhere():  # training draws nothing
            return _run(command, started)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except WriteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


@dataclass
class _Command:
    """A command line taken apart."""

    config_dirs: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    resume: str | None = None
    resume_from: int | None = None
    replay: str | None = None
    multirun: bool = False


def _run(command: _Command, started: float) -> int:
    from mtrl_conic.settings.compose import compose_config, resume_config
    from mtrl_conic.settings.errors import ConfigError

    _check_start(command)
    if command.multirun:
        from mtrl_conic.training.multirun import multirun

        if command.resume is not None:
            raise ConfigError(f"resume={command.resume}: not with --multirun, which resumes what is in hydra.sweep.dir")
        return multirun(command.overrides, command.config_dirs)

    from mtrl_conic.runs.checkpoint import Start
    from mtrl_conic.runs.records import check_logger
    from mtrl_conic.runs.stage import check_length
    from mtrl_conic.system.signals import Signals
    from mtrl_conic.training.session import resume, train, train_or_resume

    stopped = Signals()
    if command.resume is not None and command.resume != "auto":
        start = Start(command.resume_from, command.replay is not None)
        config = resume_config(command.resume, command.overrides, command.config_dirs)
        check_logger(config.logger)
        check_length(config, start.step)
        return resume(config, stopped, started, start)
    config = compose_config(command.overrides, command.config_dirs)
    check_logger(config.logger)
    if command.resume is None:
        return train(config, False, stopped, started)
    if config.run_dir is None:
        raise ConfigError("resume=auto: needs run_dir=..., the folder to go on in or to start")
    return train_or_resume(config, stopped, started)


def _check_start(command: _Command) -> None:
    """Nothing is given up unless a person asks for it, for one run and once."""
    from mtrl_conic.settings.errors import ConfigError

    if command.replay not in (None, "partial"):
        raise ConfigError(f"replay={command.replay}: must be partial")
    for key, value in (("replay", command.replay), ("resume_from", command.resume_from)):
        if value is not None and (command.resume in (None, "auto") or command.multirun):
            raise ConfigError(f"{key}={value}: only with resume=RUN_DIR")


def _split(arguments: list[str]) -> _Command | None:
    """The command; None when help is asked for."""
    from mtrl_conic.settings.errors import ConfigError

    command = _Command()
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in ("-h", "--help"):
            return None
        if flag in ("-m", "--multirun"):
            command.multirun = True
        elif flag in ("--config-dir", "-cd"):
            command.config_dirs.append(value if equals else next(rest, ""))
        elif flag.startswith("-"):
            raise ConfigError(f"{argument}: no such option; there are --config-dir, --multirun and --help")
        elif flag == "resume":
            command.resume = value
        elif flag == "resume_from":
            command.resume_from = _step(argument, value)
        elif flag == "replay":
            command.replay = value
        else:
            command.overrides.append(argument)
    return command


def _step(argument: str, value: str) -> int:
    from mtrl_conic.settings.errors import ConfigError

    if not (value.isascii() and value.isdecimal()):
        raise ConfigError(f"{argument}: must be the step of a checkpoint of the run, such as 10000")
    return int(value)


def _usage() -> str:
    from mtrl_conic.settings.compose import CONFIG_DIR

    choices = {
        f"{group}s": "|".join(sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")))
        for group in ("env", "combiner", "experiment", "agent")
    }
    return USAGE.format(**choices)


if __name__ == "__main__":
    sys.exit(console.run(main))
