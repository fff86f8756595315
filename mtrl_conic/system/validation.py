"""Checks of hyperparameters, for the constructors of whatever is plugged in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeVar


def number(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    low_included: bool = True,
    high_included: bool = True,
) -> float:
    """The value as a float.

    Raises:
        ValueError: for anything but a number in the range; names the value and the range.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)  # numpy's, too
    if is_number and (low < value < high or (value == low and low_included) or (value == high and high_included)):
        return float(value)
    left = "[" if low_included else "("
    right = "]" if high_included and math.isfinite(high) else ")"
    raise ValueError(f"{name} must be a number in {left}{low:g}, {high:g}{right}, not {value!r}")


def flag(name: str, value: Any) -> bool:
    """The value itself if it is True or False.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    return value


def positive(name: str, value: Any) -> float:
    """The value as a float, if it is a number above 0.

    Raises:
        ValueError: for anything else.
    """
    return number(name, value, 0, low_included=False)


MANY = 10**15  # more than anything counts to


def whole(name: str, value: Any, low: int, high: int = MANY) -> int:
    """The value as an int, if it is a whole number from `low` to `high`; 2e6 is one.

    Raises:
        ValueError: for anything else.
    """
    is_whole = (isinstance(value, Integral) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )
    if not is_whole or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, not {value!r}")
    if value > high:
        raise ValueError(f"{name} must be at most {high}, not {value!r}")
    return int(value)


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """The value itself if it is one of those allowed.

    Raises:
        ValueError: for anything else; lists what is allowed.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def one_or_more(name: str, value: Any, low: float) -> float | list[float]:
    """A number of at least `low`, or a list of such numbers that is not empty.

    Raises:
        ValueError: for anything else; a list is named as a whole.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        return number(name, value, low)
    try:
        if not value:
            raise ValueError
        return [number(name, entry, low) for entry in value]
    except ValueError:
        raise ValueError(f"{name} must be a number of at least {low:g} or a list of them, not {value!r}") from None


def widths(name: str, value: Any) -> list[int]:
    """The widths of a network's layers: one or more positive whole numbers.

    Raises:
        ValueError: for anything else; the list is named as a whole.
    """
    try:
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise ValueError
        return [whole(name, entry, 1) for entry in value]
    except ValueError:
        raise ValueError(f"{name} must be one or more positive widths, such as [400, 400], not {value!r}") from None


T = TypeVar("T")


def instance(name: str, value: Any, kind: type[T]) -> T:
    """The value itself if it is an object of that class.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ValueError(f"{name} must be {article} {kind.__name__}, not {value!r}")
    return value
