"""Losses made positive, for methods that take their logarithm or ratio."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_conic.combiners.base import Combiner

_EPSILON = 1e-8  # added to a loss under a logarithm, as in FAMO's public code


class PositiveLosses(Combiner):
    """A combiner that sees each loss from a lower bound.

    The papers assume positive losses; SAC's actor losses can be negative. `positive` gives L − 2m with m the lowest
    value of that loss so far where it is negative, and 0 where the loss has never been: a positive loss is left as
    it is, and one of any sign is at least |m|. The gradient does not change by it, only the method's view.
    """

    def positive_state(self, zeros: Tensor) -> dict[str, Tensor]:
        """The lower bounds [S, K], for `state`."""
        return {"lowest": zeros.clone()}

    def positive(self, losses: Tensor, learn: bool = True) -> Tensor:
        """Positive losses [S, K] in float64; `learn` lets a new lowest value count."""
        losses = losses.double()
        lowest = self.state["lowest"]
        if learn:
            torch.minimum(lowest, losses, out=lowest)
        return (losses - 2 * lowest).clamp_min(0) + _EPSILON
