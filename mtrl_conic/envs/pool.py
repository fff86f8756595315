"""A pool of workers that share memory: what a vector of environments stands on."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from mtrl_conic.envs.process import LocalWorker, ProcessWorker, Worker, end_workers
from mtrl_conic.envs.shared import WorkerAssignment

_GRACE = 5.0  # seconds for workers to close their environments


class WorkerPool:
    """Workers that each do a part of the same work: all are asked, then all reply.

    They end when the pool is closed or collected, when the interpreter exits, and as soon as one of them fails, since
    they no longer agree on the step.

    Args:
        assignments: what each worker does; all are of the same layout.
        in_processes: whether each worker is a process; otherwise all work is done in this one.
        timeout: seconds to wait for a reply, once the environments are built.

    Raises:
        WorkerError: an environment could not be built.
    """

    def __init__(self, assignments: Sequence[WorkerAssignment], in_processes: bool, timeout: float) -> None:
        self.workers: list[Worker] = []
        self.processes: list[ProcessWorker] = []
        # Also runs when the interpreter exits without `close`.
        self._finalizer = weakref.finalize(self, end_workers, self.processes, grace=_GRACE)
        layout = assignments[0].layout
        fd = _anonymous_file(layout.size)
        try:
            # A mapping without a name: nothing is left behind however the processes end.
            self.arrays = layout.map(mmap.mmap(fd, layout.size))
            self.arrays.current[...] = -1
            for assignment in assignments:
                self._guard(self._add_worker, assignment, fd if in_processes else None, timeout)
        finally:
            os.close(fd)
        self.reply_all()

    def request_all(self, operation: str, *arguments: Any) -> None:
        """Ask every worker for a method of its group."""
        for worker in self.workers:
            self._guard(worker.request, operation, *arguments)

    def request_each(self, operation: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        """Ask every worker for a method of its group, with arguments of its own."""
        for worker, own in zip(self.workers, arguments, strict=True):
            self._guard(worker.request, operation, *own)

    def reply_all(self) -> list[Any]:
        """Wait for the results, one per worker.

        Raises:
            WorkerError: an environment raised, or a worker is gone or did not answer in time; all are ended.
        """
        return [self._guard(worker.reply) for worker in self.workers]

    def close(self) -> None:
        """Close the environments and end all workers."""
        self._finalizer()
        for worker in self.workers:
            if isinstance(worker, LocalWorker):
                worker.close()

    def _add_worker(self, assignment: WorkerAssignment, fd: int | None, timeout: float) -> None:
        if fd is None:
            self.workers.append(LocalWorker(assignment, self.arrays))
        else:
            process = ProcessWorker(assignment, self.arrays, fd, timeout)
            self.processes.append(process)
            self.workers.append(process)

    def _guard(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception:
            end_workers(self.processes, grace=0.0)
            raise


def _anonymous_file(size: int) -> int:
    """A file descriptor of `size` zero bytes that no name refers to."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("mtrl_conic")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
