"""Batched convex solvers: fixed iterations, on the tensors' device, nothing read back to the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]

# Settings of the interior-point method, chosen over random, rank-deficient, duplicated, opposite and badly scaled
# Gramians of 2 to 50 tasks. All products weight · multiplier start at _START / K and end near _FLOOR / K; an
# iteration divides them by up to 1 / _SHRINK, and stops short of the boundary by the rest of _REACH.
_START, _FLOOR, _SHRINK, _REACH = 0.3, 1e-8, 0.1, 0.95
# The norm's kink is rounded over this many times the sum of those products. More is less exact, less fails at
# times where the optimum lies in the kink.
_ROUNDING = 3.0


class SimplexSolution(NamedTuple):
    """Weights [S, K] on the simplex, and an upper bound [S] of how far their objective is above the optimum."""

    weights: Tensor
    gap: Tensor


def minimize_on_simplex(
    objective: Objective,
    num_tasks: int,
    like: Tensor,
    norm: Tensor | None = None,
    iterations: int = 28,
) -> SimplexSolution:
    """Minimise f(ω), or f(ω) + √(ωᵀNω), over the simplex, for S problems at once.

    A primal-dual interior-point method. The norm, which has a kink where Nω = 0, carries a dual variable of its
    own: the Newton step linearises √(..) · dual = ω instead of the gradient of the norm (Chan, Golub and Mulet,
    "A nonlinear primal-dual method for total variation-based image restoration", SIAM J. Sci. Comput. 20(6)).

    Args:
        objective: gradient [S, K, 1] and Hessian [S, K, K] of the smooth, convex f at ω [S, K, 1]; scaled so that
            gradients are of the order of 1.
        num_tasks: K.
        like: any tensor [S, ...] of the type (float64 is needed for the accuracy) and device wanted.
        norm: N [S, K, K], positive semidefinite, entries of the order of 1 or less.
        iterations: 28 bring the gap to the order of 1e-8.
    """
    weights = like.new_full((like.shape[0], num_tasks, 1), 1 / num_tasks)
    products = torch.full_like(weights, _START / num_tasks)
    shrink: Tensor | float = _SHRINK
    kink = None if norm is None else _Kink(norm, weights)
    for _ in range(iterations):
        target = (products.mean(1, keepdim=True) * shrink).clamp_min_(_FLOOR / num_tasks)
        gradient, hessian = objective(weights)
        if kink is not None:
            slope, curvature = kink.expand(weights, target * (_ROUNDING * num_tasks))
            gradient, hessian = gradient + slope, hessian + curvature
        step = _newton_step(gradient, hessian, weights, products, target)  # relative to the weights
        dual_step = target / products - 1 - step
        length, dual_length = _length(step), _length(dual_step)
        if kink is not None:
            dual_length = kink.follow(weights, step, dual_length)
        shrink = (1 - torch.minimum(length, dual_length)).square_().clamp_min_(_SHRINK)
        grown = 1 + length * step
        products = products * grown * (1 + dual_length * dual_step)
        weights = weights * grown
        weights = weights / weights.sum(1, keepdim=True)
    return SimplexSolution(weights.squeeze(-1), _gap(objective, weights, kink))


def _newton_step(gradient: Tensor, hessian: Tensor, weights: Tensor, products: Tensor, target: Tensor) -> Tensor:
    """Change of the weights relative to themselves, [S, K, 1]; their sum stays."""
    # The 1 leaves the constrained step as it is and gives a curvature where the objective has none along ω.
    matrix = (hessian + 1) * weights * weights.mT
    matrix.diagonal(dim1=1, dim2=2).add_(products.squeeze(-1))
    factor, _ = torch.linalg.cholesky_ex(matrix)
    sides = torch.cat((gradient * weights - target, weights), -1)
    solved = torch.cholesky_solve(sides, factor)
    sums = torch.bmm(weights.mT, solved)
    return solved[..., 1:] * (sums[..., :1] / sums[..., 1:]) - solved[..., :1]


def _length(step: Tensor) -> Tensor:
    """The longest step [S, 1, 1] up to 1 that keeps 1 + length · step positive."""
    return _REACH / step.amin(1, keepdim=True).neg_().clamp_min_(_REACH)


class _Kink:
    """√(ωᵀNω), rounded, with the dual vector u, ‖u‖ ≤ 1, whose products with the K generators are `slope`."""

    def __init__(self, norm: Tensor, weights: Tensor) -> None:
        self.norm = norm
        self.dual = self.slope = torch.zeros_like(weights)

    def expand(self, weights: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and the symmetrised primal-dual Hessian at the weights."""
        products = torch.bmm(self.norm, weights)
        self.length = (torch.bmm(weights.mT, products) + rounding * rounding).sqrt_()
        self.gradient = products / self.length
        outer = torch.bmm(self.slope, self.gradient.mT)
        return self.gradient, (self.norm - 0.5 * (outer + outer.mT)) / self.length

    def follow(self, weights: Tensor, step: Tensor, length: Tensor) -> Tensor:
        """Move the dual with the relative step of the weights; returns how far [S, 1, 1] it can, by ‖u‖ < 1."""
        moved = weights * step
        change = (weights + moved - self.dual * torch.bmm(self.gradient.mT, moved)) / self.length - self.dual
        slope_change = torch.bmm(self.norm, change)
        square = torch.bmm(change.mT, slope_change).clamp_min_(1e-30)
        inner = torch.bmm(self.dual.mT, slope_change)
        room = (1 - torch.bmm(self.dual.mT, self.slope)).clamp_min_(1e-14)
        to_boundary = ((inner * inner + square * room).sqrt_() - inner) / square
        length = torch.minimum(length, to_boundary * _REACH)
        self.dual = self.dual + length * change
        self.slope = self.slope + length * slope_change
        return length


def _gap(objective: Objective, weights: Tensor, kink: _Kink | None) -> Tensor:
    """The duality gap: the objective less what its linear lower bound attains on the simplex."""
    gradient, _ = objective(weights)
    value, bound = (weights * gradient).sum(1), gradient
    if kink is not None:
        square = torch.bmm(weights.mT, torch.bmm(kink.norm, weights))
        value, bound = value + square.clamp_min_(0).sqrt_().squeeze(-1), gradient + kink.slope
    return (value - bound.amin(1)).squeeze(-1)
