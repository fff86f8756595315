"""The registered vector: `gymnasium.make_vec("mtrl_conic/MT10")`, used as `Meta-World/MT10` is."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mtrl_conic.envs.metaworld import HIGHEST_GOAL_SEED, benchmark_tasks, draw_goals
from mtrl_conic.envs.pool import WorkerPool
from mtrl_conic.envs.process import check_picklable
from mtrl_conic.envs.registered.worker import (
    ACTION_TYPES,
    INFO_KEYS,
    INFO_TYPES,
    BenchmarkArrays,
    BenchmarkAssignment,
    BenchmarkLayout,
    BenchmarkSpec,
)
from mtrl_conic.envs.shipped import NUM_GOALS
from mtrl_conic.system import validation
from mtrl_conic.system.cores import available_cores

Step = tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]

_OWN_METHODS = ("reset", "step", "close", "set_attr")


def make_vector(
    benchmark: str,
    vector_strategy: str = "sync",
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    seed: int | None = None,
    num_envs: int | None = None,
    num_tasks: int | None = None,
    num_goals: int = NUM_GOALS,
    workers: int | None = None,
    timeout: float = 60.0,
    **options: Any,
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """The environments of a benchmark; the arguments are those of `gymnasium.make_vec("Meta-World/MT10")`.

    Args:
        benchmark: "MT10", "MT25" or "MT50".
        vector_strategy: "sync" steps them one after the other in this process, "async" in worker processes.
        autoreset_mode: when an episode that is over is followed by the next.
        seed: draws the goals and seeds every environment; None draws both anew.
        num_envs: always the number of tasks; gymnasium passes 1 where nothing is said.
        num_tasks: the length of the one-hot vector, if not the number of tasks.
        num_goals: of each task.
        workers: processes of "async"; as many as there are cores where nothing is said.
        timeout: seconds to wait for a worker process in one call.
        options: of the official environments: `use_one_hot`, `max_episode_steps`, `terminate_on_success`,
            `reward_function_version` and so on.

    Raises:
        ValueError: an argument is out of range.
        TypeError: there is no such option.
    """
    from metaworld import _init_each_env

    tasks = benchmark_tasks(benchmark.lower())
    validation.choice("vector_strategy", vector_strategy, ("sync", "async"))
    mode = AutoresetMode(autoreset_mode)
    if num_envs not in (None, 1, len(tasks)):
        raise ValueError(f"num_envs must be left out or {len(tasks)}, the tasks of {benchmark}, not {num_envs!r}")
    if workers is not None and vector_strategy == "sync":
        raise ValueError(f"workers={workers!r} needs vector_strategy='async'")
    count = _number_of_workers(workers, len(tasks))
    seconds = validation.number("timeout", timeout, 0, low_included=False)
    length = len(tasks) if num_tasks is None else validation.whole("num_tasks", num_tasks, len(tasks))
    inspect.signature(_init_each_env).bind_partial(**options)  # before seconds are spent on the goals
    goals = draw_goals(tasks, _goal_seed(seed), validation.whole("num_goals", num_goals, 1))
    spec = BenchmarkSpec(tasks, goals, seed, length, options)
    if vector_strategy == "sync":
        return SyncVectorEnv([partial(spec.make, index) for index in range(len(tasks))], autoreset_mode=mode)
    return GymnasiumVector(spec, count, mode, seconds)


def _number_of_workers(workers: int | None, most: int) -> int:
    if workers is None:
        return min(available_cores(), most)
    if validation.whole("workers", workers, 1) > most:
        raise ValueError(f"workers must be at most the number of environments, {most}, not {workers}")
    return int(workers)


def _goal_seed(seed: int | None) -> int:
    """Without a seed the goals come from numpy's global generator, as they do in the package."""
    if seed is None:
        return int(np.random.randint(2**31))  # noqa: NPY002
    return validation.whole("seed", seed, 0, HIGHEST_GOAL_SEED)


class GymnasiumVector(gymnasium.vector.VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """Environments in a few worker processes; the interface and the results of gymnasium's `AsyncVectorEnv`.

    That one starts a process per environment and pickles every `info`. Once an environment has failed the vector is
    closed. Build it with `make_vector`.
    """

    def __init__(self, spec: BenchmarkSpec, workers: int, autoreset_mode: AutoresetMode, timeout: float) -> None:
        self.num_envs = len(spec.tasks)
        self.autoreset_mode = autoreset_mode
        first = spec.make(0)
        self.metadata = {**first.metadata, "autoreset_mode": autoreset_mode}
        self.render_mode = first.render_mode
        self.single_action_space, self.single_observation_space = first.action_space, first.observation_space
        first.close()
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        shape, kind = self.single_observation_space.shape, self.single_observation_space.dtype
        layout = BenchmarkLayout(tuple(shape or ()), np.dtype(kind), self.num_envs, workers)
        dealt = [tuple(range(self.num_envs))[worker::workers] for worker in range(workers)]
        assignments = [
            BenchmarkAssignment(spec, indices, autoreset_mode, layout, worker) for worker, indices in enumerate(dealt)
        ]
        check_picklable(spec)
        self._pending = ""  # the call that is under way
        self._pool = WorkerPool(assignments, in_processes=True, timeout=timeout)
        self._arrays: BenchmarkArrays = self._pool.arrays

    @property  # type: ignore[misc]  # without a setter, as in gymnasium's own vectors
    def np_random(self) -> Any:
        """The generators of the environments."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> Any:
        """The seeds of the environments, -1 where one is not known."""
        return self.get_attr("np_random_seed")

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start episodes, those in `options["reset_mask"]` or all; the seeds do nothing, as in the package.

        Returns:
            Observations [K, O] and infos.

        Raises:
            WorkerError: an environment failed.
        """
        self.reset_async(seed, options)
        return self.reset_wait()

    def reset_async(
        self, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> None:
        """Let the environments start episodes; `reset_wait` returns what comes of it."""
        count = self.num_envs
        seeds = [seed + index for index in range(count)] if isinstance(seed, int) else list(seed or [None] * count)
        if len(seeds) != count:
            raise ValueError(f"seeds must be one per environment, {count}, not {len(seeds)}")
        rest = dict(options or {})
        mask = rest.pop("reset_mask", np.ones(count, dtype=np.bool_))
        if not isinstance(mask, np.ndarray) or mask.shape != (count,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(f"options['reset_mask'] must be a bool array [{count}] with some True, not {mask!r}")
        self._begin("reset", seeds, None if options is None else rest, mask.tolist())

    def reset_wait(self) -> tuple[NDArray[Any], dict[str, Any]]:
        """What the reset under way returns."""
        infos: dict[str, Any] = {}
        for index, info in sorted(_merged(self._finish("reset")).items()):
            infos = self._add_info(infos, info, index)
        return self._arrays.observation.copy(), infos

    def step(self, actions: NDArray[Any]) -> Step:
        """Apply actions [K, 4].

        Returns:
            Observations [K, O], rewards [K], terminated [K], truncated [K] and infos.

        Raises:
            ValueError: the shape is another.
            WorkerError: an environment failed.
        """
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Let the environments step; `step_wait` returns what comes of it."""
        actions = np.asarray(actions)
        number = 0 if actions.dtype == ACTION_TYPES[0] else 1
        memory = self._arrays.actions[number]
        if actions.shape != memory.shape:
            raise ValueError(f"actions must have the shape {memory.shape}, not {actions.shape}")
        self._check_free("step")
        memory[...] = actions
        self._begin("step", number)

    def step_wait(self) -> Step:
        """What the step under way returns."""
        special = _merged(self._finish("step"))
        arrays = self._arrays
        infos = self._infos(special) if special else self._usual_infos()
        ends = arrays.terminated.copy(), arrays.truncated.copy()
        return arrays.observation.copy(), arrays.reward.copy(), *ends, infos

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What a method of each environment returns; an attribute's value where it is one."""
        if name in _OWN_METHODS:
            raise ValueError(f"call of {name!r}: use the vector's own {name}")
        self._begin("call", name, args, kwargs)
        results = _merged(self._finish("call"))
        return tuple(results[index] for index in range(self.num_envs))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each environment: to its entry of a list or tuple, or to the same value."""
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(f"values must be one per environment, {self.num_envs}, not {len(each)}")
        self._begin("set_attr", name, each)
        self._finish("set_attr")

    def render(self) -> tuple[Any, ...]:
        """A frame of each environment."""
        return self.call("render")

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers."""
        self._pool.close()

    def _check_free(self, operation: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"{operation}: the vector is closed")
        if self._pending:
            raise AlreadyPendingCallError(f"{operation}: a {self._pending} is under way", self._pending)

    def _begin(self, operation: str, *arguments: Any) -> None:
        self._check_free(operation)
        self._pending = operation
        self._guarded(self._pool.request_all, operation, *arguments)

    def _finish(self, operation: str) -> list[Any]:
        if self.closed:
            raise ClosedEnvironmentError(f"{operation}: the vector is closed")
        if self._pending != operation:
            raise NoAsyncCallError(f"no {operation} is under way", operation)
        replies = self._guarded(self._pool.reply_all)
        self._pending = ""
        return replies

    def _guarded(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception:
            self.closed = True
            raise

    def _usual_infos(self) -> dict[str, Any]:
        """What `_add_info` would make of a usual step of every environment, a column at a time."""
        infos: dict[str, Any] = {}
        values, types = self._arrays.info, self._arrays.info_types
        for column, key in enumerate(INFO_KEYS):
            kind = INFO_TYPES[types[0, column]]
            if kind is np.bool_:  # gymnasium gives numpy's bool an array of objects
                infos[key] = np.array([self._info(index)[key] for index in range(self.num_envs)], dtype=object)
            else:
                infos[key] = values[:, column].astype(kind)
            infos[f"_{key}"] = np.ones(self.num_envs, dtype=np.bool_)
        return infos

    def _infos(self, special: dict[int, dict[str, Any]]) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for index in range(self.num_envs):
            infos = self._add_info(infos, special[index] if index in special else self._info(index), index)
        return infos

    def _info(self, index: int) -> dict[str, Any]:
        """The info of one environment as it was, with its types."""
        numbers, types = self._arrays.info[index].tolist(), self._arrays.info_types[index].tolist()
        return {key: INFO_TYPES[kind](x) for key, kind, x in zip(INFO_KEYS, types, numbers, strict=True)}


def _merged(replies: list[dict[int, Any] | None]) -> dict[int, Any]:
    """The replies of all workers by the number of the environment."""
    return {index: value for reply in replies if reply for index, value in reply.items()}
