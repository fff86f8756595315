"""Standard output and error of the commands: a reader that goes away must not cost a command anything."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO


def run(main: Callable[[], int], printed: bool = False) -> int:
    """Run a command whose output never fails; returns its exit status.

    `train ... | head -1`, a `tee` that dies, a closed terminal, a closed descriptor and a full disk under the output
    are as if somebody had read it all.

    Args:
        main: the command.
        printed: the output is its result: where it was lost, unless the reader had enough, the status is not 0.
    """
    protect()
    status = main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    lost = getattr(_raw(sys.stdout), "lost", None)
    if lost is None:
        return status
    print(f"note: standard output could not be written ({lost.strerror})", file=sys.stderr)
    return status or int(printed)


def protect() -> None:
    """Have writing to standard output and error never fail from now on, in this process.

    Streams that something else has put in their place stay. May be called twice.
    """
    _open_what_is_closed()
    if sys.stdout is sys.__stdout__:
        sys.stdout = _protected(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _protected(sys.stderr, 2)


class _Patient(io.FileIO):
    """A descriptor that drops what it cannot write.

    Attributes:
        lost: the first error that was no reader's farewell.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # of a pipe, of a terminal
                self.lost = self.lost or error
            return len(data)
        # None: the descriptor does not block, as another program on the terminal may have arranged, and has no room.
        return len(data) if written is None else written


def _open_what_is_closed() -> None:
    """Let no file or socket that is opened later become standard output: `program >&-`, or some service managers."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free


def _protected(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # it was closed when Python started; what the descriptor is now may be anything
        return open(os.devnull, "w")
    if not isinstance(stream, io.TextIOWrapper) or type(_raw(stream)) is not io.FileIO:
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    patient = _Patient(descriptor)
    return io.TextIOWrapper(
        patient if stream.write_through else io.BufferedWriter(patient),  # as Python does
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(stream: TextIO) -> object:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)
