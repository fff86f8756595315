"""The memory that a process has already: its current device and its heap."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import torch


def make_current(device: torch.device) -> None:
    """Have CUDA graphs and events, which belong to the current device, belong to this one."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def keep_freed_memory() -> None:
    """Ask the C library to reuse freed blocks of any size, and the kernel to back them by large pages.

    By default glibc gives large blocks back to the kernel at once, and each update pays for mapping its activations
    anew; and pages of 4 KiB, once the machine's memory is fragmented, make an update a sixth slower. Does nothing with
    other C libraries, or where the kernel has no large pages.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # bytes; glibc refuses more
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        library.mallopt(_M_TOP_PAD, _AHEAD)
        library.malloc.restype = ctypes.c_void_p
        library.free(ctypes.c_void_p(library.malloc(24 << 20)))  # the heap grows now, by all of it
        start, end = _heap()
        start = -(-start // _LARGE_PAGE) * _LARGE_PAGE
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(max(end - start, 0)), _MADV_HUGEPAGE)


def _heap() -> tuple[int, int]:
    """The addresses between which this process's heap lies.

    Raises:
        ValueError: there is none.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("[heap]"):
            start, end = line.split()[0].split("-")
            return int(start, 16), int(end, 16)
    raise ValueError("no heap")


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # from malloc.h


_MADV_HUGEPAGE, _LARGE_PAGE = 14, 2 << 20  # from mman.h; bytes


_AHEAD = 1 << 30  # bytes of addresses, not of memory, that the heap grows by
