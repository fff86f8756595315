"""The official Meta-World environments behind the `TaskEnv` contract.

Source: the `metaworld` package (https://github.com/Farama-Foundation/Metaworld), imported when first needed.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import Camera, EnvStep, State

HORIZON = 500
OBSERVATION_SIZE = 39
ACTION_SIZE = 4
NUM_GOALS = 50


def task_class(task: str) -> Any:
    """The official environment class of a task such as "reach-v3"."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    if task not in ALL_V3_ENVIRONMENTS:
        raise ValueError(f"unknown task {task!r}: not one of Meta-World's V3 tasks, such as 'reach-v3'")
    return ALL_V3_ENVIRONMENTS[task]


class ShippedTaskEnv:
    """The official environment of one task, with its goal visible and no time limit; a `TaskEnv`.

    Args:
        task: a name such as "reach-v3".
        goals: [G, n], the vectors that `set_task` takes.
        reward_version: "v2" or "v1".
        horizon: steps after which the vector ends an episode.
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SIZE

    def __init__(
        self, task: str, goals: NDArray[np.float64], reward_version: str = "v2", horizon: int = HORIZON
    ) -> None:
        self.task, self.goals = task, goals
        self.horizon, self.num_goals = horizon, len(goals)
        self.env = self._make(task_class(task), reward_version)
        # The shipped step refuses to run past 500; here the vector truncates.
        self.env.max_path_length = sys.maxsize
        self.model, self.data = self.env.model, self.env.data
        self._set_goal(0)

    def _make(self, shipped_class: Any, reward_version: str) -> Any:
        return shipped_class(reward_function_version=reward_version)

    def _set_goal(self, goal: int) -> None:
        from metaworld.types import Task

        if not 0 <= goal < len(self.goals):
            raise ValueError(f"goal {goal} of {self.task}: there are {len(self.goals)}")
        chosen = {"env_cls": task_class(self.task), "rand_vec": self.goals[goal]}
        visible = {"partially_observable": False}
        self.env.set_task(Task(env_name=self.task, data=pickle.dumps(chosen | visible)))

    def reset(self, goal: int) -> NDArray[np.float64]:
        """Start an episode with goal number `goal`; the observation [39] is as shipped, in part stale."""
        self._set_goal(goal)
        observation, _ = self.env.reset()
        return observation

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Apply an action [4]: the hand's move in x, y, z and the gripper's effort."""
        observation, reward, terminated, _, info = self.env.step(np.asarray(action, dtype=np.float32))
        return EnvStep(observation, float(reward), bool(terminated), bool(info["success"]))

    def get_state(self) -> State:
        """The physics, the model arrays that a reset moves, and the attributes of the official object."""
        from mtrl_conic.envs.metaworld_state import capture

        return capture(self.env, self.model, self.data)

    def set_state(self, state: State) -> None:
        """Continue from a state of `get_state`."""
        from mtrl_conic.envs.metaworld_state import restore

        restore(self.env, self.model, self.data, state)

    def close(self) -> None:
        """Release the renderer, where there is one."""
        self.env.close()

    def camera(self, size: int) -> Camera:
        """What draws the arm, in pictures of `size` × `size` pixels."""
        from mtrl_conic.envs.cameras import MetaWorldCamera

        return MetaWorldCamera(self.model, self.data, size)
