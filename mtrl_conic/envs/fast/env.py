"""`FastTaskEnv`: an official environment with the fast step, and resets that are run once a goal."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import EnvStep, State
from mtrl_conic.envs.fast.rebind import fast_class
from mtrl_conic.envs.shipped import HORIZON, ShippedTaskEnv


class _Resets(dict[int, tuple[NDArray[np.float64], State]]):
    """By goal the first observation [39] and the state: both are only ever copied from."""


# The resets kept in this process, by task, reward version and goals; an entry goes with the last of its environments.
_kept: WeakValueDictionary[tuple[Any, ...], _Resets] = WeakValueDictionary()


class FastTaskEnv(ShippedTaskEnv):
    """Steps as `ShippedTaskEnv` does, to rounding errors, in a third to a half of the time; a `TaskEnv`.

    A reset simulates the arm for a hundred steps to put it into place. What comes out depends on nothing but
    the goal, so it is kept: later resets to that goal restore it, also those of the task's other environments
    in this process. Those share one MuJoCo model, into which each puts what its goal has moved before it goes on.
    """

    def __init__(
        self, task: str, goals: NDArray[np.float64], reward_version: str = "v2", horizon: int = HORIZON
    ) -> None:
        super().__init__(task, goals, reward_version, horizon)
        self._shared = self.env.fast_shared
        self._moved = self._shared.moved()
        key = (task, reward_version, goals.shape, goals.dtype.str, goals.tobytes())
        self._resets = _kept.setdefault(key, _Resets())

    def _make(self, shipped_class: Any, reward_version: str) -> Any:
        return fast_class(shipped_class)(reward_function_version=reward_version)

    def reset(self, goal: int) -> NDArray[np.float64]:
        """Start an episode with goal number `goal`; the observation [39] is the shipped one."""
        if goal not in self._resets:
            self._resets[goal] = self._simulated(goal)
        observation, state = self._resets[goal]
        self.set_state(state)  # which copies it
        return observation.copy()

    def _simulated(self, goal: int) -> tuple[NDArray[np.float64], State]:
        """The observation [39] and the state that the shipped reset leads to."""
        self._shared.show(self._moved)
        self.env.data = self.data  # a reset hands it to MuJoCo; a step only reads named positions from it
        observation = super().reset(goal).copy()
        self.env.data = self.env.fast_views
        self._moved = self._shared.moved()
        return observation, self.get_state()

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Apply an action [4]: the hand's move in x, y, z and the gripper's effort."""
        self._shared.show(self._moved)
        observation, reward, info = self.env.fast_step(np.asarray(action, dtype=np.float32))
        return EnvStep(observation, float(reward), False, bool(info["success"]))

    def get_state(self) -> State:
        """The physics, the model arrays that a reset moves, and the attributes of the official object."""
        self._shared.show(self._moved)
        return super().get_state()

    def set_state(self, state: State) -> None:
        """Continue from a state of `get_state`."""
        super().set_state(state)
        self._moved = self._shared.moved()
        self.env.data = self.env.fast_views
