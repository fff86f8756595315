"""What is plugged in: an object of the class that a section of the settings names, with the section's arguments."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import hydra

from mtrl_conic.envs.base import EnvSpec
from mtrl_conic.envs.environments import Environments, set_up
from mtrl_conic.settings import aliases, classes
from mtrl_conic.settings.errors import ConfigError, UnknownSettingError, first_line
from mtrl_conic.system.foreign import FAILURES, told

T = TypeVar("T")


def build(section: Mapping[str, Any], kind: type[T], key: str) -> T:
    """A new object as a section such as `combiner` describes it; sections within it are built first.

    Args:
        section: `_target_`, a class by its dotted name, and the arguments of its constructor.
        kind: what the class must be derived from.
        key: of the section, for messages.

    Raises:
        ConfigError: there is no such class, or it does not take the arguments; the line names which, as far as the
            class does.
    """
    target = section.get("_target_")
    try:
        found = classes.find(target)
    except ValueError as error:
        raise ConfigError(f"{key}._target_={target}: {error}") from error
    _check_names(found, section, key)
    parts = {name: build(value, object, f"{key}.{name}") for name, value in section.items() if _is_part(value)}
    plain = {name: value for name, value in section.items() if name not in parts}
    try:
        part = hydra.utils.instantiate({"_convert_": "all", "_partial_": True, **plain})(**parts)
    except FAILURES as error:  # the class may be a user's, and do anything
        raise ConfigError(placed(key, section, _first_cause(error))) from error
    if not isinstance(part, kind):
        raise ConfigError(f"{key}._target_={target}: must be derived from {kind.__module__}.{kind.__name__}")
    return part


def make_spec(environments: Environments, workers: int) -> EnvSpec:
    """What the vector builds the environments from; this may take its time.

    Raises:
        ConfigError: their class does not set up what it must.
    """
    try:
        return set_up(environments, workers)
    except ValueError as error:
        raise ConfigError(f"env: {first_line(error)}") from error


def placed(key: str, section: Mapping[str, Any], message: str) -> str:
    """The message of a class with the place of what it names: `c must be ...` is said of `combiner.c`."""
    named = re.match(r"\w+", message)
    return f"{key}.{message}" if named and named[0] in section else f"{key}: {message}"


def with_defaults(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section with the defaults of what it leaves out, as far as its classes are this package's own.

    A user's own file is not imported for it.
    """
    known = {name: with_defaults(value) if _is_part(value) else value for name, value in section.items()}
    return _defaults(str(section.get("_target_"))) | known


def arguments_of(target: str) -> Mapping[str, inspect.Parameter]:
    """What the constructor of a class of this package takes; nothing of a user's own class, which is not imported."""
    module, _, name = target.rpartition(".")
    if not module.startswith("mtrl_conic."):
        return {}
    try:
        return inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return {}  # of another version


def _defaults(target: str) -> dict[str, Any]:
    return {key: entry.default for key, entry in arguments_of(target).items() if entry.default is not entry.empty}


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _check_names(owner: Any, section: Mapping[str, Any], key: str) -> None:
    """Say which setting the class does not have, where its constructor lists what it takes."""
    try:
        parameters = inspect.signature(owner).parameters
    except (ValueError, TypeError):
        return
    if any(entry.kind is entry.VAR_KEYWORD for entry in parameters.values()):
        return
    for name in section:
        if name not in parameters and not re.fullmatch(r"_\w+_", str(name)):
            full = f"{key}.{name}"
            raise UnknownSettingError(f"{full}: {_no_such(owner, str(name), list(parameters), key)}", full)


def _no_such(owner: Any, name: str, names: list[str], key: str) -> str:
    moved = aliases.ALIASES.get(f"{key}.{name}")
    close = [] if moved else difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" (it is {moved} now)" if moved else f" (did you mean {key}.{close[0]}?)" if close else ""
    there = f"there are {', '.join(names)}" if names else "it has none"
    return f"{getattr(owner, '__name__', 'it')} has no such setting{hint}; {there}"


def _first_cause(error: BaseException) -> str:
    """The line of the error that the others come from; with its kind where that is no message for users."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = isinstance(error, ValueError | ImportError | TypeError) and str(error)
    return first_line(error) if said else told(error)
