"""The parent's handle of a worker: a process, or the same environments in the parent's own process."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

from mtrl_conic.envs.shared import (
    DONE,
    MESSAGE,
    QUIT,
    STEP,
    WorkerAssignment,
    WorkerError,
    WorkerMemory,
    receive_byte,
    receive_message,
    send_message,
)
from mtrl_conic.system.cores import available_cores
from mtrl_conic.system.foreign import FAILURES, told

# Building environments may take far longer than a step, and longer still when many workers start at once.
_START_LIMIT = 600.0
# Seconds awake for a reply, which takes less in most steps; where workers leave the parent a core.
_PATIENCE = 2e-3
# One thread a worker: there are as many workers as cores to use.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# A plain interpreter instead of multiprocessing: nothing re-imports the user's main module, so a script
# needs no main guard and its heavy imports stay out of the workers.
_PROGRAM = "import sys; sys.path[:] = {}; from mtrl_conic.envs.worker import main; main({}, {})"


class Worker(Protocol):
    """Several environments that work on request. Each request is followed by one reply."""

    def request(self, operation: str, *arguments: Any) -> None:
        """Ask for a method of the group of environments."""

    def reply(self) -> Any:
        """Wait for its result; WorkerError if it failed. Does not wait again for a result it has returned."""


class LocalWorker:
    """Environments in this process; they work when the reply is asked for."""

    def __init__(self, assignment: WorkerAssignment, arrays: WorkerMemory) -> None:
        self._group = assignment.group(arrays)
        self._request: tuple[Any, ...] | None = ("build",)

    def request(self, operation: str, *arguments: Any) -> None:
        self._request = (operation, *arguments)

    def reply(self) -> Any:
        if self._request is None:
            raise WorkerError("a signal interrupted the environments in the middle of their work")
        request, self._request = self._request, None
        return self._group.run(*request)

    def close(self) -> None:
        self._group.run("close")


class ProcessWorker:
    """Environments in a process of their own.

    Args:
        assignment: its environments.
        arrays: the shared arrays.
        memory_fd: the file of the shared memory.
        timeout: seconds to wait for a reply, once the environments are built.
    """

    def __init__(self, assignment: WorkerAssignment, arrays: WorkerMemory, memory_fd: int, timeout: float) -> None:
        self._assignment = assignment
        self._current = arrays.current
        self._timeout = timeout
        self._patience = _PATIENCE if assignment.layout.workers < available_cores() else 0.0
        self._owner = os.getpid()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self.process = _start(theirs.fileno(), memory_fd)
        self._waiting = False
        self._built = False
        self._socket.settimeout(max(_START_LIMIT, timeout))
        try:
            send_message(self._socket, MESSAGE, assignment)
            self.request("build")
        except BaseException:
            end_workers([self], grace=0.0)
            raise

    def request(self, operation: str, *arguments: Any) -> None:
        try:
            if operation == "step":
                self._socket.sendall(STEP[arguments[0]])
            else:
                send_message(self._socket, MESSAGE, (operation, arguments))
        except OSError:
            raise self._failure() from None
        self._waiting = True

    def reply(self) -> Any:
        if not self._waiting:
            return None
        try:
            status = receive_byte(self._socket, self._patience)
            if not status:
                raise EOFError
            self._waiting = False
            answer = None if status == DONE else receive_message(self._socket)
        except (OSError, EOFError) as error:
            raise self._failure(hung=isinstance(error, TimeoutError)) from None
        if isinstance(answer, WorkerError):
            raise answer
        if not self._built:
            self._built = True
            self._socket.settimeout(self._timeout)
        return answer

    def ask_to_quit(self) -> None:
        """Let the worker close its environments and exit."""
        if self._owner != os.getpid():
            return  # a fork of the owner has no business here
        try:
            self._socket.settimeout(1.0)
            self._socket.sendall(QUIT)
        except OSError:
            return  # it is gone already

    def end(self, deadline: float) -> None:
        """Wait until `deadline` (in `time.monotonic`) for the process to exit, then kill it."""
        if self._owner != os.getpid():
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._socket.close()

    def _failure(self, hung: bool = False) -> WorkerError:
        name = self._assignment.name(int(self._current[self._assignment.worker]))
        if hung:
            return WorkerError(f"{name}: no answer from the worker within {self._socket.gettimeout():g} s")
        try:
            code = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return WorkerError(f"{name}: the worker closed its connection")
        if code < 0:
            return WorkerError(f"{name}: the worker was killed by {signal.Signals(-code).name}")
        return WorkerError(f"{name}: the worker exited with status {code}")


def end_workers(workers: Sequence[ProcessWorker], grace: float) -> None:
    """End all processes: ask, wait for `grace` seconds, kill. Safe to call twice."""
    if grace:
        for worker in workers:
            worker.ask_to_quit()
    deadline = time.monotonic() + grace
    for worker in workers:
        worker.end(deadline)


def check_picklable(spec: object) -> None:
    """ValueError where a worker could not load the spec; one line."""
    module = type(spec).__module__
    if module == "__main__":
        raise ValueError(
            f"the env spec {type(spec).__name__} is defined in the main script, which workers "
            "do not import: move it to a module, or use workers=0"
        )
    try:
        pickle.dumps(spec)
    except FAILURES as error:  # the class may be a user's, and do anything
        raise ValueError(f"the env spec cannot be sent to workers ({told(error)}); use workers=0") from error


def _start(socket_fd: int, memory_fd: int) -> subprocess.Popen[bytes]:
    program = _PROGRAM.format([os.path.abspath(path) for path in sys.path], socket_fd, memory_fd)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **dict.fromkeys(_THREADS, "1")},
        pass_fds=(socket_fd, memory_fd),
        # Ctrl-C and `timeout` signal the whole group, also before the worker ignores them (`worker.main`).
        process_group=0,
    )
