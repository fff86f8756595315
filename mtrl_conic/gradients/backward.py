"""Combined gradients for any `nn.Module` with several losses."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.products import weighted_sum
from mtrl_conic.combiners.trial import try_out
from mtrl_conic.gradients.backward_input import listed_parameters, listed_tensors, require_combiner, require_whole
from mtrl_conic.gradients.replicas import GroupChoice, Replicas, digest

_ALIGNMENT = 64  # elements: where the rows begin in a larger tensor, products are as fast as on a tensor of their own


class MultiTaskBackward:
    """Takes the place of `loss.backward()`: fills `.grad` from K losses by way of a combiner.

    The shared parameters get the combiner's direction, the heads the gradient of the mean loss, (1/K) Σ g_k. With a
    combiner that weighs losses alone (`requires = "losses"`) all of them get the gradient of the weighted loss.

    Tasks may share their inputs here, so the Jacobian takes K backward passes; where it is not needed, there is one.
    The Jacobian [1, K, P] of the shared parameters is allocated once, its rows are overwritten, and there is no
    other copy of it. Each `.grad` is a view of one flat vector and is overwritten, not added to, so `zero_grad` is
    allowed but not needed. Nothing here waits for the device. Gradient hooks of parameters do not run.

    **Numbers that are not finite.** Where a loss or a gradient is NaN or infinite, the `.grad`s of that call are zero,
    `finite` is False, and the combiner remembers nothing of it; random numbers that it drew are spent.

    **Accumulation.** Rows add up, directions do not: `accumulate` takes all micro-batches but the last, the call the
    last one, and the combiner sees the means over them. That takes the K backward passes in any case, and with a
    combiner that weighs losses rows [K, ·] of all parameters, allocated at the first use: its weights are known only
    with the last losses.

    **Replicas.** In a process group the rows, the heads' gradients and the losses are averaged over it in one
    collective before the combiner sees them, so that every replica takes the same step, bit for bit. Each replica
    counts the same, whatever the size of its batch. Where no Jacobian is built there are two collectives, as the
    weights come from the averaged losses: the losses before, the gradient after. Losses of another dtype than the
    parameters' travel by themselves. The first call in a group, and the first after `load_state_dict`, waits for the
    device and sees that the replicas are alike (`check_replicas`).

    Args:
        combiner: not yet set up; this object calls its `setup`, after a trial on a copy.
        shared: the parameters whose per-task gradients are combined.
        heads: parameters of single tasks; parameters in neither group are left alone.
        num_tasks: K.
        seed: for combiners that draw random numbers; the same in all replicas.
        process_group: the replicas; None for the default group of `torch.distributed`, once it is initialised,
            False for this process alone.

    Attributes:
        combiner: its `diagnostics` hold the weights and more of the last update.
        looks_back: whether the combiner wants `after_step`.
        finite: a scalar on the device, whether all numbers of the last call were finite, in all replicas.

    Raises:
        TypeError: an argument of another kind; says what to pass.
        ValueError: no task, no shared parameter, one given twice or without `requires_grad`, or parameters that
            differ in device or dtype; a combiner that fails its trial; a group that this process is not in.
    """

    def __init__(
        self,
        combiner: Combiner,
        shared: Iterable[nn.Parameter],
        heads: Iterable[nn.Parameter] = (),
        *,
        num_tasks: int,
        seed: int = 0,
        process_group: GroupChoice = None,
    ) -> None:
        require_combiner(combiner)
        require_whole("num_tasks", num_tasks, 1)
        require_whole("seed", seed, 0)
        self._parameters, count = listed_parameters(shared, heads)
        self._replicas, self._alike = Replicas(process_group), False
        like = self._parameters[0].detach()
        _try(combiner, seed, num_tasks, like)
        combiner.setup([seed], num_tasks, like.device)
        self.combiner, self.num_tasks, self.seed, self.looks_back = combiner, num_tasks, seed, combiner.looks_back
        self.finite = torch.ones((), dtype=torch.bool, device=like.device)
        self._combined = len(self._parameters) if combiner.requires == "losses" else count
        self._size = sum(parameter.numel() for parameter in self._parameters[: self._combined])
        self._allocate(like)
        self._pending = 0  # micro-batches in the rows

    def _allocate(self, like: Tensor) -> None:
        """One tensor for the direction and the rest of the gradients, the rows, and losses that travel with them."""
        total = sum(parameter.numel() for parameter in self._parameters)
        start, length = -(-total // _ALIGNMENT) * _ALIGNMENT, self.num_tasks * self._size
        builds_rows = self.combiner.requires != "losses"
        memory = like.new_zeros(start + length + self.num_tasks if builds_rows else total)
        self._flat = memory[:total].unsqueeze(0)
        self._grads = list(_views(self._flat[0], self._parameters))
        self._rows = memory[start : start + length].view(1, self.num_tasks, -1) if builds_rows else None
        self._travelling = memory[self._size :]  # all but the direction
        self._losses = memory.new_zeros(1, self.num_tasks)

    def __call__(self, losses: Tensor | Sequence[Tensor]) -> None:
        """Fill the `.grad` of all parameters; the graph of the losses cannot be used again.

        Args:
            losses: [K], or K scalars. The latter are better where tasks do not share everything: a backward pass
                from one entry of a stacked tensor visits the graphs of all tasks, with zeros. A parameter that a
                loss does not depend on has a gradient of zero there.

        Raises:
            TypeError: losses of another type.
            ValueError: losses of another shape, or that do not require grad; replicas that are not alike.
        """
        parts, stacked = self._read(losses, with_grad=True)
        if not self._alike:
            self.check_replicas()
        memory = self.combiner.snapshot()
        try:
            if self.combiner.needs_jacobian():
                self._add_rows(parts, stacked)
                self.finite = self._combine()
            elif self._pending:
                self._add_rows(parts, stacked)
                self.finite = self._weigh_rows()
            else:
                self.finite = self._weigh(stacked)
        finally:
            self._pending = 0
        self._flat.masked_fill_(~self.finite, 0)
        self.combiner.restore(memory, ~self.finite.view(1))
        for parameter, grad in zip(self._parameters, self._grads, strict=True):
            parameter.grad = grad  # a view of the flat gradient; at each call, as `zero_grad` may have taken it away

    def accumulate(self, losses: Tensor | Sequence[Tensor]) -> None:
        """Add a micro-batch to those that the next call finishes; takes away every `.grad` until then.

        What was added is discarded where an error ends a pass half way, and is no part of `state_dict`.

        Raises:
            TypeError, ValueError: as from a call.
        """
        parts, stacked = self._read(losses, with_grad=True)
        try:
            self._add_rows(parts, stacked)
        except BaseException:
            self._pending = 0
            raise
        for parameter in self._parameters:
            parameter.grad = None  # a step by mistake moves nothing, and `zero_grad` cannot reach the sums

    def after_step(self, losses: Tensor | Sequence[Tensor]) -> None:
        """Show a combiner that looks back the losses of the same batch after the optimizer's step.

        The mean over the micro-batches, where there were several; they are averaged over the replicas. Does nothing
        with other combiners; `if backward.looks_back:` saves them the forward pass.
        """
        stacked = self._read(losses)[1].detach()
        if not self.looks_back:
            return
        again = self._replicas.average_(stacked.unsqueeze(0).clone())
        masked = ~(self.finite & _all_finite(again))
        memory = self.combiner.snapshot()
        self.combiner.look_back(again.masked_fill(masked, 1))
        self.combiner.restore(memory, masked.view(1))

    def check_replicas(self) -> None:
        """See that parameters, combiner and seed are the same bits in all replicas; waits for the device.

        Raises:
            ValueError: in every replica, where they are not; names what differs.
        """
        if self._replicas.size == 1:
            return
        described = [[list(parameter.shape) for parameter in self._parameters], self._parameters]
        plain = (int, float, str, list, tuple)  # not tensors, which may be scratch
        settings = {name: value for name, value in vars(self.combiner).items() if isinstance(value, plain)}
        remembered = [type(self.combiner).__name__, settings, self.combiner.state_dict()]
        numbers = {"seed": self.seed, "num_tasks": self.num_tasks, "parameters": digest(described)}
        self._replicas.check_equal(numbers | {"combiner": digest(remembered)}, self._flat.device)
        self._alike = True

    def state_dict(self) -> dict[str, Any]:
        """What the combiner remembers."""
        return self.combiner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; see `Combiner.load_state_dict`."""
        self.combiner.load_state_dict(state)
        self._alike = False

    def _read(self, losses: Tensor | Sequence[Tensor], with_grad: bool = False) -> tuple[Sequence[Tensor], Tensor]:
        """The losses one by one, and as one tensor [K]."""
        parts = listed_tensors(losses, self.num_tasks, self._flat.device)
        stacked = losses if isinstance(losses, Tensor) else torch.stack([part.squeeze() for part in parts])
        if with_grad and not stacked.requires_grad:
            raise ValueError("losses do not require grad: were they detached or computed under no_grad?")
        return parts, stacked

    def _add_rows(self, parts: Sequence[Tensor], stacked: Tensor) -> None:
        """Add the K gradients to the rows, those of the mean loss to the rest, and the losses to theirs."""
        if self._rows is None:
            self._rows = self._flat.new_zeros(1, self.num_tasks, self._size)
        count, overwrite = self._combined, self._pending == 0
        if overwrite:
            self._flat[:, self._size :].zero_()
        for task, (loss, row) in enumerate(zip(parts, self._rows[0], strict=True), start=1):
            grads = _gradients(loss, self._parameters, keep_graph=task < self.num_tasks)
            _put(_views(row, self._parameters[:count]), grads[:count], overwrite)
            for total, grad in zip(self._grads[count:], grads[count:], strict=True):
                if grad is not None:
                    total.add_(grad, alpha=1 / self.num_tasks)
        detached = stacked.detach().unsqueeze(0)
        self._losses = detached if overwrite else self._losses + detached
        self._pending += 1

    def _combine(self) -> Tensor:
        """The combiner's direction out of the mean rows; whether all of it was finite."""
        assert self._rows is not None
        if self._pending > 1:
            self._travelling.div_(self._pending)
        losses = self._average_rows(self._losses / self._pending)
        self.combiner.combine(self._rows, losses, out=self._flat[:, : self._size])
        return _all_finite(losses, self._travelling, self._flat)

    def _average_rows(self, losses: Tensor) -> Tensor:
        """Average the rows, the rest and the losses [1, K] over the replicas; gives the losses."""
        if self._replicas.size == 1:
            return losses
        if losses.dtype != self._travelling.dtype:
            self._replicas.average_(self._travelling)
            return self._replicas.average_(losses)
        own = self._travelling[-self.num_tasks :]
        own.copy_(losses[0])
        self._replicas.average_(self._travelling)
        return own.clone().unsqueeze(0)

    def _weigh_rows(self) -> Tensor:
        """The rows weighted by losses, as gradients of all parameters; whether all of it was finite."""
        assert self._rows is not None
        losses = self._replicas.average_(self._losses / self._pending)
        self._flat.div_(self._pending)
        weights = self.combiner.loss_weights(losses) / self._pending
        weighted_sum(weights, self._rows, out=self._flat[:, : self._size])
        self._replicas.average_(self._flat)
        return _all_finite(losses, self._rows, self._flat)

    def _weigh(self, losses: Tensor) -> Tensor:
        """The gradients of the weighted loss, of the mean loss for the rest; whether all of it was finite."""
        averaged = self._replicas.average_(losses.detach().unsqueeze(0).clone())
        weights = self.combiner.loss_weights(averaged)
        weighted, count = (weights[0].to(losses.dtype) * losses).sum(), self._combined
        rest = self._parameters[count:]
        grads = _gradients(weighted, self._parameters[:count], keep_graph=bool(rest))
        _put(self._grads[:count], grads)
        _put(self._grads[count:], _gradients(losses.mean(), rest))  # goes no deeper than the heads
        self._replicas.average_(self._flat)
        return _all_finite(averaged, self._flat)


def _try(combiner: Combiner, seed: int, num_tasks: int, like: Tensor) -> None:
    """A trial on a copy, as a combiner is set up once; without one where it cannot be copied."""
    try:
        copied = copy.deepcopy(combiner)
    except Exception:
        return
    try_out(copied, [seed], num_tasks, like.device, like.dtype)


def _views(flat: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    """The parts of a vector [P] in the shapes of the parameters."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    return (part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True))


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter], keep_graph: bool = False) -> Sequence[Tensor | None]:
    if not parameters or not loss.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, retain_graph=keep_graph, allow_unused=True)


def _put(targets: Iterable[Tensor], grads: Sequence[Tensor | None], overwrite: bool = True) -> None:
    """Write gradients, None for zero, or add them to what is there."""
    for target, grad in zip(targets, grads, strict=True):
        if overwrite:
            target.zero_() if grad is None else target.copy_(grad)
        elif grad is not None:
            target.add_(grad)


def _all_finite(*tensors: Tensor) -> Tensor:
    """Whether all numbers are finite, as a scalar on the device; without a tensor of the same size."""
    ends = [end.double() for tensor in tensors if tensor.numel() for end in tensor.aminmax()]
    return torch.isfinite(torch.stack(ends)).all()
