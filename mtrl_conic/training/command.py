"""What a training command asks for: its arguments taken apart, and the run or sweep begun or gone on with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from mtrl_conic.runs.checkpoint import Start
from mtrl_conic.runs.records import check_logger
from mtrl_conic.runs.stage import Stage, check_length, stage
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.system.signals import Signals
from mtrl_conic.training.summary import summary

_FLAGS = ("--config-dir", "--multirun", "--cfg", "--no-summary")


@dataclass
class Command:
    """A command line taken apart."""

    config_dirs: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    resume: str | None = None
    resume_from: int | None = None
    replay: str | None = None
    multirun: bool = False
    show: bool = False
    summary: bool = True

    @property
    def stored(self) -> bool:
        """Whether the settings are those of a run that is gone on with."""
        return self.resume is not None and self.resume != "auto"

    def settings(self) -> TrainConfig:
        """The settings of the one run, composed and checked.

        Raises:
            ConfigError: something cannot be used.
        """
        if self.stored:
            return resume_config(str(self.resume), self.overrides, self.config_dirs)
        return compose_config(self.overrides, self.config_dirs)


def run(command: Command, started: float) -> int:
    """Do what the command asks for; returns the exit status.

    Args:
        command: as `split` gives it.
        started: when `max_wall_seconds` began, in `time.perf_counter`.

    Raises:
        ConfigError: something cannot be used.
    """
    check(command)
    if command.multirun:
        from mtrl_conic.training.multirun import multirun

        return multirun(command.overrides, command.config_dirs)
    config = command.settings()
    if command.show:
        print(OmegaConf.to_yaml(OmegaConf.structured(config)), end="")
        return 0
    was_complete = _complete(config)
    status = train(command, config, started)
    if command.summary and not was_complete and _complete(config):
        print(summary(Path(str(config.run_dir))), end="", flush=True)
    return status


def _complete(config: TrainConfig) -> bool:
    if config.run_dir is None:
        return False
    with suppress(ConfigError):  # no run, or none to go on with: whoever works in the folder says so
        return stage(Path(config.run_dir), config.seeds, config.steps_per_task) is Stage.COMPLETE
    return False


def train(command: Command, config: TrainConfig, started: float | None = None) -> int:
    """Train the run of the command; returns the exit status.

    Raises:
        ConfigError: the logger or the folder cannot be used.
    """
    from mtrl_conic.training import session

    started = time.perf_counter() if started is None else started
    stopped = Signals()
    check_logger(config.logger)
    if command.stored:
        start = Start(command.resume_from, command.replay is not None)
        check_length(config, start.step)
        return session.resume(config, stopped, started, start)
    if command.resume is None:
        return session.train(config, False, stopped, started)
    if config.run_dir is None:
        raise ConfigError("resume=auto: needs run_dir=..., the folder to go on in or to start")
    return session.train_or_resume(config, stopped, started)


def check(command: Command) -> None:
    """Nothing is given up unless a person asks for it, for one run and once.

    Raises:
        ConfigError: arguments do not go together.
    """
    if command.replay not in (None, "partial"):
        raise ConfigError(f"replay={command.replay}: must be partial")
    for key, value in (("replay", command.replay), ("resume_from", command.resume_from)):
        if value is not None and (not command.stored or command.multirun):
            raise ConfigError(f"{key}={value}: only with resume=RUN_DIR")
    if command.multirun and command.resume is not None:
        raise ConfigError(f"resume={command.resume}: not with --multirun, which resumes what is in hydra.sweep.dir")
    if command.multirun and command.show:
        raise ConfigError("--cfg: not with --multirun, whose runs differ; give it the settings of one")


def split(arguments: Sequence[str]) -> Command:
    """Take the arguments of a command apart.

    Raises:
        ConfigError: there is no such option, or one is not as it must be.
    """
    command = Command()
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in ("-m", "--multirun"):
            command.multirun = True
        elif flag == "--cfg":
            command.show = True
        elif flag == "--no-summary":
            command.summary = False
        elif flag in ("--config-dir", "-cd"):
            command.config_dirs.append(value if equals else next(rest, ""))
        elif flag.startswith("-"):
            raise ConfigError(f"{argument}: no such option; there are {', '.join(_FLAGS)} and --help")
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
    if not (value.isascii() and value.isdecimal()):
        raise ConfigError(f"{argument}: must be the step of a checkpoint of the run, such as 10000")
    return int(value)
