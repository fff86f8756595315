"""FairGrad."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_conic.combiners.base import SolverCombiner
from mtrl_conic.combiners.solvers import ITERATIONS, cosines, solve, step_length, times, unless
from mtrl_conic.system import validation
from mtrl_conic.system.looks import may_look
from mtrl_conic.system.seedwise import by_seed

_RIDGE = 1e-10  # on the diagonal of the cosines, as for NashMTL: without a direction for all tasks there is no solution
_REACH = 10.0  # the factor by which an iteration aims to bring a condition nearer
_SETTLED = 1e-5  # a whole step that is shorter, relative to y, ends the iterations: the next would be its square


class FairGrad(SolverCombiner):
    """The direction that shares its progress out among the tasks by α-fairness.

    "Fair Resource Allocation in Multi-Task Learning", arXiv 2402.15638: max Σ (g_iᵀd)^(1−α)/(1−α) on a ball, whose
    solution has weights w > 0 with Gw = w^(−1/α). α = 1 is NashMTL's bargain; the larger α, the more counts the task
    that gains least, as in MGDA. The authors hand the equations to a least-squares solver; they are the
    optimality conditions of a convex problem, min ½wᵀGw − Σ w_i^(1−1/α)/(1−1/α), which Newton steps on unit gradients
    solve to the optimum here.

    As for NashMTL G is divided by its Frobenius norm, on which only the length of the direction depends. At a
    Pareto-stationary point there is no solution; see NashMTL, also for gradients that are zero.

    Args:
        alpha: the degree of fairness, from 0.5 to 4.

    Raises:
        ValueError: for an alpha out of its range.
    """

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__()
        self.alpha = validation.number("alpha", alpha, 0.5, 4)

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        matrix, norms, inverse = cosines(gramian)
        present, tiny = norms > 0, torch.finfo(norms.dtype).tiny
        largest = norms.amax(-1, keepdim=True).clamp_min(tiny)
        # In y = w ‖g‖ the equations are y^(1/α) Cy = ‖g‖^(1/α − 1). Norms are relative to the largest until the end.
        log_target = torch.where(present, norms / largest, 1).log().unsqueeze(-1) * (1 / self.alpha - 1)
        value = fair_shares(matrix, log_target, self.alpha)
        products = times(matrix, value) + _RIDGE * value
        error = value.log() / self.alpha + products.clamp_min(tiny).log() - log_target
        self.note_residual(error.abs().amax((1, 2)))
        relative = gramian / largest.square().clamp_min(tiny).unsqueeze(-1)
        size = relative.square().sum((1, 2)).sqrt().unsqueeze(-1)  # of G, in squares of the largest norm
        return (
            value.squeeze(-1) * inverse * largest * by_seed(lambda each: each ** (self.alpha / (1 + self.alpha)), size)
        )


def fair_shares(matrix: Tensor, log_target: Tensor, alpha: float) -> Tensor:
    """Find y > 0 with y^(1/α) Cy = b, for S problems at once.

    Primal-dual Newton steps from y = s = 1, with s standing for Cy, in steps relative to y and s. Far from the solution
    each aims at a point on the way, so that b of any size is reached.

    Args:
        matrix: C [S, K, K], positive semidefinite, with a diagonal of 1; 1e-10 is added to it.
        log_target: log b [S, K, 1].
        alpha: α.

    Returns:
        y [S, K, 1].
    """
    matrix = matrix + _RIDGE * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    value, slack = torch.ones_like(log_target), torch.ones_like(log_target)
    settled = None
    for _ in range(2 * ITERATIONS):
        slope = times(matrix, value)
        ratio = (alpha * (log_target - slack.log())).exp() / value
        products = value * slack
        system = alpha * matrix * value * value.mT
        system.diagonal(dim1=1, dim2=2).add_(products.squeeze(-1))
        aim = ratio.clamp(1 / _REACH, _REACH)
        step = solve(system, products * (aim - 1 + alpha) - alpha * value * slope)
        slack_step = (aim - 1 - step) / alpha
        length = step_length(torch.minimum(step, slack_step))
        value = unless(settled, value * (1 + length * step), value)
        slack = unless(settled, slack * (1 + length * slack_step), slack)
        if may_look(matrix):
            now = torch.maximum(step.abs(), slack_step.abs()).amax(1, keepdim=True) <= _SETTLED
            settled = now if settled is None else settled | now
            if bool(settled.all()):
                break
    return value
