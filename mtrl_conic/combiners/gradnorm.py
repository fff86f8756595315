"""GradNorm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl_conic.combiners._adam import adam_state, adam_step
from mtrl_conic.combiners._positive import PositiveLosses
from mtrl_conic.system import validation
from mtrl_conic.system.seedwise import by_seed

_LEAST = 1e-3  # of a task's weight: beyond 0 its loss would be maximised


class GradNorm(PositiveLosses):
    """Weights that are learned so that tasks which train slowly have the larger gradients.

    "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", arXiv 1711.02257,
    Algorithm 1: with L̃_i a loss over its first value, r_i = L̃_i/mean(L̃) and the norms n_i = w_i ‖g_i‖, the weights
    take an Adam step on Σ |n_i − mean(n) r_i^α|, in which the targets are constants, and are then scaled to sum to K.
    The direction is the mean of w_i g_i, so that it starts as g_0.

    The authors take the norms at the last shared layer; here they are those of everything that is combined. A weight
    stays above 1e-3. Losses that can be negative are seen from a lower bound (`PositiveLosses`).

    Args:
        alpha: the strength with which training rates are balanced, ≥ 0.
        weights_lr: learning rate of the weights, > 0.

    Raises:
        ValueError: for a hyperparameter out of its range.
    """

    def __init__(self, alpha: float = 1.5, weights_lr: float = 0.025) -> None:
        super().__init__()
        self.alpha = validation.number("alpha", alpha, 0)
        self.weights_lr = validation.number("weights_lr", weights_lr, 0, low_included=False)

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        zeros = torch.zeros(len(seeds), num_tasks, dtype=torch.float64, device=device)
        self.state = adam_state("task_weight", zeros) | self.positive_state(zeros) | {"first_loss": zeros.clone()}
        self.state["task_weight"].fill_(1)

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        weights, rate = self.state["task_weight"], self._training_rate(losses)
        used = weights / weights.shape[-1]
        norms = gramian.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        weighted = weights * norms
        aim = weighted.mean(-1, keepdim=True) * by_seed(lambda each: each**self.alpha, rate)
        gradient = norms * (weighted - aim).sign()
        adam_step(self.state, "task_weight", gradient, self.weights_lr, 0)
        weights.clamp_min_(_LEAST)
        weights *= weights.shape[-1] / weights.sum(-1, keepdim=True)
        return used

    def _training_rate(self, losses: Tensor) -> Tensor:
        """The relative inverse training rates r [S, K] (Eq 2 and the text before it)."""
        current, first = self.positive(losses), self.state["first_loss"]
        first.copy_(torch.where(self.state["updates"] > 0, first, losses))
        ratio = current / self.positive(first, learn=False)
        return ratio / ratio.mean(-1, keepdim=True)
