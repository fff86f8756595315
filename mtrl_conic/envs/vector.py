"""A vector of environments: S seeds, K tasks, N environments per task, stepped together in worker processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import EnvSpec, State
from mtrl_conic.envs.pool import WorkerPool
from mtrl_conic.envs.process import check_picklable
from mtrl_conic.envs.shared import Assignment, Layout, Place, SharedArrays, VectorStep, WorkerError

__all__ = ["VectorEnv", "VectorStep", "WorkerError", "unstored_tasks"]


class VectorEnv:
    """Environments of several seeds and tasks that step together and start their next episode by themselves.

    A seed's goals do not depend on the other seeds, on the number of workers or on the machine. Once a
    `WorkerError` is raised the vector is closed and the state of its environments is lost: a run goes on from
    its last checkpoint.

    Args:
        spec: builds the environments; with workers it must be picklable and live in an importable module.
        seeds: the S seeds, each at least 0.
        num_envs_per_task: N, the environments per task and seed.
        workers: processes to step in; 0 steps in this process.
        goals: "random" draws each episode's goal from the environment's own stream; with "in_turn" the N
            environments of a task start with goals 0 to N - 1 at `reset`, and go on by N at each episode's end.
        timeout: seconds to wait for a worker in one call. Building the environments may take longer.
        action_repeat: steps of its environment that an action is held for in one step of the vector; fewer where the
            episode ends before, at the horizon too, which counts the environment's steps. Rewards are summed.
        terminate_on_success: whether an episode is broken off where it has succeeded, as in Meta-World's evaluation.

    Raises:
        ValueError: an argument is out of range; no process has been started.
        WorkerError: an environment could not be built.
    """

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        num_envs_per_task: int = 1,
        workers: int = 1,
        goals: Literal["random", "in_turn"] = "random",
        timeout: float = 60.0,
        action_repeat: int = 1,
        terminate_on_success: bool = False,
    ) -> None:
        _validate(spec, seeds, num_envs_per_task, workers, goals, timeout)
        _at_least(1, "action_repeat", action_repeat)
        self.spec, self.action_repeat = spec, action_repeat
        self.shape: Place = (len(seeds), len(spec.tasks), num_envs_per_task)
        self._seeds = tuple(int(seed) for seed in seeds)
        layout = Layout(self.shape, spec.observation_size, spec.action_size, workers)
        self._assignments = [
            Assignment(spec, self._seeds, places, goals, layout, worker, action_repeat, terminate_on_success)
            for worker, places in enumerate(_deal(self.shape, max(workers, 1)))
        ]
        if workers > 0:
            check_picklable(spec)
        self._half = 0  # of the step memory, where the next results go
        self._phase: Literal["new", "busy", "ready", "stepping", "closed"] = "new"
        self._pool = WorkerPool(self._assignments, workers > 0, timeout)
        self._arrays: SharedArrays = self._pool.arrays
        self._workers, self._processes = self._pool.workers, self._pool.processes

    def reset(self, episodes: int | None = None) -> NDArray[np.float32]:
        """Start all episodes anew.

        Args:
            episodes: to be played for each seed and task, with goals in turn; environments that have played theirs
                rest: they return rewards of 0 and are not simulated. None for no end.

        Returns:
            The first observations [S, K, N, O], valid until the next `receive`.

        Raises:
            ValueError: `episodes`, and goals that are drawn.
            RuntimeError: a step is under way.
            WorkerError: an environment raised, or a worker is gone or did not answer in time.
        """
        self._expect("new", "ready")
        if episodes is not None and self._assignments[0].goals != "in_turn":
            raise ValueError('episodes are counted with goals="in_turn" only')
        half = self._flip()
        self._phase = "busy"
        self._request_all("reset", half, episodes)
        self._reply_all()
        self._phase = "ready"
        return self._arrays.steps[half].observation

    def send(self, action: NDArray[np.float32]) -> None:
        """Let all environments start a step with `action` [S, K, N, A]; it is copied.

        Raises:
            ValueError: the shape is another.
            RuntimeError: no `reset` or `set_state` yet, or the last step was not received.
            WorkerError: a worker is gone.
        """
        self._expect("ready")
        if action.shape != self._arrays.action.shape:
            raise ValueError(f"action must have the shape {self._arrays.action.shape}, not {action.shape}")
        self._arrays.action[...] = action
        self._phase = "busy"
        self._sent = self._flip()
        self._request_all("step", self._sent)
        self._phase = "stepping"

    def receive(self) -> VectorStep:
        """Wait for the step that `send` started.

        The arrays are views of shared memory, valid until the next `receive`. Where a signal handler raised
        (KeyboardInterrupt) while this call waited for worker processes, it may be called again.

        Raises:
            RuntimeError: no step was sent.
            WorkerError: an environment raised, or a worker is gone or did not answer in time.
        """
        self._expect("stepping")
        self._reply_all()
        self._phase = "ready"
        return self._arrays.steps[self._sent]

    def step(self, action: NDArray[np.float32]) -> VectorStep:
        """`send` and `receive`."""
        self.send(action)
        return self.receive()

    def get_state(self) -> State:
        """All that the future of the environments depends on, for `set_state` in any process.

        Callable when no step is under way. Holds numpy arrays, numbers, strings, dicts and lists only.
        """
        self._expect("ready")
        self._phase = "busy"
        self._request_all("get_state")
        states: dict[Place, State] = {}
        for part in self._reply_all():
            states |= part
        self._phase = "ready"
        envs = [states[place] for place in np.ndindex(self.shape)]
        return {**self._identity(), "envs": envs}

    def set_state(self, state: State) -> NDArray[np.float32]:
        """Continue bit for bit from a state of `get_state`, also with another number of workers.

        Returns:
            What to act on next, [S, K, N, O], valid until the next `receive`.

        Raises:
            ValueError: the state is of other tasks, seeds or another number of environments.
            WorkerError: an environment refused its state.
        """
        self._expect("new", "ready")
        for key, value in self._identity().items():
            if state[key] != value:
                raise ValueError(f"the state is of {key} {state[key]}, not {value}")
        states = dict(zip(np.ndindex(self.shape), state["envs"], strict=True))
        half = self._flip()
        self._phase = "busy"
        self._request_states(states, half)
        self._reply_all()
        self._phase = "ready"
        return self._arrays.steps[half].observation

    def remarks(self) -> list[str]:
        """What the environments have to say to the user, each line once. Callable when no step is under way."""
        if self._phase == "new":
            return []
        self._expect("ready")
        self._phase = "busy"
        self._request_all("remarks")
        said = self._reply_all()
        self._phase = "ready"
        return list(dict.fromkeys(line for lines in said for line in lines))

    def close(self) -> None:
        """Close the environments and end all workers. May be called twice."""
        if self._phase == "closed":
            return
        self._phase = "closed"
        self._pool.close()

    def __enter__(self) -> VectorEnv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request_all(self, operation: str, *arguments: Any) -> None:
        self._guard(self._pool.request_all, operation, *arguments)

    def _request_states(self, states: dict[Place, State], half: int) -> None:
        each = [({place: states[place] for place in assignment.places}, half) for assignment in self._assignments]
        self._guard(self._pool.request_each, "set_state", each)

    def _reply_all(self) -> list[Any]:
        return self._guard(self._pool.reply_all)

    def _guard(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the pool, which ends all workers where one fails."""
        try:
            return function(*arguments)
        except Exception:
            self._phase = "closed"
            raise

    def _flip(self) -> int:
        self._half = 1 - self._half
        return self._half

    def _identity(self) -> dict[str, Any]:
        return {
            "tasks": list(self.spec.tasks),
            "seeds": list(self._seeds),
            "num_envs_per_task": self.shape[2],
        }

    def _expect(self, *phases: str) -> None:
        if self._phase not in phases:
            raise RuntimeError(_HINTS[self._phase])


def unstored_tasks(state: State) -> list[str]:
    """The tasks whose environments have no state in one of `VectorEnv.get_state`: their episodes will start anew."""
    per_task, tasks = state["num_envs_per_task"], state["tasks"]
    numbers = {index // per_task % len(tasks) for index, env in enumerate(state["envs"]) if env["env"] is None}
    return [tasks[number] for number in sorted(numbers)]


_HINTS = {
    "new": "the episodes have not started: call reset or set_state first",
    "ready": "no step is under way: call send first",
    "stepping": "a step is under way: call receive first",
    "busy": "a signal interrupted the last call half-way: the vector can only be closed",
    "closed": "the vector is closed",
}


def _deal(shape: Place, workers: int) -> list[tuple[Place, ...]]:
    """Deal the environments out task by task: tasks cost different times, copies of one task the same."""
    places = sorted(np.ndindex(shape), key=lambda place: (place[1], place[0], place[2]))
    return [tuple(places[worker::workers]) for worker in range(workers)]


def _validate(
    spec: EnvSpec, seeds: Sequence[int], num_envs_per_task: int, workers: int, goals: str, timeout: float
) -> None:
    if not spec.tasks:
        raise ValueError("the env spec has no tasks")
    if len(seeds) == 0:
        raise ValueError("seeds must hold at least one seed")
    for seed in seeds:
        _at_least(0, "each seed", seed)
    _at_least(1, "num_envs_per_task", num_envs_per_task)
    _at_least(0, "workers", workers)
    envs = len(seeds) * len(spec.tasks) * num_envs_per_task
    if workers > envs:
        raise ValueError(f"workers must be at most the number of environments, {envs}, not {workers}")
    if goals not in ("random", "in_turn"):
        raise ValueError(f"goals must be 'random' or 'in_turn', not {goals!r}")
    if not (timeout > 0 and math.isfinite(timeout)):
        raise ValueError(f"timeout must be positive and finite, not {timeout}")


def _at_least(least: int, name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
