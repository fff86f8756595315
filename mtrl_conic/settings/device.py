"""The device of a run: its name, and whether this machine has it."""

from __future__ import annotations

import re

import torch

from mtrl_conic.settings.errors import ConfigError


def validate_device(device: str) -> None:
    """Check the name of a device, and that this machine has it."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,9})?", device):
        raise ConfigError(f"device={device}: must be auto, cpu, cuda or cuda:<n>")
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(device.partition(":")[2] or 0)
        if index >= count:
            raise ConfigError(f"device={device}: this machine has {count} usable CUDA devices; use cpu or auto")
