"""Bounds on the norm of a combined gradient, for each seed by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mtrl_conic.networks.layout import Layout

Clip = Callable[[Layout, Tensor], Tensor]  # scales a gradient [S, P] in place; gives its norm [S] of before


class NetworkClip:
    """Bounds the norm of the gradient of all parameters.

    Args:
        max_norm: the bound.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def __call__(self, layout: Layout, gradient: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(gradient, dim=1)
        gradient.mul_(self._scale(norm).unsqueeze(1))
        return norm

    def _scale(self, norm: Tensor) -> Tensor:
        return (self.max_norm / norm.clamp_min(1e-12)).clamp_max(1)


class TaskClip(NetworkClip):
    """Bounds the norm of what tasks share and that of each task's own parameters, so that none shrinks another's step.

    Args:
        max_norm: the bound of each.
    """

    def __call__(self, layout: Layout, gradient: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(gradient, dim=1)
        shared = gradient[:, : layout.shared_size]
        shared.mul_(self._scale(torch.linalg.vector_norm(shared, dim=1)).unsqueeze(1))
        own = [
            layout.view(gradient, name).flatten(2) for name, each in layout.parameters.items() if each.per_task
        ]  # [S, K, ·] each
        if own:
            squares = torch.stack([torch.linalg.vector_norm(part, dim=2).square() for part in own])
            scale = self._scale(squares.sum(0).sqrt()).unsqueeze(2)
            for part in own:
                part.mul_(scale)
        return norm


CLIPS = {"network": NetworkClip, "task": TaskClip}
