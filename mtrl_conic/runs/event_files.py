"""TensorBoard's event files, written without threads: what the disk cannot take is an error where it is written."""

from __future__ import annotations

import itertools
import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from mtrl_conic.runs.files import GrowingFile

_VERSION = "brain.Event:2"
_numbers = itertools.count()  # tell files of one second and process apart


class EventFile:
    """One event file.

    Args:
        folder: made when absent.
        purge_step: earlier files' events from this step on are hidden.

    Raises:
        WriteError: here and in `push`, it cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = GrowingFile(folder / name)
        self._records = RecordWriter(self._file)
        self._write(Event(file_version=_VERSION))
        if purge_step is not None:
            self._write(Event(step=purge_step, file_version=_VERSION))
            self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self.push()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Take a value."""
        self.add(Summary(value=[Summary.Value(tag=tag, simple_value=value)]), step)

    def add(self, summary: Summary, step: int = 0) -> None:
        """Take a summary of any kind."""
        self._write(Event(step=step, summary=summary))

    def push(self) -> None:
        """Have all that was taken in the file."""
        self._file.push()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
