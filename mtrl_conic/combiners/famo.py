"""FAMO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtrl_conic.combiners._adam import adam_state, adam_step
from mtrl_conic.combiners._positive import PositiveLosses
from mtrl_conic.system import validation


class FAMO(PositiveLosses):
    """Weights that let all losses fall at the same relative rate, learned from how much each one fell.

    "FAMO: Fast Adaptive Multitask Optimization", arXiv 2306.03792, Algorithm 1: z = softmax(ξ), the loss weights are
    c z_i/L_i with c = 1/Σ(z_i/L_i), and after the step ξ takes an Adam step on the change of the log losses, with
    weight decay γ. Builds no Jacobian; the losses are computed once more after the step.

    The authors' code for MT10 multiplies by Σ(z_i/L_i) where the paper divides; here as in the paper, so that the
    weights sum to 1. It weighs the critics' losses only; here the actor's as well, from a lower bound
    (`PositiveLosses`).

    Args:
        gamma: weight decay of ξ, ≥ 0.
        weights_lr: learning rate of ξ, > 0.

    Raises:
        ValueError: for a hyperparameter out of its range.
    """

    requires: ClassVar[Literal["losses", "gramian", "jacobian"]] = "losses"
    looks_back: ClassVar[bool] = True

    def __init__(self, gamma: float = 0.01, weights_lr: float = 0.025) -> None:
        super().__init__()
        self.gamma = validation.number("gamma", gamma, 0)
        self.weights_lr = validation.number("weights_lr", weights_lr, 0, low_included=False)

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        zeros = torch.zeros(len(seeds), num_tasks, dtype=torch.float64, device=device)
        self.state = adam_state("logits", zeros) | self.positive_state(zeros)

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        positive = self.positive(losses)
        self._log_losses = positive.log()
        weights = self.state["logits"].softmax(-1) / positive
        return weights / weights.sum(-1, keepdim=True)

    def after_step(self, losses: Tensor) -> None:
        fall = self._log_losses - self.positive(losses, learn=False).log()
        task_weights = self.state["logits"].softmax(-1)
        gradient = task_weights * (fall - (task_weights * fall).sum(-1, keepdim=True))
        adam_step(self.state, "logits", gradient, self.weights_lr, self.gamma)
        self.diagnostics["task_weight"] = task_weights
