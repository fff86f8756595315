"""An object that others wrote as an array of bytes, and back; for environments in mid-episode."""

from __future__ import annotations

import copyreg
import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _Pickler(pickle.Pickler):
    """Stores what objects are rather than how they were made.

    Many environments are an `EzPickle`, which stores the arguments of the constructor: a copy would be in its first
    state.
    """

    def reducer_override(self, value: Any) -> Any:
        from gymnasium.utils import EzPickle

        if isinstance(value, EzPickle):
            return copyreg.__newobj__, (type(value),), vars(value), None, None, _set_attributes  # type: ignore[attr-defined]
        return NotImplemented


def _set_attributes(value: Any, attributes: dict[str, Any]) -> None:
    vars(value).update(attributes)


def dump(value: Any) -> NDArray[np.uint8]:
    """The bytes [n] of an object; whatever pickling raises where it cannot be stored."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def load(data: NDArray[np.uint8]) -> Any:
    """The object that `dump` stored; its bytes can hold any code, as can the environment itself."""
    return pickle.loads(np.asarray(data, np.uint8).tobytes())
