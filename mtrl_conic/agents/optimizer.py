"""Adam and AdamW for S seeds that share nothing, not even whether they take a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """Moves parameters [S, P] along a gradient that it was made with."""

    def step(self, halted: Tensor) -> None:
        """A step of each seed whose `halted` [S] is 0; of the others nothing moves."""

    def set_learning_rate(self, rate: float) -> None:
        """Of the steps from here on."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


MakeOptimizer = Callable[[Tensor, Tensor], Optimizer]  # from parameters [S, P] and their gradient


class SeedwiseAdam:
    """One fused Adam per row of flat parameters [S, P].

    A halted seed keeps its parameters, moments and step count while the others go on, and nothing is asked of the host.
    The optimizers work on views: `state_dict` gives whole tensors [S, ...], of which each seed has a row.

    Args:
        params: [S, P].
        gradient: of the same shape; read at each step.
        learning_rate, epsilon: Adam's.
        weight_decay: the share of a parameter, times the learning rate, that each step takes off (AdamW, Loshchilov and
            Hutter, arXiv 1711.05101).
    """

    def __init__(
        self, params: Tensor, gradient: Tensor, learning_rate: float, epsilon: float, weight_decay: float = 0.0
    ) -> None:
        self._moments = {
            "exp_avg": torch.zeros_like(params),
            "exp_avg_sq": torch.zeros_like(params),
            "step": torch.zeros(len(params), device=params.device),
        }
        on_cuda = params.device.type == "cuda"
        rate = torch.tensor(learning_rate, device=params.device) if on_cuda else learning_rate  # part of recordings
        options: dict[str, Any] = {"lr": rate, "eps": epsilon, "weight_decay": weight_decay, "fused": True}
        options["capturable"] = on_cuda  # a graph needs the steps to be counted on the device
        self._optimizers = []
        for row, (param, grad) in enumerate(zip(params.unbind(), gradient.unbind(), strict=True)):
            param.grad = grad  # the same memory: whoever writes the flat gradient has set every `.grad`
            kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
            adam = kind([param], **options)
            adam.state[param] = {name: moment[row] for name, moment in self._moments.items()}
            self._optimizers.append(adam)

    def step(self, halted: Tensor) -> None:
        """A step of each seed whose `halted` [S] is 0."""
        for adam, skip in zip(self._optimizers, halted.unbind(), strict=True):
            adam.found_inf = skip  # type: ignore[attr-defined]  # what torch.amp.GradScaler sets
            adam.step()

    def set_learning_rate(self, rate: float) -> None:
        """Of all seeds; it is no part of the state, as who changes it knows when."""
        for adam in self._optimizers:
            for group in adam.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        return dict(self._moments)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, moment in self._moments.items():
            moment.copy_(state[name])
