"""The dual problem of CAGrad: a linear function plus a norm, over the simplex."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_conic.combiners.solvers import solve, step_length, times, unless
from mtrl_conic.system.looks import may_look

# Chosen over random, rank-deficient, duplicated, opposite and badly scaled Gramians of 2 to 50 tasks. All products
# weight · multiplier start at _START / K and end near _FLOOR / K; an iteration divides them by up to 1 / _SHRINK.
_START, _FLOOR, _SHRINK, _REACH = 0.3, 1e-8, 0.1, 0.95
# The norm's kink is rounded over this many times the sum of those products. More is less exact, less fails at
# times where the optimum lies in the kink.
_ROUNDING = 3.0
_SETTLED = 1e-7  # the gap that ends the iterations


class Solution(NamedTuple):
    """What `minimize_linear_plus_norm` finds, for each of S problems.

    Attributes:
        weights: ω [S, K] on the simplex.
        dual: u [S, K] with uᵀNu ≤ 1: the slope of the norm at ω is Nu. Where ωᵀNω > 0 it is ω/√(ωᵀNω).
        gap: [S], an upper bound of how far the objective at ω, and min_i (b + Nu)_i below it, are from the optimum.
    """

    weights: Tensor
    dual: Tensor
    gap: Tensor


def minimize_linear_plus_norm(linear: Tensor, norm: Tensor, iterations: int = 28) -> Solution:
    """Minimise ωᵀb + √(ωᵀNω) over the simplex, for S problems at once.

    A primal-dual interior-point method. The norm, which has a kink where Nω = 0, carries a dual variable of its
    own: the Newton step linearises √(..) · dual = ω instead of the gradient of the norm (Chan, Golub and Mulet,
    "A nonlinear primal-dual method for total variation-based image restoration", SIAM J. Sci. Comput. 20(6)).

    Args:
        linear: b [S, K, 1], entries of the order of 1 or less.
        norm: N [S, K, K], positive semidefinite, entries of the order of 1 or less.
        iterations: at most; 28 bring the gap to the order of 1e-8.
    """
    num_tasks = linear.shape[1]
    weights = torch.full_like(linear, 1 / num_tasks)
    products = torch.full_like(weights, _START / num_tasks)
    shrink: Tensor | float = _SHRINK
    kink = Kink(norm, weights)
    settled = _settled(linear, weights, products, kink)
    for _ in range(iterations):
        target = (products.mean(1, keepdim=True) * shrink).clamp_min_(_FLOOR / num_tasks)
        slope, curvature = kink.expand(weights, target * (_ROUNDING * num_tasks))
        step = _newton_step(linear + slope, curvature, weights, products, target)  # relative to the weights
        dual_step = target / products - 1 - step
        length, dual_length = step_length(step), step_length(dual_step)
        dual_length = kink.reach(weights, step, dual_length)
        kink.follow(dual_length, settled)
        shrink = (1 - torch.minimum(length, dual_length)).square_().clamp_min_(_SHRINK)
        grown = 1 + length * step
        products = products * grown * (1 + dual_length * dual_step)
        grown = weights * grown
        weights = unless(settled, grown / grown.sum(1, keepdim=True), weights)
        now = _settled(linear, weights, products, kink)
        settled = now if settled is None or now is None else settled | now
        if settled is not None and bool(settled.all()):
            break
    return Solution(weights.squeeze(-1), kink.dual.squeeze(-1), _gap(linear, weights, kink).squeeze(-1))


def _settled(linear: Tensor, weights: Tensor, products: Tensor, kink: Kink) -> Tensor | None:
    """Which problems [S, 1, 1] are solved; None where looking would wait for the device."""
    if not may_look(linear):
        return None
    near = products.amax(1, keepdim=True) <= 3 * _FLOOR / products.shape[1]
    return near & (_gap(linear, weights, kink) <= _SETTLED).unsqueeze(-1) if bool(near.any()) else near


def _newton_step(gradient: Tensor, hessian: Tensor, weights: Tensor, products: Tensor, target: Tensor) -> Tensor:
    """Change of the weights relative to themselves, [S, K, 1]; their sum stays."""
    # The 1 leaves the constrained step as it is and gives a curvature where the objective has none along ω.
    matrix = (hessian + 1) * weights * weights.mT
    matrix.diagonal(dim1=1, dim2=2).add_(products.squeeze(-1))
    solved = solve(matrix, gradient * weights - target, weights)
    sums = (weights * solved).sum(1, keepdim=True)
    return solved[..., 1:] * (sums[..., :1] / sums[..., 1:]) - solved[..., :1]


class Kink:
    """√(ωᵀNω), rounded, with the dual vector u, ‖u‖ ≤ 1, whose products with the K generators are `slope`."""

    def __init__(self, norm: Tensor, weights: Tensor) -> None:
        self.norm = norm
        self.dual = self.slope = torch.zeros_like(weights)

    def expand(self, weights: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and the symmetrised primal-dual Hessian at the weights."""
        products = times(self.norm, weights)
        self.length = (times(weights.mT, products) + rounding * rounding).sqrt_()
        self.gradient = products / self.length
        outer = self.slope * self.gradient.mT
        return self.gradient, (self.norm - 0.5 * (outer + outer.mT)) / self.length

    def reach(self, weights: Tensor, step: Tensor, length: Tensor) -> Tensor:
        """How far [S, 1, 1] the dual can follow the weights' relative step, up to `length`, by ‖u‖ < 1."""
        moved = weights * step
        self.change = (weights + moved - self.dual * times(self.gradient.mT, moved)) / self.length - self.dual
        self.slope_change = times(self.norm, self.change)
        square = times(self.change.mT, self.slope_change).clamp_min_(1e-30)
        inner = times(self.dual.mT, self.slope_change)
        room = (1 - times(self.dual.mT, self.slope)).clamp_min_(1e-14)
        to_boundary = ((inner * inner + square * room).sqrt_() - inner) / square
        return torch.minimum(length, to_boundary * _REACH)

    def follow(self, length: Tensor, settled: Tensor | None) -> None:
        """Move the dual by that share of its step where a problem is not settled."""
        self.dual = unless(settled, self.dual + length * self.change, self.dual)
        self.slope = unless(settled, self.slope + length * self.slope_change, self.slope)


def _gap(linear: Tensor, weights: Tensor, kink: Kink) -> Tensor:
    """The duality gap [S, 1]: the objective less what its linear lower bound attains on the simplex."""
    square = times(weights.mT, times(kink.norm, weights)).clamp_min_(0)
    value = times(weights.mT, linear) + square.sqrt_()
    return (value - (linear + kink.slope).amin(1, keepdim=True)).squeeze(-1)
