"""Composition of a run's settings by Hydra, with one clear line for whatever cannot be used."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtrl_conic.config import ConfigError, EvalConfig, TrainConfig, first_line, validate
from mtrl_conic.envs import EnvConfig
from mtrl_conic.learner import AgentConfig

_PACKAGE = Path(__file__).resolve().parent
CONFIG_DIR = next(path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir())

# What `resume` may change; a name that ends in a dot stands for all settings below it.
CHANGEABLE = ("steps_per_task", "device", "cuda_graphs", "env.workers", "eval.", "max_wall_seconds", "logger")


def compose_config(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> TrainConfig:
    """Compose and check the settings of a new run.

    Args:
        overrides: as on the command line, `key=value`.
        config_dirs: folders searched beside the package's own, for a user's `combiner/<name>.yaml`.

    Raises:
        ConfigError: something cannot be used.
    """
    config = typed(_compose(overrides, config_dirs))
    validate(config)
    return config


def resume_config(folder: str, overrides: Sequence[str]) -> TrainConfig:
    """The stored settings of a run with the changes that `CHANGEABLE` allows.

    Raises:
        ConfigError: the stored settings cannot be read, or an override differs from them elsewhere.
    """
    run_dir = Path(folder)
    stored = load_stored(run_dir)
    for override in parse(overrides):
        key, value = override.key_or_group, override.value()
        _change(stored, key, value)
    config = typed(stored)
    config.run_dir = str(run_dir)
    validate(config)
    return config


def load_stored(run_dir: Path, key: str = "resume") -> DictConfig:
    """The stored `config.yaml` of a run folder; `key` is what the user named the folder with.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{key}={run_dir}: not a run folder, it has no config.yaml")
    try:
        stored = OmegaConf.load(path)
    except Exception as error:  # any parser error means the same to the user
        raise ConfigError(f"{key}={run_dir}: config.yaml cannot be read: {first_line(error)}") from error
    if not isinstance(stored, DictConfig):
        raise ConfigError(f"{key}={run_dir}: config.yaml holds no settings")
    return stored


def typed(config: DictConfig) -> TrainConfig:
    """Convert to the schema; a misspelt key or a value of the wrong type is a `ConfigError`."""
    try:
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        _accept_whole_floats(plain, TrainConfig)
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), plain)
        result = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain_type_error(error, config)) from error
    assert isinstance(result, TrainConfig)
    return result


def _compose(overrides: Sequence[str], config_dirs: Sequence[str]) -> DictConfig:
    search = search_path(config_dirs)
    parse(overrides)
    with clear_errors(), hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra.compose("train", [*overrides, *search])


def search_path(config_dirs: Sequence[str]) -> list[str]:
    """The override that has Hydra search the folders, if any.

    Raises:
        ConfigError: one of them does not exist.
    """
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise ConfigError(f"--config-dir {folder}: no such folder")
    folders = ",".join(Path(folder).resolve().as_uri() for folder in config_dirs)
    return [f"hydra.searchpath=[{folders}]"] if folders else []


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what Hydra says of a composition that fails into a `ConfigError` of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain_composition(error)) from error


def parse(overrides: Sequence[str], sweeps: bool = False) -> list[Override]:
    """Parse overrides; several values a setting only where `sweeps` says so.

    Raises:
        ConfigError: one is not of the form key=value.
    """
    parser = OverridesParser.create()
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except HydraException as error:
            raise ConfigError(f"{text}: not of the form key=value") from error
        if parsed[-1].is_sweep_override() and not sweeps:
            raise ConfigError(f"{text}: one value a setting; with --multirun each is a run of its own")
    return parsed


def is_changeable(key: str) -> bool:
    """Whether `resume` may change the setting."""
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in CHANGEABLE)


def refusal(key: str, value: Any, stored: Any) -> str:
    """The line that refuses another value than the stored one."""
    names = ", ".join(name + "*" if name.endswith(".") else name for name in CHANGEABLE)
    has = "" if stored is _MISSING else f", the run has {stored}"
    return f"{key}={value}: cannot change on resume{has}; only {names} can"


def _change(stored: DictConfig, key: str, value: Any) -> None:
    if is_changeable(key):
        if OmegaConf.select(stored, key, default=_MISSING) is _MISSING and key not in _known_keys():
            raise ConfigError(_unknown_key(key))
        OmegaConf.update(stored, key, value, force_add=True)
        return
    current = OmegaConf.select(stored, key, default=_MISSING)
    if isinstance(current, DictConfig):  # a group such as combiner=ls: compare what was chosen
        same = any(str(current.get(name, "")).rpartition(".")[2].lower() == value for name in ("name", "_target_"))
        current = current.get("name", current.get("_target_"))
    else:
        same = current == value
    if current is _MISSING and key != "experiment":
        raise ConfigError(_unknown_key(key))
    if not same:
        raise ConfigError(refusal(key, value, current))


_MISSING = object()
_SWEEP = 'pip install "mtrl_conic[sweep]"'
_LAUNCHERS = {
    **dict.fromkeys(("joblib", "submitit_local", "submitit_slurm"), _SWEEP),
    "ray": 'pip install "mtrl_conic[ray]", then pip install --no-deps hydra-ray-launcher',
}


def _accept_whole_floats(plain: Any, schema: Any) -> None:
    """Let 2e6 stand where an integer is meant."""
    for entry in dataclasses.fields(schema):
        value = plain.get(entry.name) if isinstance(plain, dict) else None
        if isinstance(value, dict) and entry.name in _SECTIONS:
            _accept_whole_floats(value, _SECTIONS[entry.name])
        elif isinstance(value, float) and value.is_integer() and str(entry.type).startswith("int"):
            plain[entry.name] = int(value)


_SECTIONS = {"env": EnvConfig, "agent": AgentConfig, "eval": EvalConfig}


def _known_keys(schema: Any = TrainConfig, prefix: str = "") -> Iterator[str]:
    for entry in dataclasses.fields(schema):
        yield prefix + entry.name
        if entry.name in _SECTIONS:
            yield from _known_keys(_SECTIONS[entry.name], f"{prefix}{entry.name}.")


def _unknown_key(key: str) -> str:
    close = difflib.get_close_matches(key, [*_known_keys(), "experiment", "resume"], n=1, cutoff=0.6)
    hint = f" (did you mean {close[0]}?)" if close else "; --help lists the settings"
    return f"{key}: no such setting{hint}"


def _explain_composition(error: Exception) -> str:
    """One line out of Hydra's several."""
    text = str(error)
    if match := re.search(r"(?:Could not find|In '.*?': Could not find) '([^']+)'", text):
        group, _, name = match[1].rpartition("/")
        listed = re.search(r"Available options in '[^']+':\n((?:\t.*\n?)+)", text)
        options = ", ".join(line.strip() for line in listed[1].splitlines()) if listed else "those in configs/"
        how = _LAUNCHERS.get(name) if group == "hydra/launcher" else None
        return f"{group}={name}: no such choice; there are {options}{f'; for this one: {how}' if how else ''}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1])
    if match := re.search(r"full_key: (\S+)", text):
        return _unknown_key(match[1])
    return first_line(error)


def _explain_type_error(error: OmegaConfBaseException, config: DictConfig) -> str:
    key = str(getattr(error, "full_key", None) or "?")
    message = first_line(error)
    if "not in" in message:
        return _unknown_key(key)
    return f"{key}={OmegaConf.select(config, key)}: {message}"
