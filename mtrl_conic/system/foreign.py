"""Code of others, which may end in any way, and the line that tells of it."""

from __future__ import annotations

import traceback
from pathlib import Path

# `sys.exit()` in a file of the user's would end the command as if all were well. A KeyboardInterrupt is no failure.
FAILURES = (Exception, SystemExit)


def told(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def exited(error: SystemExit) -> str:
    """Where the program was ended by code that has no business to."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"sys.exit({error.code!r}) was called by {Path(frame.filename).name}, line {frame.lineno}"
