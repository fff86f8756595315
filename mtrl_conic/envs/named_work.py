"""The work of one worker, by name, and what is said where an environment fails in it."""

from __future__ import annotations

import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from mtrl_conic.envs.shared import WorkerAssignment, WorkerError, WorkerMemory
from mtrl_conic.system.foreign import FAILURES


class NamedWork(ABC):
    """Runs methods by name, and says which environment was at work when one fails."""

    def __init__(self, assignment: WorkerAssignment, arrays: WorkerMemory) -> None:
        self._named = assignment
        self._current = arrays.current[assignment.worker : assignment.worker + 1]

    def run(self, operation: str, *arguments: Any) -> Any:
        """Call a method by name; what an environment raises becomes a WorkerError that names it."""
        try:
            return getattr(self, operation)(*arguments)
        except FAILURES as error:
            failure = WorkerError(self._tell(operation, error))
            failure.add_note(traceback.format_exc())
            raise failure from error

    def close(self) -> None:
        """Close the environments; where that fails their work is done all the same, and a warning tells of it."""
        failures = []
        for member in self._each():
            try:
                member.env.close()
            except FAILURES as error:
                failures.append(self._tell("close", error))
        if failures:
            others = f" (and of {len(failures) - 1} more)" if len(failures) > 1 else ""
            print(f"warning: {failures[0]}{others}", file=sys.stderr, flush=True)

    @abstractmethod
    def _each(self) -> Iterator[Any]:
        """What holds an environment as `env`, one after the other, with a note of who is at work."""

    def _tell(self, operation: str, error: BaseException) -> str:
        line = traceback.format_exception_only(error)[-1].strip()
        return f"{self._named.name(int(self._current[0]))}: {operation} failed: {line}"
