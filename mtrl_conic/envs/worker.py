"""The worker side of the vector: environments with their episodes, and the loop that obeys the parent."""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np

from mtrl_conic.envs.base import EnvSpec, State, TaskEnv
from mtrl_conic.envs.episodes import Episodes
from mtrl_conic.envs.named_work import NamedWork
from mtrl_conic.envs.shared import (
    DONE,
    MESSAGE,
    QUIT,
    STEP,
    Assignment,
    Place,
    SharedArrays,
    WorkerAssignment,
    WorkerError,
    WorkerGroup,
    receive_byte,
    receive_message,
    send_message,
)
from mtrl_conic.system import console
from mtrl_conic.system.foreign import FAILURES
from mtrl_conic.system.signals import STOPPING

# A worker stays awake for the next command half as long as its last step took, within these bounds in seconds: by then
# the next step follows, where nothing is learnt in between. A core that sleeps meanwhile, above all a virtual one,
# takes long to wake, and where there are few cores several workers may find themselves on the same. After so many
# longer waits in a row a worker no longer stays awake: what is learnt at every step needs the core.
_LEAST_PATIENCE, _MOST_PATIENCE, _LONG_WAITS = 1e-3, 1e-2, 8


class Group(NamedWork):
    """The environments of one worker; works in the worker's process or in the parent's own.

    Args:
        assignment: which environments.
        arrays: where the actions are read and the results written.
    """

    def __init__(self, assignment: Assignment, arrays: SharedArrays) -> None:
        super().__init__(assignment, arrays)
        self._assignment = assignment
        self._arrays = arrays
        self._members: list[Episodes] = []
        self._observation = arrays.steps[0].observation  # of the last step, reset or loaded state

    def build(self) -> None:
        """Make the environments."""
        spec, assignment = self._assignment.spec, self._assignment
        for place in assignment.places:
            index = int(np.ravel_multi_index(place, assignment.layout.shape))
            self._current[0] = index
            env = spec.make(place[1])
            _check(env, spec)
            seed, in_turn = assignment.seeds[place[0]], (assignment.goals == "in_turn") * assignment.layout.shape[2]
            how = (assignment.action_repeat, assignment.terminate_on_success)
            self._members.append(Episodes(env, place, index, seed, in_turn, *how))
        self._current[0] = -1

    def reset(self, half: int, episodes: int | None = None) -> None:
        """Start all episodes anew, so many of each task and seed; write to the given half of the step memory."""
        out = self._arrays.steps[half]
        for member in self._each():
            member.reset(out, episodes)
        self._observation = out.observation

    def step(self, half: int) -> None:
        """Apply the actions; write to the given half of the step memory."""
        out, action = self._arrays.steps[half], self._arrays.action
        for member in self._each():
            member.step(action, out)
        self._observation = out.observation

    def get_state(self) -> dict[Place, State]:
        """The state of each environment by its place."""
        return {member.place: member.get_state(self._observation[member.place]) for member in self._each()}

    def set_state(self, states: dict[Place, State], half: int) -> None:
        """Continue from the states; write the observations to the given half of the step memory."""
        out = self._arrays.steps[half]
        for member in self._each():
            member.set_state(states[member.place], out)
        self._observation = out.observation

    def remarks(self) -> list[str]:
        """What the environments have to say to the user."""
        return [line for member in self._each() for line in getattr(member.env, "remarks", list)()]

    def _each(self) -> Iterator[Episodes]:
        # The note of who is at work lets the parent name the culprit of a crash or a hang.
        for member in self._members:
            self._current[0] = member.index
            yield member
        self._current[0] = -1


def main(socket_fd: int, memory_fd: int) -> None:
    """Serve the parent until it asks to quit or is gone.

    Args:
        socket_fd: one end of a socket pair; the first message is the assignment.
        memory_fd: a file with the memory of its layout.
    """
    # Only the parent decides what a signal means, also where a cluster sends it to all processes of a job. It may still
    # want the state of the environments; when it is gone this process ends.
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    console.protect()  # an environment may print
    os.set_inheritable(socket_fd, False)
    connection = socket.socket(fileno=socket_fd)
    threading.Thread(target=_exit_with_parent, args=(connection.fileno(),), daemon=True).start()
    try:
        group = _prepare(connection, memory_fd)
        _serve(connection, group)
    except (EOFError, ConnectionError):
        os._exit(1)  # the parent is gone


def _prepare(connection: socket.socket, memory_fd: int) -> WorkerGroup:
    connection.recv(1)
    try:
        assignment: WorkerAssignment = receive_message(connection)
    except (EOFError, ConnectionError):
        raise
    except FAILURES as error:  # for instance, the spec's module cannot be imported here
        line = traceback.format_exception_only(error)[-1].strip()
        send_message(connection, MESSAGE, WorkerError(f"the env spec could not be loaded: {line}"))
        raise SystemExit(1) from None
    memory = mmap.mmap(memory_fd, assignment.layout.size)
    os.close(memory_fd)
    return assignment.group(assignment.layout.map(memory))


def _serve(connection: socket.socket, group: WorkerGroup) -> None:
    long_waits, patience = 0, _LEAST_PATIENCE
    while True:
        waiting_since = time.perf_counter()
        command = receive_byte(connection, patience if long_waits < _LONG_WAITS else 0.0)
        working_since = time.perf_counter()
        long_waits = long_waits + 1 if working_since - waiting_since > patience else 0
        if command == QUIT:
            return group.close()
        try:
            answer = _obey(connection, group, command)
        except WorkerError as error:
            answer = error
        if command in STEP:
            took = time.perf_counter() - working_since
            patience = min(max(took / 2, _LEAST_PATIENCE), _MOST_PATIENCE)
        if answer is None:
            connection.sendall(DONE)
        else:
            send_message(connection, MESSAGE, answer)


def _obey(connection: socket.socket, group: WorkerGroup, command: bytes) -> Any:
    if command in STEP:
        return group.run("step", STEP.index(command))
    if command == MESSAGE:
        operation, arguments = receive_message(connection)
        return group.run(operation, *arguments)
    raise EOFError("the parent is gone")


def _exit_with_parent(fd: int) -> None:
    """End this process when the parent is gone, even in the middle of a long or hanging step."""
    poll = select.poll()
    poll.register(fd, 0)  # hang-up and errors are always reported
    poll.poll()
    os._exit(1)


def _check(env: TaskEnv, spec: EnvSpec) -> None:
    for name in ("observation_size", "action_size", "num_goals"):
        if getattr(env, name) != getattr(spec, name):
            raise ValueError(f"{name} is {getattr(env, name)}, but {getattr(spec, name)} in the spec")
    if not 1 <= env.horizon <= spec.horizon:
        raise ValueError(f"horizon is {env.horizon}, but must be from 1 to {spec.horizon}, the one of the spec")
