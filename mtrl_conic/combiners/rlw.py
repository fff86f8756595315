"""Random loss weighting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.system.streams import SeedStreams


class RLW(Combiner):
    """Weights drawn anew at each update: the softmax of standard normal numbers.

    "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning", arXiv 2111.10603, with
    its normal distribution. The weights sum to 1. Builds no Jacobian.
    """

    requires: ClassVar[Literal["losses", "gramian", "jacobian"]] = "losses"

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        self._streams = SeedStreams(seeds, f"rlw {self.network}", device)
        self._noise = torch.empty(len(seeds), num_tasks, dtype=torch.float64, device=device)

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        return self._streams.normal_(self._noise).softmax(-1)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self._streams.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._streams.load_state_dict(state)
