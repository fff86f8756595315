"""What the vector and its workers have in common: the memory of a step, the messages and the error."""

from __future__ import annotations

import math
import mmap
import os
import pickle
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mtrl_conic.envs.base import EnvSpec

# Parent to worker. A step is one byte, which says where to write its results; all else is a message.
STEP = (b"0", b"1")
MESSAGE = b"m"
QUIT = b"q"
# Worker to parent. An answer without content is one byte.
DONE = b"."

_LENGTH = struct.Struct("!Q")
_ALIGNMENT = 64  # a cache line
_PIECES = 30  # of a wait

Place = tuple[int, int, int]  # indices of the seed, of the task and of the environment
Field = tuple[tuple[int, ...], DTypeLike]  # the shape and the type of an array in the shared memory


class WorkerError(RuntimeError):
    """An environment or the worker process that steps it failed; the message names the task and the seed.

    The vector is closed by then, and the state of its environments is lost: go on from the last checkpoint.
    """


class VectorStep(NamedTuple):
    """One transition of all environments: S seeds, K tasks, N environments per task, O observation entries.

    It is one step of each environment or, with an `action_repeat`, all those that its action was held for.
    """

    observation: NDArray[np.float32]  # [S, K, N, O], what to act on next, be it of a new episode
    next_observation: NDArray[np.float32]  # [S, K, N, O], where this transition led, also at an episode's end
    reward: NDArray[np.float32]  # [S, K, N], the sum over the transition
    terminated: NDArray[np.bool_]  # [S, K, N]
    truncated: NDArray[np.bool_]  # [S, K, N], broken off, at the horizon or by the environment, and not terminated
    success: NDArray[np.bool_]  # [S, K, N], at any step of the episode so far, this one included
    episode_return: NDArray[np.float64]  # [S, K, N], rewards of the episode so far, this one included
    # [S, K, N, 2·O + 3], the first five side by side, which are one copy to wherever they are learned from.
    transition: NDArray[np.float32]


class SharedArrays(NamedTuple):
    """Views into the memory that the parent and all workers map."""

    action: NDArray[np.float32]  # [S, K, N, A]
    # Two, used in turn: the parent reads the results of a step while the workers write those of the next.
    steps: tuple[VectorStep, VectorStep]
    current: NDArray[np.int64]  # [max(workers, 1)], the environment at work (a flat index), or -1


class WorkerMemory(Protocol):
    """Arrays in the memory that the parent and all workers map."""

    @property
    def current(self) -> NDArray[np.int64]:
        """[max(workers, 1)], the environment at work, or -1; lets the parent name the culprit of a crash or a hang."""


class WorkerLayout(Protocol):
    """Which arrays there are, and where."""

    @property
    def workers(self) -> int:
        """The number of worker processes."""

    @property
    def size(self) -> int:
        """Bytes of memory needed."""

    def map(self, memory: mmap.mmap) -> Any:
        """Lay the arrays over the memory."""


class WorkerGroup(Protocol):
    """The environments of one worker, where they are stepped."""

    def run(self, operation: str, *arguments: Any) -> Any:
        """Call a method by name; WorkerError that names the environment where it raises."""

    def close(self) -> None:
        """Close the environments."""


class WorkerAssignment(Protocol):
    """The work of one worker; picklable."""

    @property
    def layout(self) -> WorkerLayout: ...

    @property
    def worker(self) -> int:
        """The number of the worker."""

    def name(self, current: int = -1) -> str:
        """Name an environment, or all of this worker where it is -1."""

    def group(self, arrays: Any) -> WorkerGroup:
        """The environments, not yet built, on arrays of the layout."""


@dataclass(frozen=True)
class Layout:
    """The arrays of a vector and their places in the shared memory."""

    shape: Place
    observation_size: int
    action_size: int
    workers: int

    @property
    def size(self) -> int:
        """Bytes of memory needed."""
        return memory_size(self._fields())

    def map(self, memory: mmap.mmap) -> SharedArrays:
        """Lay the arrays over the memory."""
        arrays = place_arrays(self._fields(), memory)
        action = next(arrays)
        first, second = (self._step(*(next(arrays) for _ in self._step_fields())) for _ in STEP)
        return SharedArrays(action, (first, second), next(arrays))

    def _step(self, transition: NDArray[Any], *flags_and_return: NDArray[Any]) -> VectorStep:
        observation, following, rest = np.split(transition, [self.observation_size, 2 * self.observation_size], -1)
        return VectorStep._make((observation, following, rest[..., 0], *flags_and_return, transition))

    def _step_fields(self) -> list[Field]:
        """The transition, the three flags and the return."""
        transition = ((*self.shape, 2 * self.observation_size + 3), np.float32)
        return [transition, *[(self.shape, np.bool_)] * 3, (self.shape, np.float64)]

    def _fields(self) -> list[Field]:
        action, step = ((*self.shape, self.action_size), np.float32), self._step_fields()
        return [action, *step, *step, ((max(self.workers, 1),), np.int64)]


@dataclass(frozen=True)
class Assignment:
    """The environments of one worker, and all it needs to build them."""

    spec: EnvSpec
    seeds: tuple[int, ...]
    places: tuple[Place, ...]
    goals: str
    layout: Layout
    worker: int
    action_repeat: int = 1
    terminate_on_success: bool = False

    def group(self, arrays: SharedArrays) -> WorkerGroup:
        """The environments, not yet built."""
        from mtrl_conic.envs.worker import Group  # which imports this module

        return Group(self, arrays)

    def name(self, current: int = -1) -> str:
        """Name the environment with that flat index, or all of this worker where it is -1."""
        if current < 0:
            return self._name_all()
        seed, task, env = (int(index) for index in np.unravel_index(current, self.layout.shape))
        number = f", environment {env}" if self.layout.shape[2] > 1 else ""
        return f"task {self.spec.tasks[task]!r} (seed {self.seeds[seed]}{number})"

    def _name_all(self) -> str:
        seeds: dict[str, list[str]] = {}
        for seed, task, _ in self.places:
            names = seeds.setdefault(self.spec.tasks[task], [])
            if str(self.seeds[seed]) not in names:
                names.append(str(self.seeds[seed]))
        return "tasks " + ", ".join(f"{task!r} (seed {', '.join(names)})" for task, names in seeds.items())


def send_message(connection: socket.socket, tag: bytes, content: Any) -> None:
    """Send a tag byte and any picklable content; for all that is not on the path of a step."""
    data = pickle.dumps(content)
    connection.sendall(tag + _LENGTH.pack(len(data)) + data)


def receive_byte(connection: socket.socket, patience: float) -> bytes:
    """The next byte, or none where the other side is gone.

    Looks for it again and again, `patience` seconds at most, before it sleeps: to be woken takes a good part of what
    an environment's step takes. Other processes may have the core in between.

    Raises:
        TimeoutError: none came within the connection's own time limit.
    """
    arrived = select.poll()
    arrived.register(connection, select.POLLIN)
    deadline = time.perf_counter() + patience
    while time.perf_counter() < deadline:
        if arrived.poll(0):
            return connection.recv(1)
        os.sched_yield()
    limit = connection.gettimeout()
    # In pieces, of which each counts for no more than its length: where a scheduler suspends this process and the other
    # one, the clock goes on without them.
    if limit is not None and not any(arrived.poll(1e3 * limit / _PIECES) for _ in range(_PIECES)):
        raise TimeoutError
    return connection.recv(1)


def receive_message(connection: socket.socket) -> Any:
    """Receive the content whose tag byte has been read; EOFError if the other side is gone."""
    (length,) = _LENGTH.unpack(_receive(connection, _LENGTH.size))
    return pickle.loads(_receive(connection, length))


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError("the other side closed the connection")
        data += part
    return bytes(data)


def _padded(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT


def memory_size(fields: Sequence[Field]) -> int:
    """Bytes of memory for arrays of these shapes and types, each on a cache line of its own."""
    return sum(_padded(*field) for field in fields)


def place_arrays(fields: Sequence[Field], memory: mmap.mmap) -> Iterator[NDArray[Any]]:
    """The arrays, one after the other over the memory."""
    offset = 0
    for shape, dtype in fields:
        yield np.ndarray(shape, dtype, memory, offset)
        offset += _padded(shape, dtype)
