"""Adam for S seeds that share nothing, not even whether they take a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SeedwiseAdam:
    """One fused Adam per row of flat parameters [S, P].

    A halted seed keeps its parameters, moments and step count while the others go on, and nothing is asked of the host.
    The optimizers work on views: `state_dict` gives whole tensors [S, ...], of which each seed has a row.

    Args:
        params: [S, P].
        gradient: of the same shape; read at each step.
        learning_rate, epsilon: Adam's.
    """

    def __init__(self, params: Tensor, gradient: Tensor, learning_rate: float, epsilon: float) -> None:
        self._moments = {
            "exp_avg": torch.zeros_like(params),
            "exp_avg_sq": torch.zeros_like(params),
            "step": torch.zeros(len(params), device=params.device),
        }
        on_cuda = params.device.type == "cuda"  # there a graph needs the steps to be counted on the device
        self._optimizers = []
        for row, (param, grad) in enumerate(zip(params.unbind(), gradient.unbind(), strict=True)):
            param.grad = grad
            adam = torch.optim.Adam([param], lr=learning_rate, eps=epsilon, fused=True, capturable=on_cuda)
            adam.state[param] = {name: moment[row] for name, moment in self._moments.items()}
            self._optimizers.append(adam)

    def step(self, halted: Tensor) -> None:
        """A step of each seed whose `halted` [S] is 0."""
        for adam, skip in zip(self._optimizers, halted.unbind(), strict=True):
            adam.found_inf = skip  # type: ignore[attr-defined]  # what torch.amp.GradScaler sets
            adam.step()

    def state_dict(self) -> dict[str, Any]:
        return dict(self._moments)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, moment in self._moments.items():
            moment.copy_(state[name])
