"""What environments return, looked at before numpy makes something else of it: a wrong shape may well broadcast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import EnvStep, State

_NUMBERS = "fiub"  # the kinds of numpy's types that are numbers
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def checked_step(result: Any, shape: tuple[int, ...]) -> EnvStep:
    """A step as it is, or with what stands for a number or a flag as one.

    Args:
        result: what `step` returned.
        shape: of an observation.

    Raises:
        TypeError, ValueError: it is no step; one line with what it should have been.
    """
    if not isinstance(result, EnvStep):
        raise TypeError(f"step must return an EnvStep, not {_kind(result)}")
    observation, reward, terminated, success, truncated = result
    if (
        type(observation) is np.ndarray
        and observation.shape == shape
        and observation.dtype.kind == "f"
        and type(reward) is float
        and type(terminated) is type(success) is type(truncated) is bool
    ):
        return result  # all but always
    return EnvStep(
        checked_observation(observation, shape),
        number("reward", reward),
        flag("terminated", terminated),
        flag("success", success),
        flag("truncated", truncated),
    )


def checked_observation(value: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """An observation of that shape as an array.

    Raises:
        ValueError: it has another, or holds no numbers.
    """
    array = _array(value)
    if array is None or array.shape != shape or array.dtype.kind not in _NUMBERS:
        raise ValueError(f"the observation must be numbers of the shape {shape}, not {_found(value, array)}")
    return array


def number(name: str, value: Any) -> float:
    """One number, be it in an array, as a float.

    Raises:
        ValueError: it is none.
    """
    if type(value) is float:
        return value
    array = _array(value)
    if array is None or array.size != 1 or array.dtype.kind not in _NUMBERS:
        raise ValueError(f"{name} must be a number, not {_found(value, array)}")
    return float(array.item())


def flag(name: str, value: Any) -> bool:
    """True or False, or a 1 or a 0 that stands for it.

    Raises:
        ValueError: it is something else, which Python may well take for true, such as NaN.
    """
    if type(value) is bool:
        return value
    array = _array(value)
    if array is None or array.size != 1 or array.dtype.kind not in _NUMBERS or array.item() not in (0, 1):
        raise ValueError(f"{name} must be True or False, not {_found(value, array)}")
    return bool(array.item())


def checked_state(state: State) -> State:
    """A state as it is, if a checkpoint with it can be read again.

    Raises:
        TypeError: it holds something else; what, in one line.
    """
    if isinstance(state, dict):
        parts = [*state, *state.values()]
    elif type(state) in (list, tuple):
        parts = list(state)
    elif type(state) in _PLAIN or (isinstance(state, np.ndarray | np.generic) and state.dtype.kind in _NUMBERS + "c"):
        parts = []
    else:
        allowed = "arrays, numbers, strings, dicts, lists and None"
        raise TypeError(f"a state must hold {allowed}, not {_found(state, None)}; None alone says that there is none")
    for part in parts:
        checked_state(part)
    return state


def gymnasium_reset(result: Any) -> Any:
    """The observation of gymnasium's `reset`.

    Raises:
        TypeError: it is of another interface, such as that of gym before 0.26.
    """
    if not _is_gymnasiums(result, 2):
        raise TypeError(f"reset must return (observation, info), with a dict as info, not {_kind(result)}")
    return result[0]


def gymnasium_step(result: Any) -> tuple[Any, Any, Any, Any, Mapping[str, Any]]:
    """What gymnasium's `step` returned: observation, reward, terminated, truncated and info.

    Raises:
        TypeError: it is of another interface.
    """
    if not _is_gymnasiums(result, 5):
        wanted = "(observation, reward, terminated, truncated, info), with a dict as info"
        raise TypeError(f"step must return {wanted}, not {_kind(result)}")
    return result


def _is_gymnasiums(result: Any, length: int) -> bool:
    return isinstance(result, tuple) and len(result) == length and isinstance(result[-1], Mapping)


def _array(value: Any) -> NDArray[Any] | None:
    """None where numpy cannot make one, such as of lists of several lengths."""
    try:
        return np.asarray(value)
    except Exception:  # the value may be an object of any class
        return None


def _found(value: Any, array: NDArray[Any] | None) -> str:
    """A value in a few words: an array by its type and shape."""
    if array is None or array.dtype.kind == "O" or not array.shape:
        shown = repr(value)
        return shown if len(shown) <= 40 and "\n" not in shown else f"a {type(value).__name__}"
    return f"{array.dtype} of the shape {array.shape}"


def _kind(value: Any) -> str:
    """A value in a few words: a tuple by what it holds."""
    if isinstance(value, tuple):
        return f"({', '.join(type(each).__name__ for each in value)})"
    return f"an array of the shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
