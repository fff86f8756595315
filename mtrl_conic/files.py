"""Files that appear whole or grow by whole pieces, and one clear line where the disk cannot take them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class WriteError(RuntimeError):
    """A file could not be written: one line says which, why, how much it needs and how much is free."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Put a file in place of what is there, at once.

    Raises:
        WriteError: it cannot be written; what was there is untouched.
    """
    with whole_file(path) as output:
        output.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path) -> Iterator[Output]:
    """A file to write into, which takes its name when the block ends, and is removed if that fails.

    Raises:
        WriteError: it cannot be written; what was there is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    output = Output()
    try:
        path.parent.mkdir(exist_ok=True)
        output.open(temporary)
        try:
            yield output
            output.finish()
        finally:
            output.close()
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise write_error(path, error, output.size) from error
    except BaseException:
        _remove(temporary)
        raise


class Output:
    """An open file that takes all it is given even where the disk does not, so that its size is known in the end."""

    def __init__(self) -> None:
        self.size = 0  # bytes given to it
        self._descriptor = -1
        self._error: OSError | None = None

    def open(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def write(self, data: bytes | memoryview) -> int:
        """Take bytes; `finish` tells of an error."""
        count = memoryview(data).nbytes
        self.size += count
        if self._error is None:
            try:
                write_all(self._descriptor, data)
            except OSError as error:
                self._error = error
        return count

    def flush(self) -> None:
        """Nothing waits here: `torch.save` asks for it."""

    def write_at(self, position: int, data: bytes) -> None:
        """Replace bytes that were written before."""
        if self._error is None:
            os.pwrite(self._descriptor, data, position)

    def finish(self) -> None:
        """Have all on the disk.

        Raises:
            OSError: the first one that came up.
        """
        if self._error is not None:
            raise self._error
        os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class GrowingFile:
    """A file that grows by whole pieces: of what the disk cannot take nothing is there, and it may be tried again.

    Args:
        path: made when absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[bytes] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            self._size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise write_error(path, error, 0) from error

    def write(self, piece: bytes) -> None:
        """Take a piece; it is in the file after `push` or `flush`."""
        self._waiting.append(piece)

    def push(self) -> None:
        """Have all pieces in the file.

        Raises:
            WriteError: they cannot be written.
        """
        self._guarded(lambda: None)

    def flush(self) -> None:
        """Have all pieces on the disk.

        Raises:
            WriteError: they cannot be written.
        """
        self._guarded(lambda: os.fsync(self._descriptor))

    def _guarded(self, finish: Any) -> None:
        pieces = b"".join(self._waiting)
        try:
            write_all(self._descriptor, pieces)
            finish()
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise write_error(self.path, error, len(pieces)) from error
        self._size += len(pieces)
        self._waiting.clear()

    def close(self) -> None:
        """Push, and close in any case."""
        try:
            self.push()
        finally:
            os.close(self._descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """`os.write` until nothing is left: a nearly full disk takes a part of it."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_error(path: Path, error: OSError, needed: int) -> WriteError:
    """What to raise when `needed` bytes could not be written to a file."""
    reason = error.strerror or type(error).__name__
    needs = f"it needs {in_bytes(needed)}" if needed else "it cannot even be made"
    return WriteError(f"{path} cannot be written: {reason}; {needs}, {_free(path.parent)}")


def full_disk(error: OSError) -> bool:
    """Whether an error says that the disk is full or failing, rather than that something was asked for wrongly."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def in_bytes(count: int) -> str:
    """A number of bytes for the eye."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _free(folder: Path) -> str:
    try:
        found = os.statvfs(folder)
    except OSError:
        return "how much is free is unknown"
    return f"{in_bytes(found.f_bavail * found.f_frsize)} are free there"


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
