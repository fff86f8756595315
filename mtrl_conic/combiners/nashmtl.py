"""NashMTL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.combiners.base import SolverCombiner
from mtrl_conic.combiners.solvers import complementarity, cosines, times
from mtrl_conic.system import validation

# Without a direction that serves all tasks there is no bargaining solution: with this on the diagonal of the
# cosines there is one, whose weights on unit gradients stay of the order of 1e5.
_RIDGE = 1e-10


class NashMTL(SolverCombiner):
    """The Nash bargaining solution between the tasks.

    "Multi-Task Learning as a Bargaining Game", arXiv 2202.01017: weights α > 0 with Gα = 1/α (Eq 2 to 4), the
    minimiser of the convex ½αᵀGα − Σ log α_i. The authors linearise it and call a solver up to 20 times; here an
    interior-point method on unit gradients solves it to the optimum. As in their code G is divided by its
    Frobenius norm. They clip the direction's norm at 1 afterwards; `agent.max_grad_norm` does that here.

    With `update_every` above 1 the weights are kept between solves, and no Jacobian is built for those updates.

    At a Pareto-stationary point there is no solution; what is solved has 1e-10 more on the diagonal of the cosines,
    and the tasks that are stuck cancel in its direction. A zero gradient gets weight 0, and the others bargain
    without it.

    Args:
        update_every: updates that use one solution, at least 1; the authors ran 1, 50 and 100 on MT10.

    Raises:
        ValueError: for an update_every out of its range.
    """

    def __init__(self, update_every: int = 1) -> None:
        super().__init__()
        self.update_every = validation.whole("update_every", update_every, 1)
        self._updates = 0

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        super().setup(seeds, num_tasks, device)
        # uniform until the first solve that counts
        uniform = torch.full((len(seeds), num_tasks), 1 / num_tasks, dtype=torch.float64, device=device)
        self.state["weights"] = uniform

    def needs_jacobian(self) -> bool:
        return self._updates % self.update_every == 0

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        self._updates += 1
        if gramian is not None:
            self.state["weights"].copy_(self._bargain(gramian))
        return self.state["weights"].clone()

    def replayed(self) -> None:
        self._updates += 1

    def _bargain(self, gramian: Tensor) -> Tensor:
        matrix, norms, inverse = cosines(gramian)
        value = complementarity(matrix, torch.zeros_like(norms).unsqueeze(-1), target=1.0, ridge=_RIDGE)
        products = times(matrix, value) + _RIDGE * value
        self.note_residual((value * products - 1).abs().amax((1, 2)))
        largest = gramian.diagonal(dim1=1, dim2=2).amax(-1, keepdim=True).clamp_min(torch.finfo(norms.dtype).tiny)
        size = (gramian / largest.unsqueeze(-1)).square().sum((1, 2)).sqrt_().unsqueeze(-1)  # overflows otherwise
        return value.squeeze(-1) * inverse * (largest.sqrt_() * size.sqrt_())

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"num_updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._updates = state["num_updates"]
