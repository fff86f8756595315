"""SDMGrad."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl_conic.combiners.base import SolverCombiner
from mtrl_conic.combiners.solvers import min_norm_weights, project_to_simplex, times
from mtrl_conic.system import validation

_LR, _MOMENTUM = 10, 0.5  # of the authors' inner solve


class SDMGrad(SolverCombiner):
    """Between the mean gradient and the shortest vector of the hull.

    "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms", arXiv 2305.18409:
    ω minimises ½‖g_ω + λ g_0‖² on the simplex, and d = (g_ω + λ g_0)/(1 + λ). That is the shortest vector in the
    hull of the g_i + λ g_0, which is how it is solved here, to the optimum; the residual is MGDA's of these vectors.

    The authors take 20 projected gradient steps (learning rate 10, momentum 0.5, gradients over their mean norm)
    from the last update's ω: `inner_iterations=20`. Their theory uses independent batches for the two gradients;
    their code for MT10, and this, one.

    Args:
        lamda: λ, ≥ 0; 0 is MGDA. The authors' is 0.6 for MT10.
        inner_iterations: steps of the authors' inner solve; null solves to the optimum.

    Raises:
        ValueError: for a hyperparameter out of its range.
    """

    def __init__(self, lamda: float = 0.6, inner_iterations: int | None = None) -> None:
        super().__init__()
        self.lamda = validation.number("lamda", lamda, 0)
        self.inner_iterations = inner_iterations
        if inner_iterations is not None:
            self.inner_iterations = validation.whole("inner_iterations", inner_iterations, 1)

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        super().setup(seeds, num_tasks, device)
        if self.inner_iterations is not None:
            shape = (len(seeds), num_tasks)
            self.state["task_weight"] = torch.full(shape, 1 / num_tasks, dtype=torch.float64, device=device)

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        if self.inner_iterations is None:
            solution = min_norm_weights(self._shift(gramian))
            self.note_residual(solution.gap)
            task_weights = solution.weights
        else:
            task_weights = self._descend(gramian, self.inner_iterations)
        self.diagnostics["task_weight"] = task_weights
        return (task_weights + self.lamda / gramian.shape[-1]) / (1 + self.lamda)

    def _shift(self, gramian: Tensor) -> Tensor:
        """The Gramian of the g_i + λ g_0."""
        products = gramian.mean(-1, keepdim=True)
        mean_square = products.mean(1, keepdim=True)
        shifted = gramian + self.lamda * (products + products.mT) + self.lamda**2 * mean_square
        # Where g_i + λ g_0 nearly vanishes, the rounding of its terms must not make its square negative.
        own = gramian.diagonal(dim1=1, dim2=2)
        shifted.diagonal(dim1=1, dim2=2).add_(1e-15 * (own + self.lamda**2 * mean_square.squeeze(-1)))
        return shifted

    def _descend(self, gramian: Tensor, iterations: int) -> Tensor:
        """The authors' inner solve; returns and remembers ω."""
        scale = (gramian.diagonal(dim1=1, dim2=2) + 1e-4).sqrt().mean(-1).square()
        gramian = gramian / scale[:, None, None]
        mean_products = self.lamda * gramian.mean(-1)
        task_weights = self.state["task_weight"]
        velocity = torch.zeros_like(task_weights)
        for _ in range(iterations):
            slope = mean_products + times(gramian, task_weights.unsqueeze(-1)).squeeze(-1)
            velocity = _MOMENTUM * velocity + slope
            task_weights = project_to_simplex(task_weights - _LR * velocity)
        return self.state["task_weight"].copy_(task_weights).clone()
