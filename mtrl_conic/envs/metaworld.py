"""The Meta-World V3 tasks: names, goals, and the official environments behind the `TaskEnv` contract.

Source: the `metaworld` package (https://github.com/Farama-Foundation/Metaworld), imported when first needed.
"""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import EnvStep, State, TaskEnv

BENCHMARKS = ("mt10", "mt25", "mt50")
REWARD_VERSIONS = ("v2", "v1")
HORIZON = 500
OBSERVATION_SIZE = 39
ACTION_SIZE = 4
NUM_GOALS = 50


def all_tasks() -> tuple[str, ...]:
    """The names of the fifty V3 tasks, in the package's order."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    return tuple(ALL_V3_ENVIRONMENTS)


def benchmark_tasks(name: str) -> tuple[str, ...]:
    """The tasks of "mt10", "mt25" or "mt50", in the package's order."""
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}: one of {', '.join(BENCHMARKS)}")
    from metaworld import env_dict

    return tuple(getattr(env_dict, f"{name.upper()}_V3"))


def task_class(task: str) -> Any:
    """The official environment class of a task such as "reach-v3"."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    if task not in ALL_V3_ENVIRONMENTS:
        raise ValueError(f"unknown task {task!r}: not one of Meta-World's V3 tasks, such as 'reach-v3'")
    return ALL_V3_ENVIRONMENTS[task]


def _draw_task_goals(task: str, random: np.random.RandomState) -> NDArray[np.float64]:
    """The goals [50, n] that the package draws for one task: the last draw of each of fifty resets."""
    import mujoco

    env = task_class(task)()
    low, high = env._random_reset_space.low, env._random_reset_space.high

    def draw() -> NDArray[np.float64]:
        env._last_rand_vec = random.uniform(low, high, size=low.size)
        return env._last_rand_vec

    # The package resets fifty times to draw fifty goals. Its draws and rejections do not look at the physics,
    # so the same resets with the simulation left out give the same goals in a small part of the time.
    env._get_state_rand_vec = draw
    env.do_simulation = lambda ctrl, n_frames: mujoco.mj_kinematics(env.model, env.data)
    goals = []
    for _ in range(NUM_GOALS):
        env.reset()
        goals.append(env._last_rand_vec)
    env.close()
    return np.stack(goals)


def draw_goals(tasks: Sequence[str], goal_seed: int) -> tuple[NDArray[np.float64], ...]:
    """The goals of each task, [50, n] each, as the package's benchmarks draw them: one stream for all tasks.

    For the tasks of `benchmark_tasks("mt10")` these are the goals of `metaworld.MT10(seed=goal_seed)`, for a
    single task those of `metaworld.MT1(task, seed=goal_seed)`; so a task's goals depend on those before it.
    """
    random = np.random.RandomState(goal_seed)  # the package's own kind of generator
    return tuple(_draw_task_goals(task, random) for task in tasks)


class ShippedTaskEnv:
    """The official environment of one task, with its goal visible and no time limit; a `TaskEnv`.

    Args:
        task: a name such as "reach-v3".
        goals: [50, n], the vectors that `set_task` takes.
        reward_version: "v2" or "v1".
    """

    observation_size = OBSERVATION_SIZE
    action_size = ACTION_SIZE
    horizon = HORIZON
    num_goals = NUM_GOALS

    def __init__(self, task: str, goals: NDArray[np.float64], reward_version: str = "v2") -> None:
        self.task, self.goals = task, goals
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


@dataclass(frozen=True, eq=False)
class MetaWorldSpec:
    """The tasks of a run and their goals; an `EnvSpec`. Build it with `make_spec`.

    Args:
        tasks: K names such as "reach-v3".
        goals: an array [50, n] for each task.
        reward_version: "v2" (default) or "v1".
        fast: the fast path, with the same arithmetic; False for the official classes as shipped.
    """

    tasks: tuple[str, ...]
    goals: tuple[NDArray[np.float64], ...]
    reward_version: str = "v2"
    fast: bool = True
    observation_size: int = OBSERVATION_SIZE
    action_size: int = ACTION_SIZE
    horizon: int = HORIZON
    num_goals: int = NUM_GOALS

    def make(self, task: int) -> TaskEnv:
        """Build the environment of task number `task`."""
        _warn_instead_of_logging()
        arguments = (self.tasks[task], self.goals[task], self.reward_version)
        if not self.fast:
            return ShippedTaskEnv(*arguments)
        from mtrl_conic.envs.fast import FastTaskEnv

        return FastTaskEnv(*arguments)


def _warn_instead_of_logging() -> None:
    """MuJoCo's own handler writes its warnings to a file in the working directory."""
    import mujoco

    mujoco.set_mju_user_warning(lambda message: warnings.warn(f"MuJoCo: {message}", stacklevel=2))


def make_spec(tasks: Sequence[str], goal_seed: int = 0, reward_version: str = "v2", fast: bool = True) -> MetaWorldSpec:
    """Draw the goals of `tasks` with `goal_seed`; a wrong value is a ValueError that names it."""
    tasks = tuple(tasks)
    if not tasks:
        raise ValueError("no tasks")
    for task in tasks:
        task_class(task)
    repeated = sorted({task for task in tasks if tasks.count(task) > 1})
    if repeated:
        raise ValueError(f"tasks named more than once: {', '.join(repeated)}")
    if reward_version not in REWARD_VERSIONS:
        raise ValueError(f"unknown reward version {reward_version!r}: one of {', '.join(REWARD_VERSIONS)}")
    return MetaWorldSpec(tasks, draw_goals(tasks, goal_seed), reward_version, fast)
