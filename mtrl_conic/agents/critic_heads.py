"""What a critic's outputs stand for: a value, or a distribution over values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from mtrl_conic.agents.losses import critic_losses
from mtrl_conic.system.seedwise import matmul
from mtrl_conic.system.validation import choice, positive, whole

_ROOM = 1.25  # from the largest return to the largest value: γ = 0.98 and a hundred decisions make it 1.15

Backup = Callable[[Tensor], Tensor]  # from a value of the next state, [..., S, K, B], to that of this one


class CriticHead(ABC):
    """Reads values from a critic's outputs, and says how far they are from targets.

    Attributes:
        outputs: of the network per input.
        numbers: that a target is made of, per transition.
    """

    outputs: int
    numbers: int = 1

    @abstractmethod
    def values(self, outputs: Tensor) -> Tensor:
        """Values [...] of outputs [..., `outputs`]."""

    def pooled(self, values: Tensor) -> Tensor:
        """An ensemble's values [E, S, K, B] as one: the least (Fujimoto et al., arXiv 1802.09477)."""
        return values.amin(0)

    def target(self, outputs: Tensor, backup: Backup) -> Tensor:
        """What `losses` wants, by an ensemble's outputs [E, S, K, B, `outputs`] for the next state; here [S, K, B]."""
        return backup(self.pooled(self.values(outputs)))

    @abstractmethod
    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Losses [S, K] of an ensemble's outputs [E, S, K, B, `outputs`] for a `target`."""


class ScalarHead(CriticHead):
    """The output is the value; the loss is the squared error."""

    outputs = 1

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1)

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        return critic_losses(self.values(outputs), target)


class BoundedHead(ScalarHead):
    """As above, but targets have a bound, beyond which they count as the bound: a value too high cannot feed on itself.

    Args:
        limit: the largest return; the bound is a quarter above it, as a value looks beyond the end of an episode.
    """

    def __init__(self, limit: float = 10.0) -> None:
        self.bound = _ROOM * positive("value_limit", limit)

    def target(self, outputs: Tensor, backup: Backup) -> Tensor:
        return super().target(outputs, backup).clamp(-self.bound, self.bound)


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
        self.numbers = self.outputs

    def atoms(self, like: Tensor) -> Tensor:
        """The values [`outputs`], of the tensor's kind."""
        return torch.linspace(-self.limit, self.limit, self.outputs, device=like.device, dtype=like.dtype)

    def values(self, outputs: Tensor) -> Tensor:
        return (outputs.softmax(-1) * self.atoms(outputs)).sum(-1)

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self.cross_entropy(outputs, self.shares(target))

    def cross_entropy(self, outputs: Tensor, shares: Tensor) -> Tensor:
        """Losses [S, K] of an ensemble's outputs for probabilities [S, K, B, `outputs`]."""
        return -(shares * outputs.log_softmax(-1)).sum(-1).mean(-1).mean(0)

    def shares(self, target: Tensor) -> Tensor:
        """Probabilities [..., `outputs`] of two neighbouring values whose mean is the target [...]."""
        place = (target.clamp(-self.limit, self.limit) + self.limit) * ((self.outputs - 1) / (2 * self.limit))
        bins = torch.arange(self.outputs, device=target.device, dtype=target.dtype)
        return (1 - (place.unsqueeze(-1) - bins).abs()).clamp_min(0)


class DistributionalHead(CategoricalHead):
    """As above, but the target is a distribution too: that of the target critics on average, moved and spread anew.

    Each value is backed up by itself and shared out between its two neighbours (Bellemare et al., arXiv 1707.06887,
    algorithm 1). Nothing is pessimistic: an ensemble counts by its mean (BRC, arXiv 2505.23150).
    """

    def __init__(self, num_bins: int = 101, limit: float = 10.0) -> None:
        super().__init__(num_bins, limit)
        self.numbers = self.outputs**2

    def pooled(self, values: Tensor) -> Tensor:
        return values.mean(0)

    def target(self, outputs: Tensor, backup: Backup) -> Tensor:
        """Probabilities [S, K, B, `outputs`]."""
        probabilities = outputs.softmax(-1).mean(0)
        moved = backup(self.atoms(outputs).view(-1, 1, 1, 1)).movedim(0, -1)
        # As a product, since sums by index come in another order each time on a GPU.
        return matmul(probabilities.unsqueeze(-2), self.shares(moved)).squeeze(-2)

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self.cross_entropy(outputs, target)


def make_head(kind: str, num_bins: int, limit: float) -> CriticHead:
    """A "scalar", a "bounded", a "categorical" or a "distributional" head.

    Raises:
        ValueError: for another `kind`, named `critic_head`, or `num_bins` and `limit` that none could have.
    """
    heads: dict[str, CriticHead] = {
        "scalar": ScalarHead(),
        "bounded": BoundedHead(limit),
        "categorical": CategoricalHead(num_bins, limit),
        "distributional": DistributionalHead(num_bins, limit),
    }
    return heads[choice("critic_head", kind, tuple(heads))]
