"""Aligned-MTL."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.solvers import symmetric_eigen, times
from mtrl_conic.system import validation

# Eigenvalues of the Gramian below this share of the largest are the rounding of float32 gradients.
_RANK = 1e-12


class AlignedMTL(Combiner):
    """The mean of the gradients after their principal components are scaled to one length.

    "Independent Component Alignment for Multi-Task Learning", CVPR 2023, Algorithm 1: with G = VΣVᵀ the aligned
    gradients are √σ · Σ^(−1/2) in the basis V, and d their mean. σ is the smallest of the eigenvalues that are not 0
    (`scale=min`, the paper's), their median or their mean (`rmse`).

    Eigenvalues below 1e-12 of the largest count as 0. If all gradients are 0, d = 0.

    Args:
        scale: min, median or rmse.

    Raises:
        ValueError: for another scale.
    """

    def __init__(self, scale: str = "min") -> None:
        super().__init__()
        self.scale = validation.choice("scale", scale, ("min", "median", "rmse"))

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        num_tasks = gramian.shape[-1]
        largest = gramian.diagonal(dim1=1, dim2=2).amax(-1).clamp_min(torch.finfo(gramian.dtype).tiny)
        values, vectors = symmetric_eigen(gramian / largest[:, None, None])
        used = values > _RANK * values.amax(-1, keepdim=True)
        roots = torch.where(used, values, 1).rsqrt() * used
        scaled = roots * self._sigma(values, used).sqrt()
        mean_parts = vectors.sum(1) / num_tasks  # Vᵀ · 1/K
        return times(vectors, (scaled * mean_parts).unsqueeze(-1)).squeeze(-1)

    def _sigma(self, values: Tensor, used: Tensor) -> Tensor:
        """The common eigenvalue [S, 1]; 1 where all gradients are 0."""
        rank = used.sum(-1, keepdim=True)
        if self.scale == "rmse":
            sigma = (values * used).sum(-1, keepdim=True) / rank.clamp_min(1)
        else:
            ordered = torch.where(used, values, torch.inf).sort(-1).values
            place = (rank - 1).clamp_min(0) // 2 if self.scale == "median" else torch.zeros_like(rank)
            sigma = ordered.gather(-1, place)
        return torch.where(rank > 0, sigma, 1)
