"""Adam and AdamW for S seeds that share nothing, not even whether they take a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam

_BETA2 = 0.999  # the customary constant


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
    Torch's function, as its optimizer classes import the compiler, over a second at the start of every run.

    Args:
        params: [S, P].
        gradient: of the same shape; read at each step.
        learning_rate, epsilon: Adam's.
        weight_decay: the share of a parameter, times the learning rate, that each step takes off (AdamW, Loshchilov and
            Hutter, arXiv 1711.05101).
        beta1: what the mean of the gradients keeps of itself in a step.
    """

    def __init__(
        self,
        params: Tensor,
        gradient: Tensor,
        learning_rate: float,
        epsilon: float,
        weight_decay: float = 0.0,
        beta1: float = 0.9,
    ) -> None:
        self._moments = {
            "exp_avg": torch.zeros_like(params),
            "exp_avg_sq": torch.zeros_like(params),
            "step": torch.zeros(len(params), device=params.device),
        }
        self._rows = [*zip(params, gradient, *self._moments.values(), strict=True)]  # views
        self._on_cuda = params.device.type == "cuda"
        # On CUDA a tensor, which a recorded step reads anew each time.
        self._rate = torch.tensor(learning_rate, device=params.device) if self._on_cuda else learning_rate
        self._epsilon, self._weight_decay, self._beta1 = epsilon, weight_decay, beta1

    def step(self, halted: Tensor) -> None:
        """A step of each seed whose `halted` [S] is 0."""
        for (params, gradient, mean, square, steps), skip in zip(self._rows, halted, strict=True):
            adam(
                [params],
                [gradient],
                [mean],
                [square],
                [],
                [steps],
                fused=True,
                capturable=self._on_cuda,  # a graph needs the steps to be counted on the device
                found_inf=skip,
                decoupled_weight_decay=True,
                amsgrad=False,
                beta1=self._beta1,
                beta2=_BETA2,
                lr=self._rate,
                weight_decay=self._weight_decay,
                eps=self._epsilon,
                maximize=False,
            )

    def set_learning_rate(self, rate: float) -> None:
        """Of all seeds; it is no part of the state, as who changes it knows when."""
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate

    def state_dict(self) -> dict[str, Any]:
        return dict(self._moments)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, moment in self._moments.items():
            moment.copy_(state[name])
