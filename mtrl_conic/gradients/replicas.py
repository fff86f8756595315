"""Processes that train copies of one model, each on batches of its own."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# None: torch.distributed's default group, once there is one; False: none.
GroupChoice = (
    Any  # torch.distributed.ProcessGroup | Literal[False] | None; the class is missing from some builds of torch
)


class Replicas:
    """The processes of a group, or this one alone.

    Args:
        process_group: a group of `torch.distributed`; None for its default group, looked up at each use, which is this
            process alone as long as there is none; False for this process alone in any case.

    Raises:
        TypeError: anything else.
        ValueError: a group that this process is not in.
    """

    def __init__(self, process_group: GroupChoice = None) -> None:
        if process_group is not None and process_group is not False:
            _check_group(process_group)
        self._group = process_group

    @property
    def size(self) -> int:
        """How many there are."""
        if self._group is False or not (dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size(self._group)

    def average_(self, tensor: Tensor) -> Tensor:
        """Replace a contiguous tensor by its mean over the replicas, the same bits in each; one collective.

        Each replica divides before they add, so that half precision does not overflow.
        """
        size = self.size
        if size > 1:
            dist.all_reduce(tensor.div_(size), group=self._group)
        return tensor

    def check_equal(self, numbers: Mapping[str, int], device: torch.device) -> None:
        """See that named numbers are the same in all replicas; waits for the device.

        Raises:
            ValueError: in every replica, where they are not; names those that differ.
        """
        if self.size == 1:
            return
        values = torch.tensor(list(numbers.values()), dtype=torch.int64, device=device)
        extremes = torch.stack((values, -values))
        dist.all_reduce(extremes, dist.ReduceOp.MAX, self._group)
        largest, smallest = extremes[0].tolist(), (-extremes[1]).tolist()
        different = [name for name, low, high in zip(numbers, smallest, largest, strict=True) if low != high]
        if different:
            raise ValueError(f"the replicas are not alike: they differ in {', '.join(different)}")


def digest(value: Any, start: int = 0) -> int:
    """32 bits that stand for nested dicts and sequences of tensors, numbers and strings; other things do not count."""
    if isinstance(value, Tensor):
        return zlib.crc32(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes(), start)
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            start = digest(part, start)
        return start
    return zlib.crc32(repr(value).encode(), start) if isinstance(value, (int, float, str)) else start


def _check_group(process_group: Any) -> None:
    if dist.is_available() and isinstance(process_group, dist.ProcessGroup):
        return
    if dist.is_available() and process_group == dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("process_group: this process is not in that group")
    raise TypeError(f"process_group must be a torch.distributed.ProcessGroup, None or False, not {process_group!r}")
