"""`--multirun`: the runs that Hydra's sweep syntax lists, given to one of Hydra's launchers.

Hydra composes the settings and its launchers start the runs. In between, each run's settings are checked, and runs that
are complete in the sweep's folder are left out: the same command, started again, does what is missing.
"""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mtrl_conic.runs.files import write_whole
from mtrl_conic.runs.outputs import check_folder
from mtrl_conic.runs.records import check_logger
from mtrl_conic.runs.stage import Stage, look
from mtrl_conic.settings.aliases import shortened
from mtrl_conic.settings.compose import (
    CONFIG_DIR,
    chosen_of,
    clear_errors,
    search_path,
    typed,
    validate_composed,
    without_hydra,
)
from mtrl_conic.settings.errors import ConfigError, first_line
from mtrl_conic.settings.overrides import as_hydra_has_them, parse, quote
from mtrl_conic.settings.paths import expand
from mtrl_conic.settings.schema import TrainConfig, validate
from mtrl_conic.system import console
from mtrl_conic.system.signals import Signals
from mtrl_conic.training.seed_watch import read_halted
from mtrl_conic.training.session import train_or_resume
from mtrl_conic.training.sweep_runs import SweepRun


@dataclass(frozen=True)
class Plan:
    """One run of a sweep: the overrides that give its settings, these, and how far it is."""

    overrides: list[str]
    config: TrainConfig
    stage: Stage


class Stopped(BaseException):
    """A signal ended the sweep; no `Exception`, so that launchers do not go on with the next run."""


def multirun(overrides: Sequence[str], config_dirs: Sequence[str]) -> int:
    """Do what is missing of a sweep; returns the exit status.

    Args:
        overrides: as on the command line, with Hydra's sweep syntax (`combiner=ls,conicgrad seeds=[0],[1]`).
        config_dirs: folders searched beside the package's own.

    Raises:
        ConfigError: a run, the launcher or the sweep's folder cannot be used; nothing was written.
        WriteError: the disk is full.
    """
    search = search_path(config_dirs)
    overrides = as_hydra_has_them(overrides)
    names = _names_of_folders(overrides)
    with hydra.initialize_config_dir(str(CONFIG_DIR), job_name="mtrl_conic", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        with clear_errors(overrides, config_dirs):
            master = loader.load_configuration("train", [*overrides, *search, *names], RunMode.MULTIRUN)
            folder = str(master.hydra.sweep.dir)
            if folder.startswith("~"):  # in a yaml file; the runs are composed with this override, too
                names.append(f"hydra.sweep.dir={quote(expand(folder))}")
                master = loader.load_configuration("train", [*overrides, *search, *names], RunMode.MULTIRUN)
            launcher = _launcher(loader, master)
        runs = _runs(loader, master, config_dirs)
        return _launch(launcher, master, runs)


def launch_listed(runs: Sequence[SweepRun], folder: str, settings: Sequence[str]) -> int:
    """Have a launcher do what is missing of runs that are listed one by one; returns the exit status.

    Args:
        runs: as `list_runs` has them, at least one.
        folder: of the sweep.
        settings: that choose the launcher and set it up, `hydra/launcher=` and `hydra.launcher.`.

    Raises:
        ConfigError: the launcher or a run's folder cannot be used; nothing was written.
        WriteError: the disk is full.
    """
    for text in settings:
        if not text.lstrip("+~").startswith(("hydra/launcher=", "hydra.launcher.")):
            raise ConfigError(f"{text}: of Hydra's settings only hydra/launcher=... and hydra.launcher.<setting>=...")
    parse(settings, sweeps=True)
    config_dirs = runs[0].flags[1::2]
    plans = [
        Plan([*as_hydra_has_them(run.settings), f"hydra.sweep.subdir={quote(run.name)}"], run.config, look(run.config))
        for run in runs
    ]
    given = [*settings, f"hydra.sweep.dir={quote(folder)}", *search_path(config_dirs)]
    with hydra.initialize_config_dir(str(CONFIG_DIR), job_name="mtrl_conic", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        with clear_errors(settings, config_dirs):
            master = loader.load_configuration("train", given, RunMode.MULTIRUN)
            launcher = _launcher(loader, master)
        return _launch(launcher, master, plans, shared=False)


def run_one(settings: DictConfig) -> int:
    """Train or resume one run, in whatever process the launcher chose; returns the exit status."""
    console.protect()
    stopped = _signals()
    if stopped():
        raise Stopped
    folder = HydraConfig.get().runtime.output_dir
    try:
        config = typed(settings, chosen_of(HydraConfig.get().runtime.choices))
        config.run_dir = folder
        validate(config)
        check_logger(config.logger)
        with _command_line([*_config_dirs(), *HydraConfig.get().overrides.task, f"run_dir={folder}"]):
            status = train_or_resume(config, stopped)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception:  # one broken run must not end the others
        traceback.print_exc()
        return 1
    if stopped():
        raise Stopped
    return status


@functools.cache
def _signals() -> Signals:
    """One per process: the runs of a sweep may share it."""
    return Signals()


def _config_dirs() -> list[str]:
    """The user's own folders, as the command line has them."""
    folders = [str(folder).removeprefix("file://") for folder in HydraConfig.get().searchpath or ()]
    return [word for folder in folders for word in ("--config-dir", folder)]


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Let the provenance say how to start this run alone."""
    before = sys.argv
    sys.argv = [str(Path(__file__).parent.parent / "train.py"), *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _names_of_folders(overrides: Sequence[str]) -> list[str]:
    """Run folders are named by what differs, and by combiner and seeds wherever they are given."""
    parsed = parse(overrides, sweeps=True)
    for override in parsed:
        if override.key_or_group == "run_dir":
            raise ConfigError(f"run_dir={override.value()}: with --multirun the folder is hydra.sweep.dir=...")
    same = [
        override.key_or_group
        for override in parsed
        if not override.is_sweep_override() and override.key_or_group not in ("combiner", "seeds")
    ]
    keys = ",".join(key for key in same if not key.startswith(("hydra.", "hydra/")))
    return [f"hydra.job.config.override_dirname.exclude_keys=[{keys}]"]


def _launcher(loader: ConfigLoader, master: DictConfig) -> Launcher:
    target = str(master.hydra.launcher._target_)
    if target.endswith("SlurmLauncher") and shutil.which("srun") is None:
        raise ConfigError("hydra/launcher=submitit_slurm: there is no srun on this machine; start on a login node")
    context = HydraContext(config_loader=loader, callbacks=Callbacks(master))
    try:
        return Plugins.instance().instantiate_launcher(context, run_one, master)
    except ImportError as error:
        raise ConfigError(f"hydra/launcher: {first_line(error)}") from error


def _runs(loader: ConfigLoader, master: DictConfig, config_dirs: Sequence[str]) -> list[Plan]:
    """All runs, each composed and checked."""
    if not str(master.hydra.sweeper._target_).endswith(".BasicSweeper"):
        raise ConfigError("hydra/sweeper: only basic; runs are listed before the first one starts")
    params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
    runs: dict[str, Plan] = {}
    for number, overrides in enumerate(_products([*params, *master.hydra.overrides.task], loader)):
        parsed = parse(overrides, sweeps=True)
        with clear_errors(overrides, config_dirs):
            settings = loader.load_sweep_config(master, overrides)
            with open_dict(settings):
                settings.hydra.job.num = settings.hydra.job.id = number
            HydraConfig.instance().set_config(settings)  # for interpolations such as ${hydra:job.num}
            name = _folder_name(settings)
        if name in runs:
            raise ConfigError(f"hydra.sweep.subdir: two runs would share the folder {name}")
        config = typed(*without_hydra(settings))
        config.run_dir = str(Path(str(master.hydra.sweep.dir), name))
        validate_composed(config, parsed, config_dirs)
        check_logger(config.logger)
        runs[name] = Plan([*overrides, f"hydra.sweep.subdir={quote(name)}"], config, look(config))
    return list(runs.values())


def _folder_name(settings: DictConfig) -> str:
    """The folder of a run: named by what differs, without characters that shells mind, or as the user has it."""
    name = str(settings.hydra.sweep.subdir)
    if name == str(settings.hydra.job.override_dirname):
        name = re.sub(r"[+\w@.]+(?==)", lambda key: shortened(key[0]), name)
        name = re.sub(r"[^\w.=,+/-]", "", name)
    return name or "run"


def _products(overrides: Sequence[str], loader: ConfigLoader) -> Iterator[list[str]]:
    """Each combination of the values, as Hydra's basic sweeper has them; a key's last mention counts."""
    values: dict[str, list[str]] = {}
    for override in parse(overrides, sweeps=True, loader=loader):
        key = override.get_key_element()
        if not override.is_sweep_override():
            texts = [override.get_value_element_as_str()]
        elif override.is_discrete_sweep():
            texts = list(override.sweep_string_iterator())
        else:
            raise ConfigError(f"{override.input_line}: a list of values, such as {key}=1,2, or range(0,3)")
        if not texts:
            raise ConfigError(f"{override.input_line}: stands for no value at all")
        values[key] = [f"{key}={text}" for text in texts]
    return map(list, itertools.product(*values.values()))


def _launch(launcher: Launcher, master: DictConfig, runs: list[Plan], shared: bool = True) -> int:
    """Do the missing runs; `shared` is whether `master` holds the settings that all of them share."""
    missing = [run for run in runs if run.stage is not Stage.COMPLETE]
    halted = _name_halted(run for run in runs if run.stage is Stage.COMPLETE)
    folder = Path(str(master.hydra.sweep.dir))
    print(f"sweep folder: {folder} ({len(runs)} runs, {len(runs) - len(missing)} of them complete)", flush=True)
    if not missing:
        return halted
    check_folder("hydra.sweep.dir", folder)
    if shared:
        write_whole(folder / "multirun.yaml", OmegaConf.to_yaml(master))
    in_process = str(master.hydra.launcher._target_).endswith(".BasicLauncher")
    # In this process the running run writes a checkpoint first.
    stopped = _signals() if in_process else Signals(_stop)
    try:
        results = launcher.launch([run.overrides for run in missing], 0)
    except (Stopped, KeyboardInterrupt):
        print("stopped; the same command with the same hydra.sweep.dir goes on", file=sys.stderr)
        return 128 + (stopped.received or signal.SIGINT)
    except Exception as error:  # a worker or a node was lost
        print(f"error: {type(error).__name__}: {first_line(error)}", file=sys.stderr)
        print("the same command with the same hydra.sweep.dir goes on", file=sys.stderr)
        return 1
    return _outcome(missing, [result.return_value for result in results]) or halted


def _name_halted(runs: Iterable[Plan]) -> int:
    """Say of complete runs which seeds stopped learning; returns the exit status."""
    lines = [f"{run.config.run_dir}: {seed}" for run in runs for seed in read_halted(Path(str(run.config.run_dir)))]
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return 1 if lines else 0


def _stop(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped


def _outcome(runs: list[Plan], statuses: Sequence[int]) -> int:
    failed = [(run, status) for run, status in zip(runs, statuses, strict=True) if status != 0]
    for run, status in failed:
        print(f"failed with exit status {status}: {run.config.run_dir}", file=sys.stderr)
    return 1 if failed else 0
