"""Checks of what a training loop hands to `MultiTaskBackward`: each error says what to pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtrl_conic.combiners.base import Combiner


def require_combiner(combiner: Any) -> None:
    """Raises TypeError for anything but an instance of a combiner."""
    if isinstance(combiner, type) and issubclass(combiner, Combiner):
        raise TypeError(f"combiner must be an instance: pass {combiner.__name__}(...), not the class")
    if not isinstance(combiner, Combiner):
        raise TypeError(f"combiner must be an object such as mtrl_conic.combiners.ConicGrad(), not {combiner!r}")


def require_whole(name: str, value: Any, low: int) -> None:
    """Raises TypeError for anything but an int, ValueError for one below `low`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, not {value}")


def listed_parameters(shared: Iterable[nn.Parameter], heads: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], int]:
    """The parameters of both groups, and how many of them are shared.

    Raises:
        TypeError, ValueError: see `MultiTaskBackward`.
    """
    first, second = _parameters("shared", shared), _parameters("heads", heads)
    if not first:
        raise ValueError("no shared parameters: there is nothing to combine")
    parameters = [*first, *second]
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ValueError("a parameter is given twice; each is either shared or a head's")
    for parameter in parameters:
        _check_parameter(parameter)
    for name in ("device", "dtype"):
        found = sorted({str(getattr(parameter, name)) for parameter in parameters})
        if len(found) > 1:
            raise ValueError(f"parameters must have one {name}, not {', '.join(found)}")
    return parameters, len(first)


def listed_tensors(losses: Tensor | Sequence[Tensor], num_tasks: int, device: torch.device) -> Sequence[Tensor]:
    """The K losses as scalars.

    Raises:
        TypeError: neither a tensor nor a sequence of tensors.
        ValueError: of another number or shape, or on another device.
    """
    wanted = f"losses must have shape [{num_tasks}], one per task"
    if isinstance(losses, Tensor):
        if losses.shape != (num_tasks,):
            raise ValueError(f"{wanted}, not {list(losses.shape)}")
        parts: Sequence[Tensor] = losses.unbind()
    else:
        parts = _tensors(losses, num_tasks)
        if any(part.numel() != 1 for part in parts):
            raise ValueError(f"{wanted}, not {num_tasks} of shapes {[list(part.shape) for part in parts]}")
        if len(parts) != num_tasks:
            raise ValueError(f"{wanted}, not {len(parts)} scalars")
    for part in parts:
        if not part.is_floating_point():
            raise TypeError(f"losses must be floating, not {part.dtype}")
        if part.device != device:
            raise ValueError(f"losses must be on the parameters' device, {device}, not on {part.device}")
    return parts


def _parameters(name: str, given: Any) -> list[nn.Parameter]:
    if isinstance(given, nn.Module) and not isinstance(given, nn.ParameterList):
        raise TypeError(f"{name} must be parameters, not a module: pass the parameters() of {type(given).__name__}")
    if isinstance(given, (Tensor, str)) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be an iterable of parameters, not {type(given).__name__}")
    parameters = list(given)
    for parameter in parameters:
        if isinstance(parameter, nn.Module):
            raise TypeError(f"{name} holds a module: pass the parameters() of {type(parameter).__name__}")
        if not isinstance(parameter, Tensor):
            raise TypeError(f"{name} must hold parameters only, not {type(parameter).__name__}")
    return parameters


def _check_parameter(parameter: Tensor) -> None:
    shape = list(parameter.shape)
    if not parameter.requires_grad:
        raise ValueError(f"a parameter of shape {shape} does not require grad; leave it out")
    if not parameter.is_leaf:
        raise ValueError(f"a tensor of shape {shape} is computed from others, no parameter; pass what it comes from")
    if not parameter.is_floating_point():
        raise ValueError(f"a parameter of shape {shape} is of {parameter.dtype}; it must be real")


def _tensors(losses: Any, num_tasks: int) -> list[Tensor]:
    wanted = f"losses must be a tensor [{num_tasks}] or a sequence of {num_tasks} scalar tensors"
    if not isinstance(losses, Iterable) or isinstance(losses, (str, dict)):
        raise TypeError(f"{wanted}, not {type(losses).__name__}")
    parts = list(losses)
    for part in parts:
        if not isinstance(part, Tensor):
            raise TypeError(f"{wanted}; one is of type {type(part).__name__}")
    return parts
