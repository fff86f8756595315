"""Composition of a run's settings by Hydra, with one clear line for whatever cannot be used."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mtrl_conic.settings import explain, older, paths
from mtrl_conic.settings.aliases import shortened
from mtrl_conic.settings.changeable import MISSING, is_changeable, refusal
from mtrl_conic.settings.errors import ConfigError, UnknownSettingError, first_line
from mtrl_conic.settings.overrides import GROUPS, as_hydra_has_them, parse, quote
from mtrl_conic.settings.schema import TrainConfig, validate, with_typed_vector

CONFIG_DIR = paths.CONFIG_DIR


def compose_config(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> TrainConfig:
    """Compose and check the settings of a new run.

    Args:
        overrides: as on the command line, `key=value`.
        config_dirs: folders searched beside the package's own, for a user's `combiner/<name>.yaml`.

    Raises:
        ConfigError: something cannot be used.
    """
    overrides = as_hydra_has_them(overrides)
    search = search_path(config_dirs)
    parsed = parse(overrides)  # which says in our words what Hydra would say in its own
    with clear_errors(overrides, config_dirs):
        settings = _compose([*overrides, *search])
    config = typed(*without_hydra(settings))
    validate_composed(config, parsed, config_dirs)
    return config


def validate_composed(config: TrainConfig, overrides: Sequence[Override], config_dirs: Sequence[str] = ()) -> None:
    """`validate`; where an experiment sets what another choice does not have, the line says what to do.

    Args:
        config: composed of the overrides.
        overrides: as `parse` gives them.
        config_dirs: see `compose_config`.
    """
    try:
        validate(config)
    except UnknownSettingError as error:
        key, given = error.key, {shortened(override.get_key_element()): override.value() for override in overrides}
        names = given.get("experiment", [])
        culprit = explain.experiment_with(key, names if isinstance(names, list) else [names], config_dirs)
        if culprit is None or any(_gives(key, name, value) for name, value in given.items()):
            raise
        raise ConfigError(f"{error}; experiment={culprit} sets it, ~{key} leaves it out") from error


def _gives(key: str, name: str, value: Any) -> bool:
    """Whether an override sets that key, by itself or with others."""
    return key == name or (isinstance(value, dict) and key.startswith(f"{name}."))


def resume_config(folder: str, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> TrainConfig:
    """The stored settings of a run with the changes that `changeable` allows; `config_dirs` need only exist.

    Raises:
        ConfigError: the stored settings cannot be read, or an override differs from them elsewhere.
    """
    search_path(config_dirs)
    run_dir = _folder("resume", folder)
    stored = load_stored(run_dir)
    with _named(f"resume={run_dir}: config.yaml"):
        typed(stored)
    for override in parse(as_hydra_has_them(overrides)):
        key, value = shortened(override.get_key_element()), override.value()
        if key == "run_dir":
            if os.path.realpath(str(value)) != os.path.realpath(run_dir):
                raise ConfigError(f"run_dir={value}: cannot change on resume; the folder is resume={run_dir}")
            continue
        _change(stored, key, value)
    config = typed(stored)
    config.run_dir = str(run_dir)
    validate(config)
    return config


def _folder(key: str, text: str) -> Path:
    try:
        return Path(paths.expand(text))
    except ValueError as error:
        raise ConfigError(f"{key}={text}: {error}") from error


def load_stored(run_dir: Path, key: str = "resume") -> DictConfig:
    """The stored `config.yaml` of a run folder; `key` is what the user named the folder with.

    The folder may have been moved: the stored `run_dir` is left out. Settings of earlier versions get their present
    names, and those of versions that stored no `choices` the ones that can be told.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = run_dir / "config.yaml"
    if not os.path.isfile(path):
        raise ConfigError(f"{key}={run_dir}: not a run folder, it has no config.yaml")
    try:
        stored = OmegaConf.load(path)
        plain = OmegaConf.to_container(stored)
        if isinstance(stored, DictConfig) and isinstance(plain, dict):
            plain.setdefault("choices", _told_choices(stored))
            stored = OmegaConf.create(older.settings(plain))
    except Exception as error:  # any parser error means the same to the user
        raise ConfigError(f"{key}={run_dir}: config.yaml cannot be read: {first_line(error)}") from error
    if not isinstance(stored, DictConfig):
        raise ConfigError(f"{key}={run_dir}: config.yaml holds no settings")
    stored["run_dir"] = None
    return stored


def _told_choices(stored: DictConfig) -> dict[str, str]:
    """What the settings of a version that did not store its choices were composed of, as far as that can be told."""
    env, target = (explain.raw_value(stored, key) for key in ("env.name", "combiner._target_"))
    combiners = {explain.target_of(name): name for name in paths.choices("combiner")}
    combiner = combiners.get(target)
    found = {"env": env, "agent": "mtmhsac", "network": "multi_head", "combiner": combiner}  # there was one agent
    return {group: name for group, name in found.items() if isinstance(name, str)}


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Say of a setting that cannot be used where it is from."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def typed(config: DictConfig, choices: Mapping[str, str] | None = None) -> TrainConfig:
    """Convert to the schema; a misspelt key or a value of the wrong type is a `ConfigError`.

    Args:
        config: the settings.
        choices: what they were composed of; None where they say so themselves.
    """
    if choices is not None and "choices" in config:
        raise ConfigError(explain.unknown_key("choices"))
    try:
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        _look_at_numbers(plain, TrainConfig)
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), plain)
        result = OmegaConf.to_object(merged)
        assert isinstance(result, TrainConfig)
        result.env = with_typed_vector(result.env)
    except OmegaConfBaseException as error:
        raise ConfigError(explain.type_error(error, config)) from error
    if not all(type(number) is int for number in result.seeds):  # OmegaConf lets lists in lists pass
        raise ConfigError(explain.no_list("seeds", result.seeds))
    result.choices = result.choices if choices is None else dict(choices)
    if result.run_dir is not None:  # it may be from a yaml file
        result.run_dir = str(_folder("run_dir", result.run_dir))
    return result


def without_hydra(settings: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    """Settings as composed → those of the run, and what they were composed of."""
    chosen = settings.hydra.runtime.choices
    with open_dict(settings):
        choices = chosen_of(chosen)
        del settings["hydra"]
    return settings, choices


def chosen_of(choices: Mapping[str, Any]) -> dict[str, str]:
    """Of Hydra's choices those of ours that were made; several experiments are joined by commas."""
    made = {shortened(key): one for key, one in choices.items() if one and _is_choice(shortened(key))}
    return {group: one if isinstance(one, str) else ",".join(map(str, one)) for group, one in made.items()}


def _is_choice(key: str) -> bool:
    """Whether a name for users stands for a choice: a group, or the combiner of one network."""
    return key in GROUPS or key.endswith(".combiner")


def _compose(overrides: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra.compose("train", [*overrides], return_hydra_config=True)


def search_path(config_dirs: Sequence[str]) -> list[str]:
    """The override that has Hydra search the folders, if any.

    Raises:
        ConfigError: one of them does not exist.
    """
    folders = []
    for folder in config_dirs:
        found = _folder("--config-dir", folder)
        if not os.path.isdir(found):
            raise ConfigError(f"--config-dir {folder}: no such folder")
        folders.append(quote(f"file://{found.resolve()}"))
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []


@contextmanager
def clear_errors(overrides: Sequence[str], config_dirs: Sequence[str]) -> Iterator[None]:
    """Turn whatever a composition fails with into a `ConfigError` of one line; our own code stays outside."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # Hydra, OmegaConf and YAML have no common kind
        raise ConfigError(_explain_composition(error, overrides, config_dirs)) from error


def _change(stored: DictConfig, key: str, value: Any) -> None:
    agent = stored.get("agent") or {}
    if is_changeable(key, agent):
        if OmegaConf.select(stored, key, default=MISSING) is MISSING and key not in explain.known_keys():
            raise ConfigError(explain.unknown_key(key))
        OmegaConf.update(stored, key, value, force_add=True)
        return
    chosen = _is_choice(key)
    current = stored.choices.get(key, MISSING) if chosen else OmegaConf.select(stored, key, default=MISSING)
    if current is MISSING and not chosen:
        raise ConfigError(_unknown_in_run(key, stored))
    if current != value:
        raise ConfigError(refusal(key, value, current, agent))


def _unknown_in_run(key: str, stored: DictConfig) -> str:
    plain = OmegaConf.to_container(stored)
    assert isinstance(plain, dict)
    return explain.unknown_key(key, {str(name): value for name, value in plain.items()}, stored.choices)


def _look_at_numbers(plain: Any, schema: Any, section: str = "") -> None:
    """Let 2e6 stand where an integer is meant, and no number but 0 and 1 for true or false, as OmegaConf would."""
    for entry in dataclasses.fields(schema):
        value = plain.get(entry.name) if isinstance(plain, dict) else None
        if isinstance(value, dict) and entry.name in explain.SECTIONS:
            _look_at_numbers(value, explain.SECTIONS[entry.name], f"{entry.name}.")
        elif isinstance(value, int | float) and value not in (0, 1) and entry.type == "bool":
            raise ConfigError(f"{section}{entry.name}={value}: must be true or false")
        elif isinstance(value, float) and value.is_integer() and str(entry.type).startswith("int"):
            plain[entry.name] = int(value)


def _explain_composition(error: Exception, overrides: Sequence[str], config_dirs: Sequence[str]) -> str:
    """One line out of Hydra's several; other compositions are tried for it, so Hydra's state is not kept."""
    GlobalHydra.instance().clear()
    explanations = (explain.unknown_choice, explain.bad_merge, explain.bad_reference)
    known = next(filter(None, (explanation(error) for explanation in explanations)), None)
    if known := known or explain.bad_file(error, config_dirs):
        return explain.of_one_network(known, overrides)
    key = explain.unknown_in_composition(error)
    if key:
        return explain.unknown_key(key, *_chosen(overrides, config_dirs))
    if isinstance(error, HydraException | OmegaConfBaseException):
        return first_line(error)
    return f"{_culprit(overrides, config_dirs)}{first_line(error)}"


def _chosen(overrides: Sequence[str], config_dirs: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and choices by the groups alone, empty where they cannot be composed either."""
    keys = ("network", "critic_network")  # what an agent may lack
    chosen = ((text, shortened(text.partition("=")[0])) for text in overrides)
    groups = [text for text, key in chosen if _is_choice(key) and key not in keys]
    try:
        settings, choices = without_hydra(_compose([*groups, *search_path(config_dirs)]))
        plain = OmegaConf.to_container(settings)
    except Exception:  # another thing is wrong, and what was found first is said
        return {}, {}
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}, choices


def _culprit(overrides: Sequence[str], config_dirs: Sequence[str]) -> str:
    """The override without which the composition works, if there is one."""
    search = search_path(config_dirs)
    for index, text in enumerate(overrides):
        try:
            _compose([*overrides[:index], *overrides[index + 1 :], *search])
        except Exception:  # whatever it fails with, this one is not to blame alone
            continue
        return f"{text}: "
    return ""
