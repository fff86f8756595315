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
from mtrl_conic.envs.environments import Environments, chosen_tasks, closest
from mtrl_conic.envs.shipped import ACTION_SIZE, HORIZON, NUM_GOALS, OBSERVATION_SIZE, ShippedTaskEnv, task_class
from mtrl_conic.system.validation import choice, flag, whole

BENCHMARKS = ("mt10", "mt25", "mt50")
REWARD_VERSIONS = ("v1", "v2")
HIGHEST_GOAL_SEED = 2**32 - 1  # all that the package's generator takes


class MetaWorld(Environments):
    """The tasks of one of Meta-World's benchmarks, or some of them.

    A task of a subset has the goals that it has in the whole benchmark: its results compare with those.

    Args:
        benchmark: "mt1", "mt10", "mt25" or "mt50".
        tasks: some of the benchmark's, in the order wanted; by default all. Not for "mt1".
        task: the one task of "mt1".
        fast: the fast path, with the same arithmetic; False for the official classes as shipped.
        goal_seed: of the 50 goals per task.
        reward_version: "v2" or "v1".
        num_goals: how many of them are used, the first ones, in training and in evaluations.
        episode_length: steps of an episode, in training and in evaluations.
    """

    least_memory = 1 << 20

    def __init__(
        self,
        benchmark: str,
        tasks: Sequence[str] | None = None,
        task: str | None = None,
        fast: bool = True,
        goal_seed: int = 0,
        reward_version: str = "v2",
        num_goals: int = NUM_GOALS,
        episode_length: int = HORIZON,
    ) -> None:
        self._benchmark = choice("benchmark", benchmark, ("mt1", *BENCHMARKS))
        self._fast = flag("fast", fast)
        self._goal_seed = whole("goal_seed", goal_seed, 0, HIGHEST_GOAL_SEED)
        self._reward_version = choice("reward_version", reward_version, REWARD_VERSIONS)
        if benchmark == "mt1":
            self._drawn: tuple[str, ...] = (_only_task(task, tasks),)
            self.tasks = self._drawn
        else:
            if task is not None:
                raise ValueError(f"task must be left out with {benchmark}, not {task!r}; tasks takes a list")
            self._drawn = benchmark_tasks(benchmark)
            self.tasks = chosen_tasks(tasks, self._drawn, benchmark)
        self.observation_size, self.action_size = OBSERVATION_SIZE, ACTION_SIZE
        self.horizon = whole("episode_length", episode_length, 1, HORIZON)
        self.num_goals = whole("num_goals", num_goals, 1, NUM_GOALS)

    def setup(self) -> MetaWorldSpec:
        """Draw the goals, which takes seconds."""
        last = max(self._drawn.index(task) for task in self.tasks)
        drawn = self._drawn[: last + 1]  # goals depend on those of the tasks before
        goals = dict(zip(drawn, draw_goals(drawn, self._goal_seed), strict=True))
        chosen = tuple(goals[task][: self.num_goals] for task in self.tasks)
        return MetaWorldSpec(self.tasks, chosen, self._reward_version, self._fast, horizon=self.horizon)

    def title(self, name: str) -> str:
        """A heading such as "MT10, Meta-World V3, reward v2, goal seed 0"."""
        only = list(self.tasks) if len(self.tasks) <= 3 else [f"{len(self.tasks)} tasks"] if self._is_part else []
        reward, seed = f"reward {self._reward_version}", f"goal seed {self._goal_seed}"
        return ", ".join([name.upper(), *only, "Meta-World V3", reward, seed, *self._departures()])

    def _departures(self) -> list[str]:
        """What is not Meta-World's own, in a few words each."""
        goals = f"{self.num_goals} goal{'s' if self.num_goals > 1 else ''}"
        departs = {goals: self.num_goals != NUM_GOALS, f"{self.horizon} steps": self.horizon != HORIZON}
        return [words for words, does in departs.items() if does]

    @property
    def _is_part(self) -> bool:
        return len(self.tasks) < len(self._drawn)

    def file_name(self, name: str) -> str:
        """The same for the name of a folder, such as "mt10_v2_goals0"."""
        only = self.tasks if self._benchmark == "mt1" else [f"{len(self.tasks)}_tasks"] if self._is_part else []
        departs = [words.replace(" ", "_") for words in self._departures()]
        return "_".join([name, *only, self._reward_version, f"goals{self._goal_seed}", *departs])

    def facts(self) -> list[str]:
        """Reward, goals, lengths and sizes."""
        count = "one goal" if self.num_goals == 1 else f"{self.num_goals} goals"
        drawn = "in training and evaluation" if self.num_goals == 1 else "one drawn at each reset of training"
        goals = f"{count} per task (goal seed {self._goal_seed}), {drawn}"
        return [f"reward {self._reward_version}", goals, *super().facts()[1:]]

    def drawn_by_mujoco(self) -> bool:
        """They are."""
        return True


def _only_task(task: str | None, tasks: Sequence[str] | None) -> str:
    known = all_tasks()
    if tasks is not None:
        raise ValueError(f"tasks must be left out with mt1, not {tasks!r}; it is of one task, task")
    if task is None:
        some = "reach-v3, push-v3, pick-place-v3, door-open-v3"
        raise ValueError(f"task must be given with mt1, one of Meta-World's {len(known)} V3 tasks, such as {some}")
    if not isinstance(task, str) or task not in known:
        close = closest(str(task), known)
        raise ValueError(f"task must be a Meta-World V3 task, not {task!r}; the closest are {close}")
    return task


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
        goals: an array [G, n] for each task.
        reward_version: "v2" (default) or "v1".
        fast: the fast path, with the same arithmetic; False for the official classes as shipped.
        horizon: steps of an episode.
    """

    tasks: tuple[str, ...]
    goals: tuple[NDArray[np.float64], ...]
    reward_version: str = "v2"
    fast: bool = True
    observation_size: int = OBSERVATION_SIZE
    action_size: int = ACTION_SIZE
    horizon: int = HORIZON

    @property
    def num_goals(self) -> int:
        """G."""
        return len(self.goals[0])

    def make(self, task: int) -> TaskEnv:
        """Build the environment of task number `task`."""
        _warn_instead_of_logging()
        arguments = (self.tasks[task], self.goals[task], self.reward_version, self.horizon)
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
