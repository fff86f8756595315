"""The worker side of the registered vector: official wrappers around fast environments, and the memory of a step."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from mtrl_conic.envs.fast.rebind import exact_class
from mtrl_conic.envs.named_work import NamedWork
from mtrl_conic.envs.registered.task import official_tasks
from mtrl_conic.envs.shared import Field, WorkerGroup, memory_size, place_arrays
from mtrl_conic.envs.shipped import ACTION_SIZE, task_class

# What every task's `info` holds at a step. It goes through the shared memory: pickling it would take as long as the
# physics. All else (the end of an episode, what a wrapper adds) is sent as a message.
INFO_KEYS = (
    *("success", "near_object", "grasp_success", "grasp_reward"),
    *("in_place_reward", "obj_to_target", "unscaled_reward"),
)
# Types that a float64 holds without loss; their numbers stand beside the values.
INFO_TYPES: tuple[type, ...] = (float, np.float64, bool, np.bool_, int, np.int64, np.float32)
# Types of an action: the official step computes with what it is given. A step names the one in use by its number.
ACTION_TYPES = (np.float32, np.float64)

_USUAL = frozenset(INFO_KEYS)
_values = itemgetter(*INFO_KEYS)


@dataclass(frozen=True)
class BenchmarkSpec:
    """The environments of a benchmark: the official ones with the fast class inside.

    Args:
        tasks: K names such as "reach-v3".
        goals: an array [number of goals, n] for each task.
        seed: of every environment, or None.
        num_tasks: the length of the one-hot vector.
        options: arguments of the package's own environments, such as `use_one_hot` and `max_episode_steps`.
    """

    tasks: tuple[str, ...]
    goals: tuple[NDArray[np.float64], ...]
    seed: int | None
    num_tasks: int
    options: dict[str, Any]

    def make(self, index: int) -> gymnasium.Env[Any, Any]:
        """Build the environment of task number `index`, in the official wrappers."""
        from metaworld import _init_each_env

        task = self.tasks[index]
        return _init_each_env(
            env_cls=exact_class(task_class(task)),
            tasks=official_tasks(task, self.goals[index]),
            seed=self.seed,
            env_id=index,
            num_tasks=self.num_tasks,
            **self.options,
        )


class BenchmarkArrays(NamedTuple):
    """Views into the memory of a step: K environments."""

    actions: tuple[NDArray[Any], ...]  # [K, 4], one of each of ACTION_TYPES
    observation: NDArray[Any]  # [K, *shape of an observation]
    reward: NDArray[np.float64]  # [K]
    terminated: NDArray[np.bool_]  # [K]
    truncated: NDArray[np.bool_]  # [K]
    info: NDArray[np.float64]  # [K, 7], in the order of INFO_KEYS
    info_types: NDArray[np.uint8]  # [K, 7], indices of INFO_TYPES
    current: NDArray[np.int64]  # [workers], the environment at work, or -1


@dataclass(frozen=True)
class BenchmarkLayout:
    """The arrays of a vector and their places in the shared memory; a `WorkerLayout`."""

    observation_shape: tuple[int, ...]
    observation_type: np.dtype[Any]
    num_envs: int
    workers: int

    @property
    def size(self) -> int:
        """Bytes of memory needed."""
        return memory_size(self._fields())

    def map(self, memory: mmap.mmap) -> BenchmarkArrays:
        """Lay the arrays over the memory."""
        arrays = place_arrays(self._fields(), memory)
        actions = tuple(next(arrays) for _ in ACTION_TYPES)
        return BenchmarkArrays(actions, *arrays)

    def _fields(self) -> list[Field]:
        count = self.num_envs
        actions: list[Field] = [((count, ACTION_SIZE), kind) for kind in ACTION_TYPES]
        observation: Field = ((count, *self.observation_shape), self.observation_type)
        ends: list[Field] = [((count,), np.float64), ((count,), np.bool_), ((count,), np.bool_)]
        info: list[Field] = [((count, len(INFO_KEYS)), kind) for kind in (np.float64, np.uint8)]
        return [*actions, observation, *ends, *info, ((self.workers,), np.int64)]


@dataclass(frozen=True)
class BenchmarkAssignment:
    """The environments of one worker; a `WorkerAssignment`."""

    spec: BenchmarkSpec
    indices: tuple[int, ...]
    autoreset_mode: AutoresetMode
    layout: BenchmarkLayout
    worker: int

    def group(self, arrays: BenchmarkArrays) -> WorkerGroup:
        """The environments, not yet built."""
        return BenchmarkGroup(self, arrays)

    def name(self, current: int = -1) -> str:
        """Name the task of an environment, or all of this worker where it is -1."""
        if current < 0:
            return "tasks " + ", ".join(repr(self.spec.tasks[index]) for index in self.indices)
        return f"task {self.spec.tasks[current]!r}"


@dataclass
class Member:
    """One environment of a worker."""

    index: int
    env: gymnasium.Env[Any, Any]
    over: bool = False  # whether the last step ended an episode that the next one has to reset
    types: tuple[type, ...] = ()  # of its last info in the shared memory


class BenchmarkGroup(NamedWork):
    """The environments of one worker."""

    def __init__(self, assignment: BenchmarkAssignment, arrays: BenchmarkArrays) -> None:
        super().__init__(assignment, arrays)
        self._assignment, self._arrays = assignment, arrays
        self._members: list[Member] = []

    def build(self) -> None:
        """Make the environments."""
        for index in self._assignment.indices:
            self._current[0] = index
            self._members.append(Member(index, self._assignment.spec.make(index)))
        self._current[0] = -1

    def reset(
        self, seeds: list[int | None], options: dict[str, Any] | None, mask: list[bool]
    ) -> dict[int, dict[str, Any]]:
        """Start the episodes of the environments in `mask`; their infos by number."""
        infos = {}
        for member in self._each():
            if mask[member.index]:
                observation, infos[member.index] = member.env.reset(seed=seeds[member.index], options=options)
                self._arrays.observation[member.index] = observation
                member.over = False
        return infos

    def step(self, action_type: int) -> dict[int, dict[str, Any]] | None:
        """Apply the actions of that type; the infos that have no place in the shared memory, if there are any."""
        actions, infos = self._arrays.actions[action_type], {}
        for member in self._each():
            info = self._step(member, actions[member.index].copy())
            if not self._put(member, info):
                infos[member.index] = info
        return infos or None

    def call(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> dict[int, Any]:
        """What a method returns, or an attribute is, by number."""
        results = {}
        for member in self._each():
            found = member.env.get_wrapper_attr(name)
            results[member.index] = found(*arguments, **options) if callable(found) else found
        return results

    def set_attr(self, name: str, values: list[Any]) -> None:
        """Set an attribute of each environment."""
        for member in self._each():
            member.env.set_wrapper_attr(name, values[member.index])

    def _step(self, member: Member, action: NDArray[Any]) -> dict[str, Any]:
        """A step or, where gymnasium's mode asks for one, a reset; the results go into the arrays."""
        arrays, index, mode = self._arrays, member.index, self._assignment.autoreset_mode
        reward: Any
        if member.over and mode == AutoresetMode.NEXT_STEP:
            observation, info = member.env.reset()
            reward, terminated, truncated = 0.0, False, False
        else:
            observation, reward, terminated, truncated, info = member.env.step(action)
        member.over = terminated or truncated
        if member.over and mode == AutoresetMode.SAME_STEP:
            last, final = observation, info
            observation, first = member.env.reset()
            info = {"final_info": final, "final_obs": last, **first}
        arrays.observation[index] = observation
        arrays.reward[index] = reward
        arrays.terminated[index] = terminated
        arrays.truncated[index] = truncated
        return info

    def _put(self, member: Member, info: dict[str, Any]) -> bool:
        """Write an info into the shared memory, if it is one of a usual step."""
        if info.keys() != _USUAL:
            return False
        values = _values(info)
        types = tuple(map(type, values))
        if types != member.types:  # seldom
            if not set(types) <= set(INFO_TYPES):
                return False
            self._arrays.info_types[member.index] = [INFO_TYPES.index(kind) for kind in types]
            member.types = types
        self._arrays.info[member.index] = values
        return True

    def _each(self) -> Iterator[Member]:
        for member in self._members:
            self._current[0] = member.index
            yield member
        self._current[0] = -1
