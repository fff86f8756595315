"""One Meta-World task as an ordinary gymnasium environment, and the goals in the form that the package takes."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.fast.rebind import exact_class
from mtrl_conic.envs.metaworld import HIGHEST_GOAL_SEED, REWARD_VERSIONS, draw_goals
from mtrl_conic.envs.shipped import task_class
from mtrl_conic.system import validation


def official_tasks(task: str, goals: Iterable[NDArray[np.float64]]) -> list[Any]:
    """Goals as `metaworld.types.Task`, visible in the observation, for `set_task` and the package's wrappers."""
    from metaworld.types import Task

    fixed = {"env_cls": task_class(task), "partially_observable": False}
    return [Task(env_name=task, data=pickle.dumps({"rand_vec": goal, **fixed})) for goal in goals]


class GymnasiumTask(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """The official environment of a task, to the bit and faster; `gymnasium.make("mtrl_conic/push-v3")`.

    Observations [39] and rewards are those of the official class. The goal of an episode is one of fifty, chosen by
    the environment's own generator, which `reset(seed=...)` seeds, or by `options={"goal": number}`. It ends when
    gymnasium's `TimeLimit` says so, after 500 steps.

    Args:
        task: a name such as "push-v3".
        goal_seed: draws the fifty goals, those of `metaworld.MT1(task, seed=goal_seed)`.
        reward_function_version: "v2" or "v1".
        terminate_on_success: whether an episode ends with its first success.
        render_mode: None, "human", "rgb_array" or "depth_array"; what follows is as in the official class.
        camera_name: of the model, such as "corner2".
        camera_id: the same by number.
        width: of a frame, in pixels.
        height: the same.

    Raises:
        ValueError: an argument is none of these.
    """

    metadata = {  # noqa: RUF012  # gymnasium declares it so
        "render_modes": ["human", "rgb_array", "depth_array"],
        "render_fps": 80,
    }

    def __init__(
        self,
        task: str,
        goal_seed: int = 0,
        reward_function_version: str = "v2",
        terminate_on_success: bool = False,
        render_mode: str | None = None,
        camera_name: str | None = None,
        camera_id: int | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        official_class = task_class(task)
        goal_seed = validation.whole("goal_seed", goal_seed, 0, HIGHEST_GOAL_SEED)
        validation.choice("reward_function_version", reward_function_version, REWARD_VERSIONS)
        if render_mode is not None:
            validation.choice("render_mode", render_mode, self.metadata["render_modes"])
        self.terminate_on_success = validation.flag("terminate_on_success", terminate_on_success)
        self.render_mode = render_mode
        self._tasks = official_tasks(task, draw_goals((task,), goal_seed)[0])
        self._official = exact_class(official_class)(
            reward_function_version=reward_function_version,
            render_mode=render_mode,
            camera_name=camera_name,
            camera_id=camera_id,
            width=width,
            height=height,
        )
        self._official.max_path_length = sys.maxsize  # the time limit is gymnasium's
        self._official.set_task(self._tasks[0])
        self.observation_space = self._official.sawyer_observation_space
        self.action_space = self._official.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start an episode; `seed` seeds the choice of this and of all later goals.

        Args:
            options: {"goal": number} chooses the goal, from 0 to 49.

        Raises:
            ValueError: there is no such goal, or no such option.
        """
        chosen = self._chosen_goal(options or {})
        super().reset(seed=seed)
        goal = int(self.np_random.choice(len(self._tasks))) if chosen is None else chosen  # as the package's wrapper
        self._official.set_task(self._tasks[goal])
        return self._official.reset()

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Apply an action [4]: the hand's move in x, y, z and the gripper's effort.

        Returns:
            The observation [39], the reward, whether it was a success and that ends the episode, False, and the
            official `info`, where "success" is that of this step.
        """
        observation, reward, _, _, info = self._official.step(np.asarray(action))
        return observation, reward, self.terminate_on_success and bool(info["success"]), False, info

    def render(self) -> Any:
        """The frame [height, width, 3] (or the depth [height, width]), or None where a window shows it."""
        return self._official.render()

    def close(self) -> None:
        """Release the renderer, where there is one."""
        self._official.close()

    def _chosen_goal(self, options: dict[str, Any]) -> int | None:
        for key in options:
            if key != "goal":
                raise ValueError(f"options must be {{'goal': number}} or left out, there is no {key!r}")
        if "goal" not in options:
            return None
        goal = options["goal"]
        if isinstance(goal, bool) or not isinstance(goal, int | np.integer) or not 0 <= goal < len(self._tasks):
            raise ValueError(f"options['goal'] must be a whole number from 0 to {len(self._tasks) - 1}, not {goal!r}")
        return int(goal)
