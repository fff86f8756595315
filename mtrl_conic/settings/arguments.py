"""Command lines of the form key=value for the commands that need no Hydra."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.paths import expand

Reader = Callable[[str], Any]  # a value's text → the value; ValueError says what is allowed


def parse(arguments: Sequence[str], readers: Mapping[str, Reader], required: Sequence[str] = ()) -> dict[str, Any]:
    """The values given, by key; a key that was not given is not in the result.

    Args:
        arguments: each `key=value`.
        readers: what reads the value of each key that there is.
        required: keys that must be given.

    Raises:
        ConfigError: an argument of another form, an unknown, repeated or missing key, or a value that cannot be used.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if key.startswith("-") or not equals:
            raise ConfigError(f"{argument}: not of the form key=value; --help lists the keys")
        if key not in readers:
            raise ConfigError(f"{key}: no such setting{_closest(key, readers)}")
        if key in values:
            raise ConfigError(f"{argument}: {key} is given twice")
        try:
            values[key] = readers[key](text)
        except ValueError as error:
            raise ConfigError(f"{argument}: {error}") from error
    for key in required:
        if key not in values:
            raise ConfigError(f"{key}=... is missing; --help lists the keys")
    return values


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether one of the arguments asks for help."""
    return any(argument in ("-h", "--help") for argument in arguments)


def text(value: str) -> str:
    """Any text but none at all."""
    if not value:
        raise ValueError("must not be empty")
    return value


def path(value: str) -> Path:
    """A path, `~` expanded."""
    return Path(expand(value))


_MANY = 10**15  # more than anything counts to


def whole(low: int) -> Reader:
    """Reads a whole number of at least `low`, also one such as 2e6."""

    def read(value: str) -> int:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (number >= low and number.is_integer()):
            raise ValueError(f"must be a whole number of at least {low}")
        if number > _MANY:
            raise ValueError(f"must be at most {_MANY}")
        return int(number)

    return read


def whole_list(value: str) -> list[int]:
    """Reads `[0,1,2]`, `0,1,2` or `0`: different whole numbers of at least 0."""
    inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    parts = [part.strip() for part in inner.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise ValueError("must be different whole numbers such as [0,1,2]")
    return [int(part) for part in parts]


def choice(*options: str) -> Reader:
    """Reads one of the options."""

    def read(value: str) -> str:
        if value not in options:
            raise ValueError(f"must be one of {', '.join(options)}")
        return value

    return read


def listed(*options: str) -> Reader:
    """Reads one or more of the options, separated by commas."""
    one = choice(*options)

    def read(value: str) -> list[str]:
        return list(dict.fromkeys(map(one, value.split(","))))

    return read


def flag(value: str) -> bool:
    """Reads true or false."""
    if value.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return value.lower() == "true"


def _closest(key: str, known: Mapping[str, Reader]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else f"; there are {', '.join(known)}"
