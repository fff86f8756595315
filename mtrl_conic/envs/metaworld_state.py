"""Save and restore a Meta-World environment in mid-episode, bit for bit, as plain arrays and scalars.

The rest of an episode depends on three things: MuJoCo's integration state, the arrays of the model that a
reset moves about, and the Python attributes of the environment object. Everything else (positions of bodies
and sites, contacts) is recomputed by the next step before anybody reads it.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from mtrl_conic.envs.base import State

# All that the `reset_model` of the fifty V3 classes writes into the model, found by comparing every array.
MODEL_ARRAYS = ("body_pos", "site_pos")
# Arrays of the data that an attribute is a live view of, found in the same way (the pads, some targets).
VIEWED_ARRAYS = ("xpos", "site_xpos")
# Attributes of the fast path that are caches of something else.
CACHE_PREFIX = "fast_"
# Choices made when the environment is built, not state; `fullpath` names a place on this machine.
CONSTANTS = frozenset(
    {"fullpath", "width", "height", "render_mode", "camera_name", "camera_id", "reward_function_version"}
    | {"max_path_length"}
)

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION
_PLAIN = (bool, int, float, str, type(None))


def _storable(name: str, value: Any) -> bool:
    kinds = (np.ndarray, np.generic, *_PLAIN)
    return isinstance(value, kinds) and name not in CONSTANTS and not name.startswith(CACHE_PREFIX)


def _find_view(value: np.ndarray, data: Any) -> dict[str, Any] | None:
    """Where in the data `value` is a live view of, or None if it owns its numbers."""
    for array in VIEWED_ARRAYS:
        source = getattr(data, array)
        if source.size and value.size and np.may_share_memory(value, source):
            start = (value.ctypes.data - source.ctypes.data) // source.itemsize
            return {"array": array, "start": int(start), "shape": list(value.shape)}
    return None


def _encode(value: Any, data: Any) -> dict[str, Any]:
    """One attribute as {kind: value}; numpy's scalars are not floats here, as their arithmetic differs."""
    if isinstance(value, np.generic):
        return {"scalar": np.asarray(value)}
    if isinstance(value, np.ndarray):
        view = _find_view(value, data)
        return {"array": value.copy()} if view is None else {"view": view}
    return {"plain": value}


def _decode(stored: dict[str, Any], data: Any) -> Any:
    ((kind, value),) = stored.items()
    if kind == "scalar":
        return value[()]
    if kind == "array":
        return value.copy()
    if kind == "view":
        flat = getattr(data, value["array"]).reshape(-1)
        size = int(np.prod(value["shape"]))
        return flat[value["start"] : value["start"] + size].reshape(value["shape"])
    return value


def capture(env: Any, model: Any, data: Any) -> State:
    """The state of a `SawyerXYZEnv` with the given MuJoCo model and data."""
    physics = np.empty(mujoco.mj_stateSize(model, _PHYSICS))
    mujoco.mj_getState(model, data, physics, _PHYSICS)
    return {
        "physics": physics,
        "model": {name: getattr(model, name).copy() for name in MODEL_ARRAYS},
        "attributes": {k: _encode(v, data) for k, v in vars(env).items() if _storable(k, v)},
    }


def restore(env: Any, model: Any, data: Any, state: State) -> None:
    """Put a `SawyerXYZEnv` into a state of `capture`; the next step continues from it to the last bit."""
    for name, array in state["model"].items():
        getattr(model, name)[:] = array
    mujoco.mj_setState(model, data, state["physics"], _PHYSICS)
    # Not mj_forward, which would replace the solver's warm start, a part of the state.
    mujoco.mj_kinematics(model, data)
    attributes = vars(env)
    for name in [k for k, v in attributes.items() if _storable(k, v) and k not in state["attributes"]]:
        del attributes[name]
    for name, stored in state["attributes"].items():
        attributes[name] = _decode(stored, data)
