"""Per-task gradients of all tasks and seeds from one backward pass.

Each row of a multi-task batch belongs to one task, so a layer's K weight gradients X_kᵀδ_k cost as much as
their sum: the recorder below writes them straight into the Jacobian, without copies.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mtrl_conic.networks import Layout

# Columns of a matrix product in float64, and how many such products run as one batch: the products keep their
# operands in a core's cache, and the batch keeps all cores busy without a second copy of the Jacobian.
_PIECE, _PIECES = 4096, 16
# An accelerator wants few large products: entries of a batch of pieces there, half a gigabyte in float64.
_DEVICE_ENTRIES = 1 << 26
# The CPU's product in float64 works on twelve columns at a time; ten, padded with zeros, take two thirds of the time.
_TILE = 12


class TaskGradients:
    """Buffers for the gradients of one network, filled by a backward pass (a `networks.Recorder`).

    Args:
        layout: of the flat parameters [S, P].
        num_seeds: S.
        num_tasks: K.
        scope: which parameters' gradients form the Jacobian: the "shared" ones (each head then follows the
            gradient of the mean loss, its own task's over K), or "all" (a head's row is zero for other tasks).
        keep_tasks: build the Jacobian; otherwise the backward pass sums over tasks.

    Attributes:
        keep_tasks: may be turned off and on again for single passes, if it was on at first.
        task_weights: [S, K], weights of the tasks in a pass that builds no Jacobian; None weighs them all 1.
        jacobian: [S, K, J], J the number of parameters in scope; None unless `keep_tasks`.
        flat: [S, P], the gradient that the optimizer is to follow.
    """

    def __init__(
        self,
        layout: Layout,
        num_seeds: int,
        num_tasks: int,
        scope: str = "shared",
        keep_tasks: bool = True,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.layout, self.num_tasks = layout, num_tasks
        self.anchor = torch.zeros((), device=device, dtype=dtype, requires_grad=True)
        self.flat = torch.zeros(num_seeds, layout.size, device=device, dtype=dtype)
        self.scope_size = layout.size if scope == "all" else layout.shared_size
        self.keep_tasks = keep_tasks
        shape = (num_seeds, num_tasks, self.scope_size)
        self._jacobian = self.flat.new_zeros(shape) if keep_tasks else None
        self.task_weights: Tensor | None = None

    @property
    def jacobian(self) -> Tensor | None:
        return self._jacobian if self.keep_tasks else None

    def shared(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        """Write the weight and bias gradient of a shared layer; see `networks.Recorder`."""
        if self.jacobian is None:
            target = self.flat
            if self.task_weights is not None:
                delta = self._weigh(delta.unflatten(1, (self.num_tasks, -1))).flatten(1, 2)
        else:  # the same products with the tasks kept apart: a batch of S·K matrices
            rows = (len(self.flat) * self.num_tasks, -1)
            inputs, delta = (t.view(*rows, t.shape[-1]) for t in (inputs, delta))
            target = self.jacobian.flatten(0, 1)
        torch.bmm(delta.mT, inputs, out=self.layout.view(target, f"{name}.weight"))
        torch.sum(delta, 1, out=self.layout.view(target, f"{name}.bias"))

    def head(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        """Write the weight and bias gradient of the heads; see `networks.Recorder`."""
        if self.task_weights is not None and self.scope_size == self.layout.size:
            delta = self._weigh(delta)
        self._write_head(f"{name}.weight", delta.mT @ inputs)
        self._write_head(f"{name}.bias", delta.sum(2))

    def _weigh(self, delta: Tensor) -> Tensor:
        assert self.task_weights is not None
        return delta * self.task_weights.to(delta.dtype)[:, :, None, None]

    def _write_head(self, name: str, gradient: Tensor) -> None:
        if self.jacobian is None or self.scope_size < self.layout.size:
            self.layout.view(self.flat, name).copy_(gradient)
            return
        block = self.layout.blocks[name]
        rows = self.jacobian[..., block.start : block.stop].unflatten(2, (self.num_tasks, -1))
        rows.diagonal(dim1=1, dim2=2).copy_(gradient.flatten(2).mT)  # [S, ·, K]: task k's row, head k's columns

    def finish(self) -> None:
        """Scale the heads outside the scope to the gradient of the mean loss."""
        if self._jacobian is not None:
            self.flat[:, self.scope_size :].div_(self.num_tasks)

    @property
    def direction(self) -> Tensor:
        """The part of `flat` [S, J] that a combiner writes."""
        return self.flat[:, : self.scope_size]


def gramian(jacobian: Tensor) -> Tensor:
    """Inner products of the per-task gradients.

    Accumulated in float64: where gradients nearly cancel, a float32 Gramian loses the norm of their mean.

    Args:
        jacobian: [S, K, P], any floating type.

    Returns:
        [S, K, K] in float64.
    """
    num_seeds, num_tasks, _ = jacobian.shape
    result = torch.zeros(num_seeds, num_tasks, num_tasks, dtype=torch.float64, device=jacobian.device)
    padded = -(-num_tasks // _TILE) * _TILE if num_tasks < 2 * _TILE else num_tasks
    for _, pieces in _double_pieces(jacobian, padded):
        result += (pieces[:, :, :num_tasks] @ pieces.mT).sum(1)[..., :num_tasks]
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
    row = weights.double()[:, None, None]
    for columns, pieces in _double_pieces(jacobian):
        out[:, columns] = (row @ pieces).flatten(1)
    return out


def _double_pieces(jacobian: Tensor, rows: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """Pieces [S, n, K, c] of a Jacobian [S, K, P] in float64, with the columns they cover.

    With `rows` above K the pieces are [S, n, rows, c], zero below. A piece is valid until the next.
    """
    num_seeds, num_tasks, size = jacobian.shape
    most = _PIECES if jacobian.device.type == "cpu" else max(_DEVICE_ENTRIES // (num_seeds * num_tasks * _PIECE), 1)
    start, buffer = 0, None
    while start < size:
        piece = min(_PIECE, size - start)
        count = min(most, (size - start) // piece)
        columns = slice(start, start + count * piece)
        shape = (num_seeds, count, max(rows, num_tasks), piece)
        if buffer is None or buffer.shape != shape:
            buffer = jacobian.new_zeros(shape, dtype=torch.float64)
        buffer[:, :, :num_tasks].copy_(jacobian[..., columns].unflatten(2, (count, piece)).transpose(1, 2))
        yield columns, buffer
        start = columns.stop
