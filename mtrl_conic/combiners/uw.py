"""Uncertainty weighting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtrl_conic.combiners._adam import adam_state, adam_step
from mtrl_conic.combiners._positive import PositiveLosses
from mtrl_conic.system import validation


class UW(PositiveLosses):
    """Each loss over a variance that is learned with it.

    "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics", arXiv 1705.07115: with
    s_i the logarithm of the variance, min Σ ½(exp(−s_i) L_i + s_i) over parameters and s. Here the mean of
    exp(−s_i) L_i + s_i, which has the same minimisers and gives g_0 at the start, s = 0. s takes an Adam step an
    update, as in the MT10 runs of FAMO's authors. Builds no Jacobian.

    Negative losses would drive s to −∞; s sees them from a lower bound (`PositiveLosses`).

    Args:
        weights_lr: learning rate of s, > 0.

    Raises:
        ValueError: for a learning rate out of its range.
    """

    requires: ClassVar[Literal["losses", "gramian", "jacobian"]] = "losses"

    def __init__(self, weights_lr: float = 0.025) -> None:
        super().__init__()
        self.weights_lr = validation.number("weights_lr", weights_lr, 0, low_included=False)

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        zeros = torch.zeros(len(seeds), num_tasks, dtype=torch.float64, device=device)
        self.state = adam_state("log_variance", zeros) | self.positive_state(zeros)

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        num_tasks = losses.shape[-1]
        precision = (-self.state["log_variance"]).exp()
        gradient = (1 - precision * self.positive(losses)) / num_tasks
        adam_step(self.state, "log_variance", gradient.nan_to_num(0.0, 0.0, 0.0), self.weights_lr, 0)
        return precision / num_tasks
