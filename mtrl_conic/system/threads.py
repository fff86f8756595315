"""Threads of torch's work on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_one_thread(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, whose work on the CPU is done in the thread that calls it; other work has as many as before.

    For what is small and made while other processes want the cores: a second thread is woken on a core that one of
    them has, or has just left, and the first waits for it.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(threads)

    return call
