"""IMTL-G."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.solvers import cosines, symmetric_eigen, times

# Eigenvalues of the cosines below this share of the largest are the rounding of float32 gradients.
_RANK = 1e-12
_SMALL_SUM = 1e-6


class IMTLG(Combiner):
    """The direction with equal projections on all unit gradients, with weights that sum to 1.

    "Towards Impartial Multi-task Learning", ICLR 2021, Eq 6: α ∝ G⁻¹n with n_i = ‖g_i‖. For linearly dependent
    gradients the pseudo-inverse serves, as in arXiv 2406.16232; it is taken of the cosines, so that the scale of
    the losses does not decide the rank. The projections are then equal where the method's equations can be solved.

    The weights can be negative, and so can the common projection. Where their sum before scaling is below 1e-6 of
    its terms (two opposite gradients, for one), scaling them to 1 has no meaning, and d = g_0. A zero gradient gets
    weight 0.
    """

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        matrix, norms, inverse = cosines(gramian)
        values, vectors = symmetric_eigen(matrix)
        inverse_values = torch.where(values > _RANK * values.amax(-1, keepdim=True), 1 / values, 0)
        ones = (norms > 0).to(norms).unsqueeze(-1)
        solved = times(vectors, inverse_values.unsqueeze(-1) * times(vectors.mT, ones))
        smallest = torch.where(norms > 0, norms, torch.inf).amin(-1, keepdim=True).nan_to_num(1.0, posinf=1.0)
        shares = inverse * smallest
        raw = solved.squeeze(-1) * shares
        total = raw.sum(-1, keepdim=True)
        usable = total.abs() > _SMALL_SUM * (raw.abs() + shares).sum(-1, keepdim=True)
        return torch.where(usable, raw / torch.where(usable, total, 1), 1 / norms.shape[-1])
