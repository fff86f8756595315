"""Whether a run can fit into memory at all: a lower bound, known before anything is allocated."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

_FLOAT = 4  # bytes
_COPIES = 4  # of each parameter: itself, its gradient, Adam's two moments


def needs(
    hidden: Sequence[int],
    spaces: tuple[int, int],
    cells: int,
    capacity: int,
    batch: int,
    critics: int,
    envs: tuple[int, int],
) -> dict[str, int]:
    """The least number of bytes that each setting asks for by itself.

    Args:
        hidden: widths of the trunk's layers.
        spaces: the entries of an observation and of an action.
        cells: S seeds times K tasks.
        capacity, batch: rows of the replay and of a batch, per seed and task.
        critics: the number of critics.
        envs: bytes that an environment takes at the least, and how many there are per seed and task.
    """
    row = 2 * spaces[0] + spaces[1] + 2
    widths = [spaces[0], *hidden]
    weights = sum(fan_in * fan_out for fan_in, fan_out in zip(widths, hidden, strict=False))
    return {
        "agent.hidden_sizes": (1 + critics) * weights * _COPIES * _FLOAT,
        "env.num_envs_per_task": cells * envs[0] * envs[1],
        "capacity_per_task": cells * capacity * row * _FLOAT,
        "batch_size_per_task": cells * batch * (row + sum(hidden)) * _FLOAT,
    }


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
