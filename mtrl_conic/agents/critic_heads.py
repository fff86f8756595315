"""What a critic's outputs stand for: a value, or a distribution over values."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mtrl_conic.agents.losses import critic_losses
from mtrl_conic.system.validation import positive, whole


class CriticHead(ABC):
    """Reads values from a critic's outputs, and says how far they are from targets.

    Attributes:
        outputs: of the network per input.
    """

    outputs: int

    @abstractmethod
    def values(self, outputs: Tensor) -> Tensor:
        """Values [...] of outputs [..., `outputs`]."""

    @abstractmethod
    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Losses [S, K] of an ensemble's outputs [E, S, K, B, `outputs`] for target values [S, K, B]."""


class ScalarHead(CriticHead):
    """The output is the value; the loss is the squared error."""

    outputs = 1

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1)

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        return critic_losses(self.values(outputs), target)


class CategoricalHead(CriticHead):
    """The outputs are the logits of evenly spaced values, of which the mean is taken.

    The loss is the cross-entropy to the target shared out between its two neighbours ("two-hot"; Farebrother et al.,
    "Stop Regressing", arXiv 2403.03950, section 3.1). Targets beyond the ends count as the ends.

    Args:
        num_bins: values, from `-limit` to `limit`.
        limit: the largest value.
    """

    def __init__(self, num_bins: int = 101, limit: float = 10.0) -> None:
        self.outputs, self.limit = whole("value_bins", num_bins, 2), positive("value_limit", limit)

    def values(self, outputs: Tensor) -> Tensor:
        atoms = torch.linspace(-self.limit, self.limit, self.outputs, device=outputs.device, dtype=outputs.dtype)
        return (outputs.softmax(-1) * atoms).sum(-1)

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        shares = self.shares(target)
        return -(shares * outputs.log_softmax(-1)).sum(-1).mean(-1).mean(0)

    def shares(self, target: Tensor) -> Tensor:
        """Probabilities [..., `outputs`] of two neighbouring values whose mean is the target [...]."""
        place = (target.clamp(-self.limit, self.limit) + self.limit) * ((self.outputs - 1) / (2 * self.limit))
        bins = torch.arange(self.outputs, device=target.device, dtype=target.dtype)
        return (1 - (place.unsqueeze(-1) - bins).abs()).clamp_min(0)
