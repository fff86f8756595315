"""GradDrop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.system import validation
from mtrl_conic.system.seedwise import by_seed
from mtrl_conic.system.streams import SeedStreams

_PIECE = 65_536  # parameters at a time: the temporaries [S, K, ·] stay small beside the Jacobian


class GradDrop(Combiner):
    """For each parameter a sign is drawn, and only the gradients of that sign count.

    "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout", arXiv 2010.06808, Algorithm 1:
    the positive sign purity is P = ½(1 + Σ g_i/Σ |g_i|), positive gradients are kept with probability P and
    negative ones otherwise. The paper sums what is kept; here it is averaged, so that d = g_0 where all
    gradients agree in the sign of each parameter.

    Args:
        leak: share of the dropped gradients that passes all the same, in [0, 1].

    Raises:
        ValueError: for a leak out of its range.
    """

    requires: ClassVar[Literal["losses", "gramian", "jacobian"]] = "jacobian"

    def __init__(self, leak: float = 0.0) -> None:
        super().__init__()
        self.leak = validation.number("leak", leak, 0, 1)

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        self._streams = SeedStreams(seeds, f"graddrop {self.network}", device)

    def direction(self, jacobian: Tensor, losses: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            out = jacobian.new_empty(jacobian.shape[0], jacobian.shape[2])
        sums = jacobian.new_zeros(3, len(jacobian), dtype=torch.float64)  # d·g_0, ‖d‖², ‖g_0‖²
        for start in range(0, jacobian.shape[2], _PIECE):
            piece = jacobian[..., start : start + _PIECE]
            mean = piece.mean(1)
            kept = self._keep(piece, mean, out[:, start : start + _PIECE])
            for total, (left, right) in zip(sums, ((kept, mean), (kept, kept), (mean, mean)), strict=True):
                total += by_seed(torch.linalg.vecdot, left.double(), right.double())
        inner, square, mean_square = sums
        norms = (square.sqrt() * mean_square.sqrt()).clamp_min(torch.finfo(sums.dtype).tiny)
        self.diagnostics["cosine"] = inner / norms
        return out

    def _keep(self, jacobian: Tensor, mean: Tensor, out: Tensor) -> Tensor:
        """Write the mean of the kept gradients [S, c] of a piece [S, K, c]."""
        total = jacobian.abs().mean(1)
        purity = 0.5 * (1 + mean / torch.where(total > 0, total, 1))
        positive = purity > self._streams.uniform_(torch.empty_like(purity))
        chosen = torch.where(positive, jacobian.clamp_min(0).mean(1), jacobian.clamp_max(0).mean(1))
        return out.copy_(torch.lerp(chosen, mean, self.leak))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self._streams.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._streams.load_state_dict(state)
