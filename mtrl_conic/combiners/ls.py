"""Linear scalarization."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtrl_conic.combiners.base import Combiner


class LS(Combiner):
    """The mean of the losses: every weight is 1/K. Builds no Jacobian."""

    requires: ClassVar[Literal["losses", "gramian", "jacobian"]] = "losses"

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        return torch.full_like(losses, 1 / losses.shape[-1])
