"""Any gymnasium environments with Box spaces of equal sizes, one per task (https://gymnasium.farama.org)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs import returned
from mtrl_conic.envs.base import Camera, EnvStep, State
from mtrl_conic.envs.environments import Environments
from mtrl_conic.envs.gymnasium_probe import Id, Probe, can_be_stored, discard, draws_with_mujoco, make, probe, read_ids
from mtrl_conic.envs.stored_object import dump, load
from mtrl_conic.system.validation import whole

_HIGHEST_SEED = 2**31 - 1  # more than most environments' generators are asked to take


class Gymnasium(Environments):
    """Tasks that gymnasium makes by their ids.

    Actions between -1 and 1 are scaled to each task's own bounds. Goal number g is `reset(seed=first_seed + g)`, so
    that an evaluation on goals 0, 1, ... is one on a fixed list of seeds. An episode that the environment truncates,
    by its time limit or otherwise, counts as truncated.

    Args:
        tasks: ids such as "Pendulum-v1" ("module:Id-v0" imports the module first), which are the tasks' names as well;
            or a mapping from names to ids, which may then repeat.
        kwargs: what `gymnasium.make` passes on to every environment.
        task_kwargs: the same by the task's name; comes on top of `kwargs`.
        success_key: of `info`: a step succeeds where `info[success_key]` is true.
        success_return: an episode succeeds that has this return at its end, or more; a number, or one by the task's
            name. With neither of the two nothing ever counts as a success.
        max_episode_steps: of an episode; by default each environment's own.
        num_goals: how many different resets there are.
        first_seed: of the resets.
    """

    def __init__(
        self,
        tasks: Sequence[str] | Mapping[str, str] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
        success_key: str | None = None,
        success_return: float | Mapping[str, float] | None = None,
        max_episode_steps: int | None = None,
        num_goals: int = 1_000_000,
        first_seed: int = 0,
    ) -> None:
        limit = None if max_episode_steps is None else whole("max_episode_steps", max_episode_steps, 1)
        ids = read_ids(tasks, kwargs, task_kwargs, limit)
        self.tasks = tuple(ids)
        self.num_goals = whole("num_goals", num_goals, 1, _HIGHEST_SEED)
        self._first_seed = whole("first_seed", first_seed, 0, _HIGHEST_SEED - self.num_goals)
        self._success = _success(self.tasks, success_key, success_return)
        self._ids = tuple(ids.values())
        probes = [probe(task, each) for task, each in ids.items()]
        self.observation_size, self.action_size = _sizes(self.tasks, probes)
        self._horizons = tuple(each.horizon for each in probes)
        self.horizon = max(self._horizons)

    def setup(self) -> GymnasiumSpec:
        """Try out which environments can be stored in mid-episode."""
        return GymnasiumSpec(
            self.tasks,
            self._ids,
            self._horizons,
            self._success,
            tuple(can_be_stored(each) for each in self._ids),
            self.observation_size,
            self.action_size,
            self.horizon,
            self.num_goals,
            self._first_seed,
        )

    def title(self, name: str) -> str:
        """A heading for reports and evaluations."""
        return ", ".join([name, *(self.tasks if len(self.tasks) <= 3 else [f"{len(self.tasks)} tasks"])])

    def facts(self) -> list[str]:
        """Resets, lengths and sizes."""
        lengths = sorted({*self._horizons})
        steps = f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else f"{lengths[0]}"
        last = self._first_seed + self.num_goals - 1
        resets = f"resets drawn from seeds {self._first_seed} to {last}"
        return [resets, f"episodes of at most {steps} steps", f"{self.observation_size} numbers observed"]

    def drawn_by_mujoco(self) -> bool:
        """Whether any of them is.

        Raises:
            ValueError: one of them has no pictures.
        """
        drawn = [draws_with_mujoco(task, each) for task, each in zip(self.tasks, self._ids, strict=True)]
        return any(drawn)


@dataclass(frozen=True)
class Success:
    """What counts as a success in one task: a key of `info`, the return of an episode, or nothing."""

    key: str | None = None
    least_return: float | None = None


@dataclass(frozen=True)
class GymnasiumSpec:
    """What the vector builds gymnasium's environments from. Build it with `Gymnasium.setup`; K values in each tuple."""

    tasks: tuple[str, ...]
    ids: tuple[Id, ...]
    horizons: tuple[int, ...]
    success: tuple[Success, ...]
    stored: tuple[bool, ...]
    observation_size: int
    action_size: int
    horizon: int
    num_goals: int
    first_seed: int

    def make(self, task: int) -> GymnasiumTaskEnv:
        """Build the environment of task number `task`."""
        return GymnasiumTaskEnv(self, task)


class GymnasiumTaskEnv:
    """One of gymnasium's environments; a `TaskEnv`."""

    def __init__(self, spec: GymnasiumSpec, task: int) -> None:
        self.observation_size, self.action_size = spec.observation_size, spec.action_size
        self.horizon, self.num_goals = spec.horizons[task], spec.num_goals
        self._id, self._success, self._stored = spec.ids[task], spec.success[task], spec.stored[task]
        self._task, self._first_seed = spec.tasks[task], spec.first_seed
        self._use(make(self._id))
        self._step, self._return = 0, 0.0
        self._missing, self._keys, self._shown = self._success.key is not None, set[str](), False

    def _use(self, env: Any) -> None:
        self.env, space = env, env.action_space
        self._low, self._high, self._dtype = space.low.astype(float), space.high.astype(float), space.dtype

    def reset(self, goal: int) -> NDArray[np.float64]:
        """Reset with the seed that the goal's number stands for; the observation [O]."""
        observation = returned.gymnasium_reset(self.env.reset(seed=self._first_seed + goal))
        self._step, self._return = 0, 0.0
        return self._checked(observation)

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Apply an action [A] with entries in [-1, 1], scaled to the bounds of the action space."""
        share = (np.clip(action.astype(float), -1.0, 1.0) + 1.0) / 2.0
        scaled = np.clip(self._low + share * (self._high - self._low), self._low, self._high)
        found = returned.gymnasium_step(self.env.step(scaled.astype(self._dtype)))
        observation, reward, info = self._checked(found[0]), returned.number("reward", found[1]), found[4]
        terminated, truncated = returned.flag("terminated", found[2]), returned.flag("truncated", found[3])
        self._step += 1
        self._return += reward
        ended = terminated or truncated or self._step >= self.horizon
        return EnvStep(observation, reward, terminated, self._succeeds(info, ended), truncated)

    def remarks(self) -> list[str]:
        """What the user should know: that no step of a whole episode had the `success_key`."""
        key = self._success.key
        if key is None or not self._shown:
            return []
        there = f"there were {', '.join(sorted(self._keys))}" if self._keys else "it was empty"
        return [f"task {self._task!r} never succeeds: no info of an episode had the success_key {key!r}; {there}"]

    def _checked(self, observation: Any) -> NDArray[np.float64]:
        return returned.checked_observation(observation, (self.observation_size,)).astype(np.float64)

    def _succeeds(self, info: Mapping[str, Any], ended: bool) -> bool:
        """Returns may fall again, so that they count at an episode's end only."""
        key = self._success.key
        if key is not None:
            if self._missing:
                self._look_for(key, info, ended)
            return key in info and returned.flag(f"info[{key!r}]", info[key])
        return ended and self._success.least_return is not None and self._return >= self._success.least_return

    def _look_for(self, key: str, info: Mapping[str, Any], ended: bool) -> None:
        self._missing = key not in info
        self._keys.update(map(str, info))
        self._shown = self._missing and (self._shown or ended)

    def get_state(self) -> State:
        """The environment with its wrappers, as bytes; None where it cannot be stored."""
        if not self._stored:
            return None
        try:
            return {"env": dump(self.env), "step": self._step, "return": self._return}
        except (
            Exception
        ):  # it has come to hold what cannot be stored, and a checkpoint without it is worth more than none
            return None

    def set_state(self, state: State) -> None:
        """Continue from a state of `get_state`."""
        env = load(state["env"])
        discard(self.env)
        self._use(env)
        self._step, self._return = state["step"], state["return"]

    def close(self) -> None:
        """Release what the environment holds."""
        self.env.close()

    def camera(self, size: int) -> Camera:
        """What draws the environment, which is made anew for it, in pictures of `size` × `size` pixels."""
        from mtrl_conic.envs.cameras import RenderCamera

        discard(self.env)
        self._use(make(self._id, render_mode="rgb_array"))
        return RenderCamera(self.env, size)


def _success(tasks: Sequence[str], key: str | None, least: float | Mapping[str, float] | None) -> tuple[Success, ...]:
    if key is not None and least is not None:
        raise ValueError("success_key and success_return cannot both be given")
    if key is not None and (not isinstance(key, str) or not key):
        raise ValueError(f"success_key must be a name, not {key!r}")
    if not isinstance(least, Mapping):
        shared = None if least is None else _return(least)
        return tuple(Success(key, shared) for _ in tasks)
    if {*least} != {*tasks}:
        raise ValueError(f"success_return must have a number for each of {', '.join(tasks)}, not {dict(least)}")
    return tuple(Success(None, _return(least[task])) for task in tasks)


def _return(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"success_return must be a number, or one by each task's name, not {value!r}")
    return float(value)


def _sizes(tasks: Sequence[str], probes: Sequence[Probe]) -> tuple[int, int]:
    """The sizes that all tasks share."""
    for task, each in zip(tasks, probes, strict=True):
        for what in ("observation", "action"):
            here, first = getattr(each, what), getattr(probes[0], what)
            if here != first:
                others = f"{here} of {task} and {first} of {tasks[0]}"
                raise ValueError(f"tasks must have {what}s of one size, not {others}")
    return probes[0].observation, probes[0].action
