"""What is plugged in: an object of the class that a section of the settings names, with the section's arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import hydra
from hydra.errors import HydraException

from mtrl_conic.settings import classes
from mtrl_conic.settings.errors import ConfigError, first_line

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
        classes.find(target)
    except ValueError as error:
        raise ConfigError(f"{key}._target_={target}: {error}") from error
    try:
        part = hydra.utils.instantiate({"_convert_": "all", **section})
    except (HydraException, TypeError) as error:
        raise ConfigError(_placed(key, section, _first_cause(error))) from error
    if not isinstance(part, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ConfigError(f"{key}._target_={target}: is not {article} {kind.__name__}")
    return part


def _placed(key: str, section: Mapping[str, Any], message: str) -> str:
    """The message of a class with the place of what it names: `c must be ...` is said of `combiner.c`."""
    named = re.match(r"\w+", message)
    return f"{key}.{message}" if named and named[0] in section else f"{key}: {message}"


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
