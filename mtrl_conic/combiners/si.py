"""Scale-invariant linear scalarization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtrl_conic.combiners._positive import PositiveLosses


class SI(PositiveLosses):
    """The mean of the logarithms of the losses: weights 1/(K L_i).

    The baseline of that name in "Multi-Task Learning as a Bargaining Game", arXiv 2202.01017, which minimises
    Σ log L_i; here the mean. Builds no Jacobian.

    Negative losses are seen from a lower bound (`PositiveLosses`).
    """

    requires: ClassVar[Literal["losses", "gramian", "jacobian"]] = "losses"

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        self.state = self.positive_state(torch.zeros(len(seeds), num_tasks, dtype=torch.float64, device=device))

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        return 1 / (losses.shape[-1] * self.positive(losses))
