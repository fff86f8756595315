"""A run folder belongs to one process at a time."""

from __future__ import annotations

import fcntl
import os
import sys
from functools import cache
from pathlib import Path


class RunLocked(RuntimeError):
    """Another process works in the run folder."""


def lock(run_dir: Path) -> int:
    """Take the run folder for this process; the kernel lets go of it however the process ends.

    Some file systems have no locks (or have them switched off): the run goes on without, after a warning.

    Raises:
        RunLocked: another process has it.
    """
    descriptor = os.open(run_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RunLocked(f"{run_dir} is in use by another process") from error
    except OSError as error:
        _warn_of_no_lock(run_dir, error.strerror)
    return descriptor


@cache
def _warn_of_no_lock(run_dir: Path, reason: str) -> None:
    """Once per folder and process."""
    print(
        f"warning: the file system of {run_dir} gives no lock ({reason}): see to it yourself that no other process"
        " works in the folder",
        file=sys.stderr,
    )
