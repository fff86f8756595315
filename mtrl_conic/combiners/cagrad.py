"""CAGrad."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl_conic.combiners.base import SolverCombiner
from mtrl_conic.combiners.cagrad_solver import minimize_linear_plus_norm
from mtrl_conic.combiners.solvers import times
from mtrl_conic.system import validation

_NEGLIGIBLE = 1e-7  # a ‖g_0‖ below this share of max ‖g_i‖ is the rounding of float32 gradients
_MOMENTUM, _MARGIN = 0.5, 1e-4  # of the authors' inner solve


class CAGrad(SolverCombiner):
    """The direction that serves the worst task best among those within c‖g_0‖ of the mean gradient.

    "Conflict-Averse Gradient Descent for Multi-task Learning", arXiv 2110.14048. The dual problem is
    min_ω g_ωᵀg_0 + c‖g_0‖‖g_ω‖ on the simplex, and d = g_0 + c‖g_0‖ g_ω/‖g_ω‖. As in the authors' code, d is
    divided by 1 + c². An interior-point method solves it to the optimum on the device; the residual bounds what is
    missing, in units of ‖g_0‖ max ‖g_i‖.

    The authors' code for MT10 either calls SciPy's SLSQP on the host, or takes 20 gradient steps on the logits of ω
    (learning rate 25, 50 for 50 tasks, momentum 0.5, gradients over their mean norm) and keeps the best:
    `inner_iterations=20`.

    Where g_ω = 0 at the optimum the solver's dual vector stands for g_ω/‖g_ω‖: with it d is the best in the ball
    also there. A ‖g_0‖ below 1e-7 of the largest gradient is taken for 0.

    Args:
        c: radius of the ball relative to ‖g_0‖, in [0, 1); 0 gives g_0.
        inner_iterations: steps of the authors' inner solve; null solves to the optimum.

    Raises:
        ValueError: for a hyperparameter out of its range.
    """

    def __init__(self, c: float = 0.9, inner_iterations: int | None = None) -> None:
        super().__init__()
        self.c = validation.number("c", c, 0, 1, high_included=False)
        self.inner_iterations = inner_iterations
        if inner_iterations is not None:
            self.inner_iterations = validation.whole("inner_iterations", inner_iterations, 1)

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        if self.inner_iterations is not None:
            return self._descend(gramian, self.inner_iterations)
        largest = gramian.diagonal(dim1=1, dim2=2).amax(-1).clamp_min(torch.finfo(gramian.dtype).tiny)
        gramian = gramian / largest[:, None, None]
        products = gramian.mean(-1, keepdim=True)
        mean_norm = products.mean(1, keepdim=True).clamp_min_(0).sqrt_()
        along = products / mean_norm.clamp_min(_NEGLIGIBLE)  # g_i · g_0 / ‖g_0‖
        solution = minimize_linear_plus_norm(along, gramian * self.c**2)
        self.note_residual(solution.gap)
        return self._weights(solution.weights, self.c**2 * mean_norm.squeeze(-1) * solution.dual)

    def _weights(self, task_weights: Tensor, pull: Tensor) -> Tensor:
        """Weights of the direction from ω and from those of c‖g_0‖ g_ω/‖g_ω‖, [S, K] each."""
        self.diagnostics["task_weight"] = task_weights
        return (1 / task_weights.shape[-1] + pull) / (1 + self.c**2)

    def _descend(self, gramian: Tensor, iterations: int) -> Tensor:
        """The authors' inner solve: gradient steps on logits, the best of `iterations` + 1 points."""
        num_tasks = gramian.shape[-1]
        lr = 50 if num_tasks == 50 else 25
        scale = (gramian.diagonal(dim1=1, dim2=2) + _MARGIN).sqrt().mean(-1).square()
        gramian = gramian / scale[:, None, None]
        along = gramian.mean(-1, keepdim=True)
        radius = self.c * (along.mean(1, keepdim=True) + _MARGIN).sqrt()
        logits = torch.zeros_like(along)
        velocity = torch.zeros_like(along)
        best = torch.full_like(radius, torch.inf)
        best_weights, best_norm = logits, radius
        for _ in range(iterations + 1):
            task_weights = logits.softmax(1)
            products = times(gramian, task_weights)
            norm = (times(task_weights.mT, products) + _MARGIN).sqrt_()
            value = times(task_weights.mT, along) + radius * norm
            better = value < best
            best = torch.where(better, value, best)
            best_weights = torch.where(better, task_weights, best_weights)
            best_norm = torch.where(better, norm, best_norm)
            slope = along + radius * products / norm
            slope = task_weights * (slope - times(task_weights.mT, slope))
            velocity = _MOMENTUM * velocity + slope
            logits = logits - lr * velocity
        return self._weights(best_weights.squeeze(-1), (radius / (best_norm + _MARGIN) * best_weights).squeeze(-1))

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        if self.inner_iterations is None:
            super().setup(seeds, num_tasks, device)
