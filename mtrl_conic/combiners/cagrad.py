"""CAGrad."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_conic.combiners import _validation
from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.solvers import minimize_on_simplex

# Norms below this share of max ‖g_i‖ are the rounding of float32 gradients.
_NEGLIGIBLE = 1e-7


class CAGrad(Combiner):
    """The direction that serves the worst task best among those within c‖g_0‖ of the mean gradient.

    "Conflict-Averse Gradient Descent for Multi-task Learning", arXiv 2110.14048. The dual problem is
    min_ω g_ωᵀg_0 + c‖g_0‖‖g_ω‖ on the simplex, and d = g_0 + c‖g_0‖ g_ω/‖g_ω‖. As in the authors' code, d is
    divided by 1 + c². They run SciPy's SLSQP on the host; here an interior-point method solves it to the optimum
    on the device, and `diagnostics["gap"]` bounds what is missing, in units of ‖g_0‖ max ‖g_i‖.

    Where g_ω = 0 at the optimum (a Pareto-stationary point) the second term is left out, as its direction is
    arbitrary. Norms less than 1e-7 of the largest gradient's are taken for 0.

    Args:
        c: radius of the ball relative to ‖g_0‖, in [0, 1); 0 gives g_0.

    Raises:
        ValueError: for a c out of its range.
    """

    def __init__(self, c: float = 0.9) -> None:
        super().__init__()
        self.c = _validation.number("c", c, 0, 1, high_included=False)

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        num_tasks = gramian.shape[-1]
        largest = gramian.diagonal(dim1=1, dim2=2).amax(-1).clamp_min(torch.finfo(gramian.dtype).tiny)
        gramian = gramian / largest[:, None, None]
        products = gramian.mean(-1, keepdim=True)
        mean_norm = products.mean(1, keepdim=True).clamp_min_(0).sqrt_()
        products = products / mean_norm.clamp_min(_NEGLIGIBLE)  # g_i · g_0 / ‖g_0‖
        flat = torch.zeros_like(gramian)
        solution = minimize_on_simplex(lambda _: (products, flat), num_tasks, gramian, norm=gramian * self.c**2)
        self.diagnostics.update(gap=solution.gap, task_weight=solution.weights)
        column = solution.weights.unsqueeze(-1)
        norm = torch.bmm(column.mT, torch.bmm(gramian, column)).clamp_min_(0).sqrt_()
        pull = self.c * mean_norm / norm.clamp_min(_NEGLIGIBLE) * (norm > _NEGLIGIBLE)
        return ((1 / num_tasks + pull * column) / (1 + self.c**2)).squeeze(-1)
