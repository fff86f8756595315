"""MGDA."""

from __future__ import annotations

from torch import Tensor

from mtrl_conic.combiners.base import SolverCombiner
from mtrl_conic.combiners.solvers import min_norm_weights


class MGDA(SolverCombiner):
    """The shortest vector in the convex hull of the task gradients.

    "Multi-Task Learning as Multi-Objective Optimization", arXiv 1810.04650, Eq 4, with the gradients as they are.
    It lowers every task's loss, or is 0 at a Pareto-stationary point. The authors run Frank-Wolfe; here an
    interior-point method solves it to the optimum.

    The residual bounds how much longer d is than the shortest vector, as a share of its length. Where d is shorter than
    3e-5 Σ ω_i ‖g_i‖ rounding begins to decide, and it bounds ‖d‖² as a share of the square of that instead.
    """

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        solution = min_norm_weights(gramian)
        self.note_residual(solution.gap)
        return solution.weights
