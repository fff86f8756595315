"""The Meta-World V3 tasks: names, goals, and the spec that builds their environments.

Source: the `metaworld` package (https://github.com/Farama-Foundation/Metaworld), imported when first needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import TaskEnv
from mtrl_conic.envs.shipped import ACTION_SIZE, HORIZON, NUM_GOALS, OBSERVATION_SIZE, ShippedTaskEnv, task_class

BENCHMARKS = ("mt10", "mt25", "mt50")
REWARD_VERSIONS = ("v2", "v1")


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


def _draw_task_goals(task: str, random: np.random.RandomState, count: int) -> NDArray[np.float64]:
    """The goals [count, n] that the package draws for one task: the last draw of each of `count` resets."""
    import mujoco

    env = task_class(task)()
    low, high = env._random_reset_space.low, env._random_reset_space.high

    def draw() -> NDArray[np.float64]:
        env._last_rand_vec = random.uniform(low, high, size=low.size)
        return env._last_rand_vec

    # The package resets once per goal. Its draws and rejections do not look at the physics,
    # so the same resets with the simulation left out give the same goals in a small part of the time.
    env._get_state_rand_vec = draw
    env.do_simulation = lambda ctrl, n_frames: mujoco.mj_kinematics(env.model, env.data)
    goals = []
    for _ in range(count):
        env.reset()
        goals.append(env._last_rand_vec)
    env.close()
    return np.stack(goals)


def draw_goals(tasks: Sequence[str], goal_seed: int, count: int = NUM_GOALS) -> tuple[NDArray[np.float64], ...]:
    """The goals of each task, [count, n] each, as the package's benchmarks draw them: one stream for all tasks.

    For the tasks of `benchmark_tasks("mt10")` these are the goals of `metaworld.MT10(seed=goal_seed)`, for a
    single task those of `metaworld.MT1(task, seed=goal_seed)`; so a task's goals depend on those before it.
    """
    random = np.random.RandomState(goal_seed)  # the package's own kind of generator
    return tuple(_draw_task_goals(task, random, count) for task in tasks)


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
