"""Per-task gradients of all tasks and seeds from one backward pass.

Each row of a multi-task batch belongs to one task, so a layer's K weight gradients X_kᵀδ_k cost as much as
their sum: the recorder below writes them straight into the Jacobian, without copies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_conic.networks.layout import Layout
from mtrl_conic.system import seedwise


class TaskGradients:
    """Buffers for the gradients of one network, filled by a backward pass (a `networks.layers.Recorder`).

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
        self.flat = seedwise.zeros((num_seeds, layout.size), device, dtype)
        self.scope_size = layout.size if scope == "all" else layout.shared_size
        self.keep_tasks = keep_tasks
        shape = (num_seeds, num_tasks, self.scope_size)
        self._jacobian = seedwise.zeros(shape, device, dtype) if keep_tasks else None
        self.task_weights: Tensor | None = None

    @property
    def jacobian(self) -> Tensor | None:
        return self._jacobian if self.keep_tasks else None

    def shared_matrix(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        """Write the gradient of a shared weight, or of n; see `networks.layers.Recorder`."""
        rows, delta = self._rows(delta)
        inputs, gradient = inputs.reshape(*delta.shape[:-1], -1), self.layout.view(rows, name)
        if len(self.layout.blocks[name].shape) == 2:
            seedwise.matmul(delta.mT, inputs, out=gradient)
            return
        for own, x, out in zip(delta.unbind(-2), inputs.unbind(-2), gradient.unbind(-3), strict=True):
            seedwise.matmul(own.mT, x, out=out)  # one by one, as a batch of all has no place in the rows

    def shared_vector(self, name: str, delta: Tensor) -> None:
        """Write the gradient of a shared vector."""
        rows, delta = self._rows(delta)
        seedwise.sum_over(delta, rows.dim() - 1, out=self.layout.view(rows, name))

    def shared_tensor(self, name: str, gradient: Tensor, shares: Tensor | None = None) -> None:
        """Write a gradient that is known by task, or the shares of it."""
        gradient, block = gradient.flatten(2), self.layout.blocks[name]
        if shares is None:
            shares = gradient.new_ones(*gradient.shape[:2], 1)
        part = slice(block.start, block.stop)
        if self.jacobian is not None:
            out = self.jacobian[..., part].unflatten(2, (shares.shape[2], -1))
            torch.mul(shares.unsqueeze(3), gradient.unsqueeze(2), out=out)
            return
        if self.task_weights is not None:
            shares = shares * self.task_weights.to(shares.dtype).unsqueeze(2)
        seedwise.matmul(shares.mT, gradient, out=self.flat[:, part].unflatten(1, (shares.shape[2], -1)))

    def task_matrix(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        """Write the gradients of the tasks' own weights."""
        self._write_own(name, seedwise.matmul(self._weigh_own(delta).mT, inputs))

    def task_vector(self, name: str, delta: Tensor) -> None:
        """Write the gradients of the tasks' own vectors."""
        self._write_own(name, seedwise.sum_over(self._weigh_own(delta), 2))

    def _rows(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Where shared gradients go, and the output gradient [S, K·B, ...] cut to fit.

        With a Jacobian its rows [S, K, J] and [S, K, B, ...]: the same products with the tasks kept apart. Otherwise
        the flat gradient [S, P] and the output gradient weighed by task.
        """
        if self.jacobian is not None:
            return self.jacobian, delta.unflatten(1, (self.num_tasks, -1))
        if self.task_weights is not None:
            delta = self._weigh(delta.unflatten(1, (self.num_tasks, -1))).flatten(1, 2)
        return self.flat, delta

    def _weigh_own(self, delta: Tensor) -> Tensor:
        """Parameters of single tasks are weighed where they are in the scope."""
        in_scope = self.task_weights is not None and self.scope_size == self.layout.size
        return self._weigh(delta) if in_scope else delta

    def _weigh(self, delta: Tensor) -> Tensor:
        assert self.task_weights is not None
        weights = self.task_weights.to(delta.dtype)
        return delta * weights.view(*weights.shape, *[1] * (delta.dim() - 2))

    def _write_own(self, name: str, gradient: Tensor) -> None:
        if self.jacobian is None or self.scope_size < self.layout.size:
            self.layout.view(self.flat, name).copy_(gradient)
            return
        block = self.layout.blocks[name]
        rows = self.jacobian[..., block.start : block.stop].unflatten(2, (self.num_tasks, -1))
        rows.diagonal(dim1=1, dim2=2).copy_(gradient.flatten(2).mT)  # [S, ·, K]: task k's row, its own columns

    def finish(self) -> None:
        """Scale the heads outside the scope to the gradient of the mean loss."""
        if self._jacobian is not None:
            self.flat[:, self.scope_size :].div_(self.num_tasks)

    @property
    def direction(self) -> Tensor:
        """The part of `flat` [S, J] that a combiner writes."""
        return self.flat[:, : self.scope_size]
