"""What a TorchJD aggregator remembers, as plain values that a checkpoint can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# The attributes that every module has; the others of an aggregator's modules are settings or memory.
_INTERNAL = frozenset(vars(nn.Module()))


def save(aggregator: nn.Module) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The attributes and buffers of all modules of an aggregator; functions and solvers count as settings.

    Returns:
        Module name to attribute name to a copy of the value in dicts and lists of tensors, numbers and strings;
        and the names of the attributes that cannot be written so.
    """
    saved: dict[str, dict[str, Any]] = {}
    unsaved = []
    for path, module in aggregator.named_modules():
        saved[path] = {}
        for name, value in (vars(module) | module._buffers).items():
            if name in _INTERNAL or callable(value):
                continue
            try:
                saved[path][name] = _to_plain(value)
            except TypeError:
                unsaved.append(name)
    return saved, unsaved


def load(aggregator: nn.Module, saved: dict[str, dict[str, Any]], device: torch.device) -> None:
    """Give an aggregator the values that `save` wrote for another with the same settings."""
    for path, values in saved.items():
        module = aggregator.get_submodule(path)
        for name, value in values.items():
            setattr(module, name, _from_plain(value, device))


def _to_plain(value: Any) -> Any:
    if type(value) in (bool, int, float, str, type(None)):
        return value
    if isinstance(value, Tensor):  # many aggregators keep theirs on the host
        return {"host" if value.device.type == "cpu" else "device": value.detach().clone()}
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"run's device": None}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_to_plain(entry) for entry in value]}
    raise TypeError(f"{type(value).__name__} cannot be saved")


def _from_plain(value: Any, device: torch.device) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind in ("host", "device"):
        return content.to("cpu" if kind == "host" else device, copy=True)
    if kind == "array":
        return content.numpy().copy()
    if kind == "dtype":
        return getattr(torch, content)
    if kind == "run's device":
        return device
    return {"list": list, "tuple": tuple}[kind](_from_plain(entry, device) for entry in content)
