"""`FastTaskEnv`: an official environment with the fast step, and resets that are run once a goal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import EnvStep, State
from mtrl_conic.envs.fast.rebind import fast_class
from mtrl_conic.envs.shipped import ShippedTaskEnv


class FastTaskEnv(ShippedTaskEnv):
    """Steps as `ShippedTaskEnv` does, to rounding errors, in a third to a half of the time; a `TaskEnv`.

    A reset simulates the arm for a hundred steps to put it into place. What comes out depends on nothing but
    the goal, so it is kept: later resets to that goal restore it.
    """

    def __init__(self, task: str, goals: NDArray[np.float64], reward_version: str = "v2") -> None:
        super().__init__(task, goals, reward_version)
        self._resets: dict[int, tuple[NDArray[np.float64], State]] = {}

    def _make(self, shipped_class: Any, reward_version: str) -> Any:
        return fast_class(shipped_class)(reward_function_version=reward_version)

    def reset(self, goal: int) -> NDArray[np.float64]:
        """Start an episode with goal number `goal`; the observation [39] is the shipped one."""
        if goal not in self._resets:
            self.env.data = self.data  # a reset hands it to MuJoCo; a step only reads named positions from it
            observation = super().reset(goal)
            self.env.data = self.env.fast_views
            self._resets[goal] = observation, self.get_state()
        observation, state = self._resets[goal]
        self.set_state(state)
        return observation.copy()

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Apply an action [4]: the hand's move in x, y, z and the gripper's effort."""
        observation, reward, info = self.env.fast_step(np.asarray(action, dtype=np.float32))
        return EnvStep(observation, float(reward), False, bool(info["success"]))

    def set_state(self, state: State) -> None:
        """Continue from a state of `get_state`."""
        super().set_state(state)
        self.env.data = self.env.fast_views
