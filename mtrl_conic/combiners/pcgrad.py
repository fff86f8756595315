"""PCGrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.solvers import times
from mtrl_conic.system.streams import SeedStreams


class PCGrad(Combiner):
    """The mean of the task gradients after each has lost what conflicts with the others.

    "Gradient Surgery for Multi-Task Learning", arXiv 2001.06782, Algorithm 1: the gradient of task i meets the
    original gradients of the others in a random order, drawn per task and update, and where the inner product
    with g_j is negative it is projected onto the plane normal to g_j. The paper sums the projected gradients;
    here they are averaged, so that without conflicts d = g_0.

    Only inner products are needed: a projected gradient is kept as its coefficients on the unit gradients.
    """

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        self._streams = SeedStreams(seeds, f"pcgrad {self.network}", device)
        self._keys = torch.empty(len(seeds), num_tasks, num_tasks, dtype=torch.float64, device=device)
        self._identity = torch.eye(num_tasks, dtype=torch.float64, device=device)

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        norms = gramian.diagonal(dim1=1, dim2=2).sqrt()
        inverse = 1 / norms.clamp_min(torch.finfo(norms.dtype).tiny) * (norms > 0)
        cosines = gramian * inverse.unsqueeze(1) * inverse.unsqueeze(2)
        coefficients = self._project(cosines, self._orders())
        return times(coefficients.mT, norms.unsqueeze(-1)).squeeze(-1) * inverse / norms.shape[-1]

    def _orders(self) -> Tensor:
        """The others in random order, for each task: [S, K, K − 1]."""
        keys = self._streams.uniform_(self._keys) + 2 * self._identity  # a task itself comes last
        return keys.argsort(-1)[..., :-1]

    def _project(self, cosines: Tensor, orders: Tensor) -> Tensor:
        """Coefficients [S, K, K] on the unit gradients; row i starts as unit gradient i."""
        coefficients = self._identity.expand_as(cosines).clone()
        num_tasks = cosines.shape[-1]
        met = cosines.gather(1, orders.flatten(1).unsqueeze(-1).expand(-1, -1, num_tasks))
        met = met.unflatten(1, (num_tasks, -1))  # [S, K, K − 1, K]: the products with the one met k-th
        for k in range(num_tasks - 1):
            inner = (coefficients * met[:, :, k]).sum(-1, keepdim=True)
            coefficients.scatter_add_(-1, orders[..., k : k + 1], -inner.clamp_max(0))
        return coefficients

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self._streams.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._streams.load_state_dict(state)
