"""Checks of hyperparameters, shared by the combiners' constructors."""

from __future__ import annotations

import math
from typing import Any


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
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
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
