"""Torch files that carry a digest of themselves, so that damage to any of their bytes is found.

`torch.save` writes a zip archive and `torch.load` checks none of its checksums. The archive's comment, at its very
end, is made "mtrl_conic format <n>, sha256 <digest>": the digest is that of the file as `torch.save` wrote it, followed
by the comment's words. `torch.load` and any zip tool read such a file as before.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from mtrl_conic.runs.files import Output, whole_file

FORMAT = 2  # 1 had no digest
_WORDS = "mtrl_conic format {}, sha256 "
_SEAL = re.compile(rb"mtrl_conic format (\d+), sha256 ([0-9a-f]{64})\Z")
_LONGEST = 256  # bytes at the end that are searched for the seal
_END = b"PK\x05\x06"  # begins the archive's last record, of 22 bytes; the last two are the comment's length
_PIECE = 1 << 20  # bytes read at a time


class DamagedError(RuntimeError):
    """A file is not what was written, or not of this program."""


class _Digesting:
    """Passes on what `torch.save` writes, which is from front to back."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self.digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        return self._output.write(data)

    def flush(self) -> None:
        """Nothing waits here."""


def write_file(path: Path, content: Any) -> None:
    """Write with `torch.save`, sealed, so that the file appears whole or not at all.

    Raises:
        WriteError: it cannot be written; what was there is untouched.
    """
    words = _WORDS.format(FORMAT).encode()
    with whole_file(path) as output:
        digesting = _Digesting(output)
        torch.save(content, cast(IO[bytes], digesting))
        digesting.digest.update(words)
        seal = words + digesting.digest.hexdigest().encode()
        output.write_at(output.size - 2, struct.pack("<H", len(seal)))
        output.write(seal)


def read_file(path: Path) -> Any:
    """Read what `write_file` wrote; no code in the file is run.

    A file of format 1 has no digest: as far as a zip archive has checksums, they are compared.

    Raises:
        DamagedError: a byte of it has changed, or it is no such file.
    """
    with path.open("rb") as file:
        seal = _seal(file)
        if seal is None:
            _check_archive(file)
        else:
            _check_digest(file, seal)
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # of format 1, or a seal put on something else
            raise DamagedError(_first_line(error)) from error


def is_sealed(path: Path) -> bool:
    """Whether the file has a digest, as all but those of format 1 have."""
    with path.open("rb") as file:
        return _seal(file) is not None


def _seal(file: BinaryIO) -> re.Match[bytes] | None:
    return _SEAL.search(_tail(file, _LONGEST))


def _tail(file: BinaryIO, count: int) -> bytes:
    size = file.seek(0, 2)
    file.seek(max(0, size - count))
    return file.read(count)


def _check_digest(file: BinaryIO, seal: re.Match[bytes]) -> None:
    if int(seal[1]) > FORMAT:
        raise DamagedError(f"it has format {int(seal[1])}, of a later version of mtrl_conic; this one reads {FORMAT}")
    length = struct.pack("<H", len(seal[0]))
    left = file.seek(0, 2) - len(seal[0]) - len(length)
    digest = hashlib.sha256()
    file.seek(0)
    while left > 0 and (piece := file.read(min(left, _PIECE))):
        digest.update(piece)
        left -= len(piece)
    digest.update(b"\0\0" + seal[0][:-64])  # as torch.save wrote it: without a comment
    if file.read(2) != length or digest.hexdigest().encode() != seal[2]:
        raise DamagedError("its content does not match its digest")


def _check_archive(file: BinaryIO) -> None:
    """The checksums of an archive without a seal, which must look as `torch.save` leaves it."""
    end = _tail(file, 22)
    if not (end.startswith(_END) and end.endswith(b"\0\0")):
        raise DamagedError("its end, with the digest, is missing or changed")
    try:
        broken = zipfile.ZipFile(file).testzip()
    except Exception as error:  # whatever a changed archive leads to
        raise DamagedError(_first_line(error)) from error
    if broken is not None:
        raise DamagedError(f"the checksum of {broken} is wrong")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
