"""UPGrad."""

from __future__ import annotations

from torch import Tensor

from mtrl_conic.combiners.base import SolverCombiner
from mtrl_conic.combiners.solvers import complementarity, cosines, times


class UPGrad(SolverCombiner):
    """The mean of the task gradients, each projected onto the cone of directions that harm no task.

    "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232: gradient i becomes the nearest vector with
    non-negative inner products with all gradients, g_i + Σ λ_j g_j with λ ≥ 0 minimising its norm. The authors'
    library adds 1e-4 to the diagonal of the normalised Gramian; here the K problems of a seed are solved on unit
    gradients, together, with 1e-12. The residual is how far a projection may be from the nearest vector, in units of
    its gradient's length; gradients so nearly dependent that the 1e-12 matters have one above the tolerance.
    """

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        num_tasks = gramian.shape[-1]
        matrix, norms, inverse = cosines(gramian)
        rows = matrix.repeat_interleave(num_tasks, 0).unflatten(0, (-1, num_tasks))  # [S, K, K, K]: a problem per task
        offset = matrix.unsqueeze(-1)
        value = complementarity(rows, offset)
        products = offset + times(rows, value)
        # All complementary products are to be 0: their sum bounds what is missing in half the squared norm, which is
        # half the squared distance at least.
        gap = (value * products).sum(-2) + value.sum(-2) * (-products.amin(-2)).clamp_min(0)
        self.note_residual((2 * gap.clamp_min(0)).sqrt().flatten(1).amax(-1))
        added = value.squeeze(-1) * norms.unsqueeze(-1) * inverse.unsqueeze(1)
        return (1 + added.sum(1)) / num_tasks
