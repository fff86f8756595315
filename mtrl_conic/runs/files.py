"""Files that appear whole or grow by whole pieces, and one clear line where the disk cannot take them."""

from __future__ import annotations

import errno
import io
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


def write_picture(figure: Any, path: Path, dpi: float = 100) -> None:
    """`drawn` with `write_whole`; the suffix says whether as PNG or SVG.

    Raises:
        WriteError: as `write_whole`.
    """
    write_whole(path, drawn(figure, path.suffix.removeprefix("."), dpi))


def drawn(figure: Any, kind: str, dpi: float = 100) -> bytes:
    """A figure of matplotlib as a "png" or "svg" file, the same bytes whenever it is drawn.

    `Figure.savefig` draws everything twice, once to see how far it reaches, which is most of a report's time.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.BytesIO()
    figure.set_dpi(dpi)
    if kind == "svg":
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    else:
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


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
        self._failed = False
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
        self._guarded(sync=False)

    def flush(self) -> None:
        """Have all pieces on the disk.

        Raises:
            WriteError: they cannot be written.
        """
        self._guarded(sync=True)

    def _guarded(self, sync: bool) -> None:
        pieces = b"".join(self._waiting)
        try:
            write_all(self._descriptor, pieces)
            if sync:
                os.fsync(self._descriptor)
        except OSError as error:
            self._failed = True
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise write_error(self.path, error, len(pieces)) from error
        self._failed = False
        self._size += len(pieces)
        self._waiting.clear()

    def close(self) -> None:
        """Push, unless that has failed before, and close in any case.

        Raises:
            WriteError: what was pushed cannot be written after all: some network file systems say so only here.
        """
        try:
            if not self._failed:
                self.push()
        finally:
            try:
                os.close(self._descriptor)
            except OSError as error:
                raise write_error(self.path, error, 0) from error


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """`os.write` until nothing is left: a nearly full disk takes a part of it."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_error(path: Path, error: OSError, needed: int) -> WriteError:
    """What to raise when `needed` bytes could not be written to a file."""
    reason = error.strerror or type(error).__name__
    needs = f"it needs {in_bytes(needed)}, " if needed else ""
    return WriteError(f"{path} cannot be written: {reason}; {needs}{free_space(path.parent)}")


def check_disk(path: Path, error: OSError) -> None:
    """Say so where an error means a full or failing disk, rather than that a path was given which cannot be used.

    Raises:
        WriteError: it does.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        raise write_error(path, error, 0) from error


def in_bytes(count: int) -> str:
    """A number of bytes for the eye."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def free_space(folder: Path) -> str:
    """How much is free on the disk of a folder, in words."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return "how much is free is unknown"
    return f"{in_bytes(found.f_bavail * found.f_frsize)} are free there"


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
