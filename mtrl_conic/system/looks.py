"""Looks at numbers in mid-update, which cost nothing on the CPU and would keep the host waiting for a device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def may_look(tensor: Tensor) -> bool:
    """Whether reading a value costs no wait."""
    return tensor.device.type == "cpu"


def seen_finite(*tensors: Tensor) -> bool:
    """Whether all numbers of small tensors are finite, as one look at the sum of each tells.

    Never True where one is not. False where no look is allowed, and where the sum overflows in float64, which that of
    float32 numbers does not: then ask number by number.
    """
    return all(may_look(tensor) and math.isfinite(tensor.sum(dtype=torch.float64).item()) for tensor in tensors)
