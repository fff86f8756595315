"""One MuJoCo model for all environments of a task in a process: each has 20 MB less of its own."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import mujoco
import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.fast.mixin import FastMixin
from mtrl_conic.envs.metaworld_state import MODEL_ARRAYS

Moved = tuple[NDArray[np.float64], ...]


class SharedModel:
    """A model of which a reset moves a few arrays, and a step none.

    Args:
        model: of the environments that share it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._arrays = [getattr(model, name) for name in MODEL_ARRAYS]
        self._shown: Moved = ()

    def moved(self) -> Moved:
        """A copy of what was moved, for `show`."""
        self._shown = tuple(array.copy() for array in self._arrays)
        return self._shown

    def show(self, moved: Moved) -> None:
        """Have the model be that of the environment which got `moved`."""
        if moved is not self._shown:
            for array, values in zip(self._arrays, moved, strict=True):
                array[:] = values
            self._shown = moved


# The models in use, by the class of their environments; an entry goes with the last of them.
_shared: WeakValueDictionary[type, SharedModel] = WeakValueDictionary()


class SharingMixin(FastMixin):
    """Goes before an official class in the bases; who steps it shows its part of `fast_shared` before."""

    fast_shared: SharedModel

    def _compile_or_copy(self) -> tuple[Any, Any]:
        shared = _shared.get(type(self))
        if shared is None:
            model, data = super()._compile_or_copy()
            shared = _shared[type(self)] = SharedModel(model)
        else:
            data = mujoco.MjData(shared.model)
        self.fast_shared = shared
        return shared.model, data
