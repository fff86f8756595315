"""Whether a run can fit into memory at all: a lower bound, known before anything is allocated."""

from __future__ import annotations

import os

import torch


def available(device: torch.device) -> int:
    """The bytes that a device has at all; of the CPU with what the kernel may swap out."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _swap()


def _swap() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("SwapTotal:"))
    except (OSError, StopIteration, ValueError):
        return 0
