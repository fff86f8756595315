"""The per-task Jacobian: its Gramian and its weighted sums."""

from __future__ import annotations

import torch
from torch import Tensor

# Columns converted to float64 at a time: K rows of them stay in a core's cache.
_CHUNK = 16384


def gramian(jacobian: Tensor) -> Tensor:
    """Inner products of the per-task gradients.

    Accumulated in float64: where gradients nearly cancel, a float32 Gramian loses the norm of their mean.

    Args:
        jacobian: [S, K, P], any floating type.

    Returns:
        [S, K, K] in float64.
    """
    num_seeds, num_tasks, size = jacobian.shape
    result = torch.zeros(num_seeds, num_tasks, num_tasks, dtype=torch.float64, device=jacobian.device)
    for start in range(0, size, _CHUNK):
        chunk = jacobian[..., start : start + _CHUNK].double()
        result.baddbmm_(chunk, chunk.mT)
    return result


def weighted_sum(weights: Tensor, jacobian: Tensor, out: Tensor | None = None) -> Tensor:
    """The direction `weights · J`, accumulated in float64 and rounded once.

    Args:
        weights: [S, K].
        jacobian: [S, K, P].
        out: [S, P], written if given.

    Returns:
        [S, P] in the type of the Jacobian.
    """
    if out is None:
        out = jacobian.new_empty(jacobian.shape[0], jacobian.shape[2])
    row = weights.double().unsqueeze(1)
    for start in range(0, jacobian.shape[2], _CHUNK):
        columns = slice(start, start + _CHUNK)
        out[:, columns] = torch.bmm(row, jacobian[..., columns].double()).squeeze(1)
    return out
