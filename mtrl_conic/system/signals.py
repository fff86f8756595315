"""Signals that ask a command to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds in which a signal that comes again is the same demand: `timeout` signals the process and then its group.
_BURST = 1.0


class Signals:
    """Remembers the first signal that asks to stop; the same one again ends the process in the ordinary way.

    Python lets only the main thread set handlers; elsewhere nothing is heard.
    A handler that something else has set stays: a cluster's job runner has its own plans for SIGTERM. SIGHUP stays
    ignored where it is, as under `nohup`, and never ends the process: a closing terminal and its shell both send it.

    Args:
        react: called with the first signal, within its handler.
    """

    def __init__(self, react: Callable[[int], object] = lambda number: None) -> None:
        self.received: int | None = None
        self._react = react
        self._times: dict[int, float] = {}
        for number in STOPPING if threading.current_thread() is threading.main_thread() else ():
            if _is_free(number):
                signal.signal(number, self._note)

    def __call__(self) -> bool:
        return self.received is not None

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        first = self._times.setdefault(number, now)
        if self.received is None:
            self.received = number
            self._react(number)
        elif number != signal.SIGHUP and now - first > _BURST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _is_free(number: int) -> bool:
    handler = signal.getsignal(number)
    if isinstance(getattr(handler, "__self__", None), Signals):
        return True  # of a command before, in the same process
    replaced = [signal.SIG_DFL, signal.default_int_handler]
    if number != signal.SIGHUP:
        replaced.append(signal.SIG_IGN)  # as a shell does for what it starts in the background
    return handler in replaced
