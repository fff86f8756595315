"""The fast step with the official bits: an environment class to use wherever the official one is used.

`FastMixin` rounds the last bit of some rewards otherwise than the package, which training does not feel and a
comparison does. Here `exp` and the norms are numpy's, and an action keeps the type it comes in. As a module this also
stands in for `metaworld.utils.reward_utils`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import State
from mtrl_conic.envs.fast import rewards
from mtrl_conic.envs.fast.mixin import FastMixin
from mtrl_conic.envs.fast.rewards import hamacher_product, norm

__all__ = ["ExactMixin", "hamacher_product", "rect_prism_tolerance", "tolerance"]

_HAND_AND_OBJECT_PLANE = [0, 2]  # x and z
_NOT_OF_THE_EPISODE = {"_np_random_seed"}
_GAUSSIAN_SCALE = np.sqrt(-2 * np.log(0.1))


def tolerance(
    x: float, bounds: tuple[float, float] = (0.0, 0.0), margin: float = 0.0, sigmoid: str = "gaussian"
) -> float:
    """`rewards.tolerance` with numpy's exponential."""
    lower, upper = bounds
    if sigmoid != "gaussian" or margin <= 0 or lower <= x <= upper:
        return rewards.tolerance(x, bounds, margin, sigmoid)
    if lower > upper:
        raise ValueError(f"bounds {bounds} must be in order")
    distance = np.float64(lower - x if x < lower else x - upper) / margin
    return float(np.exp(-0.5 * (distance * _GAUSSIAN_SCALE) ** 2))


def rect_prism_tolerance(curr: NDArray[Any], zero: NDArray[Any], one: NDArray[Any]) -> float:
    """`rewards.rect_prism_tolerance` with the package's types: within the box it is one of numpy's numbers."""
    product = 1.0
    for x, start, end in zip(curr, zero, one, strict=True):
        if not min(start, end) <= x <= max(start, end):
            return 1.0
        product *= (x - start) / (end - start)
    return product


class ExactMixin(FastMixin):
    """Goes before an official class in the bases; `step` and `reset` are gymnasium's and return the official bits.

    A reset depends on nothing but the goal, so it is run once per goal and restored from then on.
    """

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """A step with an action [4] of any type, beyond its bounds too; truncated at `max_path_length` steps.

        Raises:
            RuntimeError: no goal is set.
            ValueError: the action has another length, or the episode is over.
        """
        if not self._set_task_called:
            raise RuntimeError("no goal is set: call set_task before step")
        if len(action) != 4:
            raise ValueError(f"an action has 4 entries, not {len(action)}")
        if self.curr_path_length >= self.max_path_length:
            raise ValueError("the episode is over: call reset before step")
        observation, reward, info = self.fast_step(action)
        return observation, reward, False, self.curr_path_length == self.max_path_length, info

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start an episode with the goal that is set; as in the official class, both arguments do nothing.

        Raises:
            RuntimeError: no goal is set.
        """
        if not self._freeze_rand_vec:  # each reset draws its own goal
            return self._official_reset()
        if self._last_rand_vec is None:
            raise RuntimeError("no goal is set: call set_task before reset")
        goal = self._last_rand_vec.tobytes(), self._partially_observable
        if goal not in self.fast_resets:
            observation, _ = self._official_reset()
            self.fast_resets[goal] = observation, self._capture()
        observation, state = self.fast_resets[goal]
        self._restore(state)
        return observation.copy(), {}

    def set_xyz_action(self, action: NDArray[Any]) -> None:
        """Move the mocap body by an action [3]; its type is that of the product, as shipped."""
        if action.dtype == np.float32:
            super().set_xyz_action(action)
            return
        self.fast_scale, scale = self.action_scale, self.fast_scale
        super().set_xyz_action(action)
        self.fast_scale = scale

    def _initialize_simulation(self) -> tuple[Any, Any]:
        self.fast_resets: dict[tuple[bytes, bool], tuple[NDArray[np.float64], State]] = {}
        return super()._initialize_simulation()

    def _official_reset(self) -> tuple[NDArray[np.float64], dict[str, Any]]:
        self.data = self.fast_data  # a reset hands it to MuJoCo; a step only reads named positions from it
        result = super().reset()
        self.data = self.fast_views
        return result

    def _capture(self) -> State:
        from mtrl_conic.envs.metaworld_state import capture

        return capture(self, self.model, self.fast_data)

    def _restore(self, state: State) -> None:
        from mtrl_conic.envs.metaworld_state import restore

        before = dict(vars(self))
        restore(self, self.model, self.fast_data, state)
        # What others have noted down here since, such as gymnasium its seed, is no part of the episode.
        kept = before.keys() - vars(self).keys() | before.keys() & _NOT_OF_THE_EPISODE
        self.__dict__.update({name: before[name] for name in kept})
        self.data = self.fast_views

    def _get_obs(self) -> NDArray[np.float64]:
        observation = super()._get_obs()
        if self._partially_observable:
            observation[-3:] = 0  # the goal
        return observation

    def _caging_xz(self, obj_pos: NDArray[np.float64], xz_thresh: float) -> float:
        plane = _HAND_AND_OBJECT_PLANE
        margin = norm((self.obj_init_pos - self.init_tcp)[plane]) - xz_thresh
        return tolerance(norm((self.tcp_center - obj_pos)[plane]), (0, xz_thresh), margin, "long_tail")
