"""The best direction for the worst task in a cone around the mean gradient, by its dual problem."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_conic.combiners.cagrad_solver import Kink
from mtrl_conic.combiners.solvers import solve, step_length, times, unless
from mtrl_conic.system.looks import may_look
from mtrl_conic.system.seedwise import matmul

# As in `cagrad_solver`, but for a problem in units of the shortest gradient, in which it can be large.
_START, _FLOOR, _SHRINK, _ROUNDING, _SETTLED = 0.3, 1e-8, 0.1, 3.0, 1e-7
_TINY_ROW = 1e-7  # norms below this share of the largest are the rounding of float32 gradients
_CANCELLED = 1e-6  # the least of the objective's terms that its errors are a share of, where they cancel
_RIDGE = 1e-12  # squared length that a unit gradient gets beside its own: it bounds the weights of the direction
_ROUNDED = 1e-14  # the same over ‖g_0‖, for the rounding of a û that is summed from gradients which nearly cancel
_DAMPING = 1e-9  # squared lengths below this count as 0 where the direction is written in gradients
_NARROWEST = 1 - 1e-12  # cosine: a narrower cone has no interior for the solver; who calls turns into the true one


class ConeSolution(NamedTuple):
    """What `best_in_cone` finds, for each of S seeds.

    Attributes:
        weights: [S, K] of a direction d = Σ weights_i g_i, ‖d‖ ≤ 1, in the cone, both to about 1e-5.
        task_weights: ω [S, K] on the simplex, the optimum of the dual problem.
        bound: [S]; no d of length 1 in the cone has a larger min_i g_iᵀd.
        present: [S, K], the gradients that count.
        unit: [S], the norm of the shortest of them.
    """

    weights: Tensor
    task_weights: Tensor
    bound: Tensor
    present: Tensor
    unit: Tensor


class _Problem(NamedTuple):
    """min bᵀx + √(xᵀMx) over x ≥ 0 with rᵀx = 1, for n variables: b and r are [S, n, 1], M is [S, n, n]."""

    linear: Tensor
    norm: Tensor
    prices: Tensor


def best_in_cone(gramian: Tensor, cosine: float | Tensor, iterations: int = 40) -> ConeSolution:
    """Maximise min_i g_iᵀd over ‖d‖ ≤ 1, ûᵀd ≥ c, with û = g_0/‖g_0‖.

    That set is the convex hull of the unit vectors in the cone. Its optimum has length 1 where it is positive, and
    also below 0 but where some g_ω, ω on the simplex, points along −û: only there, with linearly dependent gradients,
    can vectors of length 1 be worse than the bound. The dual problem, with a multiplier λ ≥ 0 of ûᵀd ≥ c, is

        min ‖g_ω + λû‖ − cλ over ω on the simplex and λ;  over λ it is ‖g_ω‖ cos(max(0, ∠(g_ω, g_0) − arccos c)).

    It is a linear function plus a norm of x = (ω_i ‖g_i‖, λ), in which gradients have length 1 and the simplex has
    prices ∝ 1/‖g_i‖, with 0 for λ. Gradients shorter than 1e-7 of the longest count as 0 and are left out; g_0 must
    not be negligible beside the longest.

    Args:
        gramian: [S, K, K], largest entries near 1.
        cosine: c, a number or [S, 1, 1].
        iterations: at most; 7 to 20 do where norms are alike, more where they differ by orders of magnitude and the
            cone is narrow.
    """
    norms = gramian.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    present = norms > _TINY_ROW
    unit = torch.where(present, norms, torch.inf).amin(-1, keepdim=True)
    mean_norm = gramian.mean((1, 2)).clamp_min(torch.finfo(gramian.dtype).tiny).sqrt()
    generators = _generators(norms, present, mean_norm)
    norm = matmul(generators, matmul(gramian, generators.mT))
    norm.diagonal(dim1=1, dim2=2).copy_(1 + _RIDGE + _ROUNDED / mean_norm.unsqueeze(-1))
    ratios = torch.where(present, unit / norms.clamp_min(_TINY_ROW), 0).unsqueeze(-1)
    prices = torch.cat((ratios, torch.zeros_like(ratios[:, :1])), 1)
    linear = torch.zeros_like(prices)
    linear[:, -1:] = cosine
    problem = _Problem(-linear.clamp_max_(_NARROWEST), norm, prices)
    value, dual = _minimize(problem, iterations)
    weights = times(generators.mT, _shortened(norm, dual)).squeeze(-1)
    bound = _measure(problem, value)[0].flatten() * unit.flatten()
    return ConeSolution(weights, (prices * value)[:, :-1].squeeze(-1), bound, present, unit.flatten())


def _generators(norms: Tensor, present: Tensor, mean_norm: Tensor) -> Tensor:
    """The weights [S, K + 1, K] that make the unit gradients, and last û, which also stands in for absent ones."""
    num_tasks = norms.shape[-1]
    mean = (1 / (num_tasks * mean_norm)).view(-1, 1, 1).expand(-1, 1, num_tasks)
    units = torch.where(present, 1 / norms.clamp_min(_TINY_ROW), 0).diag_embed()
    return torch.cat((torch.where(present.unsqueeze(-1), units, mean), mean), 1)


def _minimize(problem: _Problem, iterations: int) -> tuple[Tensor, Tensor]:
    """The optimum x and the dual vector u, uᵀMu ≤ 1, both [S, n, 1]; the slope of the norm at x is Mu.

    The method of `minimize_linear_plus_norm`, with prices, and with products in proportion to the objective.
    """
    linear, norm, prices = problem
    num_variables = norm.shape[-1]
    value = (1 / prices.sum(1, keepdim=True)).expand_as(prices)
    objective, size = _measure(problem, value)
    longest = 1 / torch.where(prices > 0, prices, 1).amin(1, keepdim=True)  # gradient: the optimum can be so large
    products = (_START / num_variables * torch.maximum(size, longest / num_variables)).expand_as(prices)
    kink, shrink, settled = Kink(norm, value), torch.full_like(size, _SHRINK), None
    for _ in range(iterations):
        target = torch.maximum(products.mean(1, keepdim=True) * shrink, _FLOOR / num_variables * size)
        slope, curvature = kink.expand(value, target * (_ROUNDING * num_variables))
        step = _newton_step(linear + slope, curvature, prices, value, products, target)  # relative to the value
        dual_step = target / products - 1 - step
        length, dual_length = step_length(step), step_length(dual_step)
        dual_length = kink.reach(value, step, dual_length)
        kink.follow(dual_length, settled)  # a seed's result does not depend on how long the others take
        shrink = (1 - torch.minimum(length, dual_length)).square_().clamp_min_(_SHRINK)
        grown = 1 + length * step
        products = products * grown * (1 + dual_length * dual_step)
        grown = value * grown
        value = unless(settled, grown / times(prices.mT, grown), value)
        objective, size = _measure(problem, value)
        if may_look(norm):
            now = objective - _lower_bound(problem, value, kink.slope) <= _SETTLED * size
            settled = now if settled is None else settled | now
            if bool(settled.all()):
                break
    return value, kink.dual


def _measure(problem: _Problem, value: Tensor) -> tuple[Tensor, Tensor]:
    """The objective at x [S, n, 1], and what its error is relative to, at least 1: the shortest gradient; [S, 1, 1]."""
    length = times(value.mT, times(problem.norm, value)).clamp_min_(0).sqrt_()
    linear = times(problem.linear.mT, value)
    objective = length + linear
    return objective, torch.maximum(objective.abs().clamp_min_(1), (length - linear) * _CANCELLED)


def _lower_bound(problem: _Problem, value: Tensor, slope: Tensor) -> Tensor:
    """About what the objective cannot fall below [S, 1, 1], by the slope of its norm [S, n, 1] at x."""
    slopes = problem.linear + slope
    priced = problem.prices > 0
    least = torch.where(priced, slopes / problem.prices, torch.inf).amin(1, keepdim=True)
    # a negative slope without a price is worth what x can grow by, taken for twice its size, and 1
    return least + torch.where(priced, 0, slopes.clamp_max(0) * (1 + 2 * value)).sum(1, keepdim=True)


def _newton_step(
    gradient: Tensor, hessian: Tensor, prices: Tensor, value: Tensor, products: Tensor, target: Tensor
) -> Tensor:
    """Change of x relative to itself, [S, n, 1]; pricesᵀx stays."""
    # The prices do not change the step. They give a curvature along x, where the objective has none.
    matrix = (hessian + prices * prices.mT) * value * value.mT
    matrix.diagonal(dim1=1, dim2=2).add_(products.squeeze(-1))
    spent = prices * value
    solved = solve(matrix, gradient * value - target, spent)
    sums = (spent * solved).sum(1, keepdim=True)
    step = solved[..., 1:] * (sums[..., :1] / sums[..., 1:]) - solved[..., :1]
    return step.nan_to_num(0, 0, 0)  # no step where rounding leaves the matrix indefinite


def _shortened(norm: Tensor, dual: Tensor) -> Tensor:
    """The same direction, to 1e-5 of its length, without the large parts of the dual that cancel."""
    damped = norm + _DAMPING * torch.eye(norm.shape[-1], dtype=norm.dtype, device=norm.device)
    return solve(damped, times(norm, dual))
