"""Threads of torch's work on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

from mtrl_conic.system.matmul import by_mkl

_P = ParamSpec("_P")
_R = TypeVar("_R")
_A = TypeVar("_A")
_B = TypeVar("_B")


@contextmanager
def in_one_thread() -> Iterator[None]:
    """Work on the CPU inside is done in the thread that calls it; other work has as many as before.

    For what is small: to wake a second thread for it takes longer than its half of the work.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_small_work(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, whose work on the CPU is done in the thread that calls it, with products by MKL.

    For what is small and made while other processes want the cores: a second thread is woken on a core that one of
    them has, or has just left, and the first waits for it. And oneDNN looks for its way longer than it then takes.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with in_one_thread(), by_mkl():
            return function(*args, **kwargs)

    return call


def side_by_side(one: Callable[[], _A], other: Callable[[], _B], device: torch.device) -> tuple[_A, _B]:
    """What both give, which share nothing: on the CPU they are computed at the same time, each with half the threads.

    To share each of many small products among all threads takes longer than to give each thread a chain of its own.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return one(), other()

    half = threads // 2

    def elsewhere() -> _A:
        torch.get_num_threads()  # at the first look a thread takes over the number of the process
        torch.set_num_threads(half)  # from then on it has its own
        return one()

    first = _elsewhere().submit(elsewhere)
    torch.set_num_threads(half)
    try:
        try:
            second = other()
        finally:
            first.exception()  # nothing of it goes on when this call is over
    finally:
        torch.set_num_threads(threads)  # where Ctrl-C ended the wait as well
    return first.result(), second


@cache
def _elsewhere() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "side_by_side")
