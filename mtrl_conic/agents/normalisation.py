"""Running statistics per seed and task, and a value function that keeps its outputs when they move."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtrl_conic.agents.protocol import Setting
from mtrl_conic.system.seedwise import by_seed, mean_of_rows

_LEAST_STD = 1e-4  # of what is divided by


class RunningMoments:
    """Mean and variance of all numbers seen so far, merged exactly (Chan et al., 1983).

    Args:
        setting: the agent's; each entry of an observation has statistics of its own, [S, K, O].
        limit: normalised numbers are cut off at this many deviations.

    Attributes:
        mean, variance: of the shape; 0 and 1 before anything is seen.
        count: [S], numbers seen per entry.
    """

    def __init__(self, setting: Setting, limit: float = 10.0) -> None:
        shape, device, dtype = (*setting.cells, setting.observation_size), setting.device, setting.dtype
        self.mean = torch.zeros(shape, dtype=torch.float64, device=device)
        self.variance = torch.ones(shape, dtype=torch.float64, device=device)
        self.count = torch.zeros(shape[0], dtype=torch.float64, device=device)
        self.limit = limit
        self._scale = torch.ones(shape, device=device, dtype=dtype)
        self._shift = torch.zeros(shape, device=device, dtype=dtype)

    def update(self, rows: Tensor, frozen: Tensor) -> None:
        """Take in rows [S, K, B, O]; nothing of a seed whose `frozen` [S] is 1."""
        rows, before = rows.double(), self.count[:, None, None]
        mean, variance = by_seed(lambda each: (each.mean(2), each.var(2, correction=0)), rows)
        count = rows.shape[2] * (1 - frozen).to(self.count)[:, None, None]
        total, away = before + count, mean - self.mean
        share = count / total.clamp_min(1)
        spread = (1 - share) * (self.variance + share * away.square())
        self.mean += share * away
        self.variance.copy_(spread + share * variance)
        self.count.copy_(total[:, 0, 0])
        self._refresh()

    def normalise(self, rows: Tensor, tasks: Any = slice(None)) -> Tensor:
        """Rows [S, T, B, O] of some tasks, by default all, in deviations from the mean."""
        scale, shift = self._scale[:, tasks].unsqueeze(2), self._shift[:, tasks].unsqueeze(2)
        return ((rows - shift) * scale).clamp(-self.limit, self.limit)

    def _refresh(self) -> None:
        self._scale.copy_(self.variance.sqrt().clamp_min(_LEAST_STD).reciprocal())
        self._shift.copy_(self.mean)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean.copy_(state["mean"])
        self.variance.copy_(state["variance"])
        self.count.copy_(state["count"])
        self._refresh()


class AsTheyAre:
    """Stands where `RunningMoments` could, and leaves observations as they are."""

    def update(self, rows: Tensor, frozen: Tensor) -> None:
        """Learns nothing."""

    def normalise(self, rows: Tensor, tasks: Any = slice(None)) -> Tensor:
        """The rows."""
        return rows

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Has no state."""


class PopArt:
    """Moments of the returns per seed and task, with which a value head predicts normalised returns.

    When the moments move, the head is rescaled so that what it predicts in the units of the reward stays the same
    (van Hasselt et al., "Learning values across many orders of magnitude", arXiv 1602.07714).

    Args:
        shape: S, K.
        step: the share of a batch's moments in the moved ones.

    Attributes:
        mean, square: [S, K], of the returns and of their squares.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        step: float,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.mean = torch.zeros(shape, device=device, dtype=dtype)
        self.square = torch.ones(shape, device=device, dtype=dtype)
        self.step = step
        self._seen = torch.zeros((), device=device)

    @property
    def std(self) -> Tensor:
        """[S, K]."""
        return (self.square - self.mean.square()).clamp_min(_LEAST_STD**2).sqrt()

    def normalise(self, returns: Tensor) -> Tensor:
        """Returns [S, K, B] in deviations from the mean."""
        return (returns - self.mean.unsqueeze(-1)) / self.std.unsqueeze(-1)

    def restore(self, values: Tensor) -> Tensor:
        """The head's values [S, K, B] in the units of the reward."""
        return values * self.std.unsqueeze(-1) + self.mean.unsqueeze(-1)

    def update(self, returns: Tensor, weight: Tensor, bias: Tensor, frozen: Tensor) -> None:
        """Move the moments towards those of returns [S, K, B], and the head the other way.

        The first batch sets them.

        Args:
            returns: in the units of the reward.
            weight, bias: of the head, [S, K, 1, D] and [S, K, 1]; written.
            frozen: [S], 1 for seeds of which nothing is to move; nor does it where returns are not finite.
        """
        mean, std = self.mean.clone(), self.std
        finite = torch.isfinite(returns).flatten(1).all(-1)
        moves = ((1 - frozen).to(returns.dtype) * finite).unsqueeze(1)
        returns = torch.where(finite[:, None, None], returns, 0)
        share = torch.where(self._seen > 0, self.step, 1.0) * moves
        self.mean.lerp_(mean_of_rows(returns), share)
        self.square.lerp_(mean_of_rows(returns.square()), share)
        self._seen.fill_(1)
        ratio = (std / self.std).unsqueeze(-1)
        weight.mul_(ratio.unsqueeze(-1))
        bias.copy_((bias * std.unsqueeze(-1) + (mean - self.mean).unsqueeze(-1)) / self.std.unsqueeze(-1))

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "square": self.square, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self._seen.copy_(state["seen"])
