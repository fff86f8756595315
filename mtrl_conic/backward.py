"""Combined gradients for any `nn.Module` with several losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtrl_conic.combiners.base import Combiner


class MultiTaskBackward:
    """Takes the place of `loss.backward()`: fills `.grad` from K losses by way of a combiner.

    The shared parameters get the combiner's direction, the heads the gradient of the mean loss, (1/K) Σ g_k. With a
    combiner that weighs losses alone (`requires = "losses"`) all of them get the gradient of the weighted loss.

    Tasks may share their inputs here, so the Jacobian takes K backward passes; where it is not needed, there is one.
    The Jacobian [1, K, P] of the shared parameters is allocated once, its rows are overwritten, and there is no
    other copy of it. Each `.grad` is a view of one flat vector and is overwritten, not added to, so `zero_grad` is
    allowed but not needed. Nothing here waits for the device. Gradient hooks of parameters do not run.

    Args:
        combiner: not yet set up; this object calls its `setup`.
        shared: the parameters whose per-task gradients are combined.
        heads: parameters of single tasks; parameters in neither group are left alone.
        num_tasks: K.
        seed: for combiners that draw random numbers.

    Attributes:
        combiner: its `diagnostics` hold the weights and more of the last update.
        looks_back: whether the combiner wants `after_step`.

    Raises:
        ValueError: no task, no shared parameter, one given twice or without `requires_grad`, or parameters that
            differ in device or dtype.
    """

    def __init__(
        self,
        combiner: Combiner,
        shared: Iterable[nn.Parameter],
        heads: Iterable[nn.Parameter] = (),
        *,
        num_tasks: int,
        seed: int = 0,
    ) -> None:
        self._shared, self._heads = list(shared), list(heads)
        self._parameters = [*self._shared, *self._heads]
        if num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1, not {num_tasks}")
        if not self._shared:
            raise ValueError("no shared parameters: there is nothing to combine")
        _check(self._parameters)
        like = self._shared[0].detach()
        self._size = sum(parameter.numel() for parameter in self._shared)
        self._flat = like.new_zeros(1, sum(parameter.numel() for parameter in self._parameters))
        self._grads = list(_views(self._flat[0], self._parameters))
        self._jacobian = None if combiner.requires == "losses" else like.new_zeros(1, num_tasks, self._size)
        self.combiner, self.num_tasks, self.looks_back = combiner, num_tasks, combiner.looks_back
        combiner.setup([seed], num_tasks, like.device)

    def __call__(self, losses: Tensor | Sequence[Tensor]) -> None:
        """Fill the `.grad` of all parameters; the graph of the losses cannot be used again.

        Args:
            losses: [K], or K scalars. The latter are better where tasks do not share everything: a backward pass
                from one entry of a stacked tensor visits the graphs of all tasks, with zeros. A parameter that a
                loss does not depend on has a gradient of zero there.

        Raises:
            ValueError: losses of another shape, or that do not require grad.
        """
        stacked = self._stacked(losses)
        if not stacked.requires_grad:
            raise ValueError("losses do not require grad: were they detached or computed under no_grad?")
        detached = stacked.detach().unsqueeze(0)
        if self._jacobian is not None and self.combiner.needs_jacobian():
            self._fill_jacobian(losses, self._jacobian[0])
            self.combiner.combine(self._jacobian, detached, out=self._flat[:, : self._size])
        else:
            self._fill_weighted(stacked, self.combiner.loss_weights(detached))
        for parameter, grad in zip(self._parameters, self._grads, strict=True):
            parameter.grad = grad  # at each call, as `zero_grad` may have taken it away

    def after_step(self, losses: Tensor | Sequence[Tensor]) -> None:
        """Show a combiner that looks back the losses of the same batch after the optimizer's step.

        Does nothing with other combiners; `if backward.looks_back:` saves them the forward pass.
        """
        stacked = self._stacked(losses).detach()
        if self.looks_back:
            self.combiner.look_back(stacked.unsqueeze(0))

    def state_dict(self) -> dict[str, Any]:
        """What the combiner remembers."""
        return self.combiner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; see `Combiner.load_state_dict`."""
        self.combiner.load_state_dict(state)

    def _fill_jacobian(self, losses: Iterable[Tensor], jacobian: Tensor) -> None:
        """The rows of the Jacobian, and the heads' gradient of the mean loss."""
        count = len(self._shared)
        self._flat[:, self._size :].zero_()
        for task, (loss, row) in enumerate(zip(losses, jacobian, strict=True), start=1):
            grads = _gradients(loss, self._parameters, keep_graph=task < self.num_tasks)
            _write(_views(row, self._shared), grads[:count])
            for total, grad in zip(self._grads[count:], grads[count:], strict=True):
                if grad is not None:
                    total.add_(grad, alpha=1 / self.num_tasks)

    def _fill_weighted(self, losses: Tensor, weights: Tensor) -> None:
        """The gradient of the weighted loss; for heads that of the mean loss, unless the combiner weighs losses."""
        weighted = (weights[0].to(losses.dtype) * losses).sum()
        if self._jacobian is None:
            _write(self._grads, _gradients(weighted, self._parameters))
            return
        count = len(self._shared)
        _write(self._grads[:count], _gradients(weighted, self._shared, keep_graph=bool(self._heads)))
        _write(self._grads[count:], _gradients(losses.mean(), self._heads))  # goes no deeper than the heads

    def _stacked(self, losses: Tensor | Sequence[Tensor]) -> Tensor:
        stacked = losses if isinstance(losses, Tensor) else torch.stack([loss.squeeze() for loss in losses])
        if stacked.shape != (self.num_tasks,):
            raise ValueError(f"losses must have shape [{self.num_tasks}], one a task, not {list(stacked.shape)}")
        return stacked


def _check(parameters: Sequence[nn.Parameter]) -> None:
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ValueError("a parameter is given twice; each is either shared or a head's")
    for parameter in parameters:
        if not parameter.requires_grad:
            raise ValueError(f"a parameter of shape {list(parameter.shape)} does not require grad; leave it out")
    for name in ("device", "dtype"):
        found = sorted({str(getattr(parameter, name)) for parameter in parameters})
        if len(found) > 1:
            raise ValueError(f"parameters must have one {name}, not {', '.join(found)}")


def _views(flat: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    """The parts of a vector [P] in the shapes of the parameters."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    return (part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True))


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter], keep_graph: bool = False) -> Sequence[Tensor | None]:
    if not parameters or not loss.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, retain_graph=keep_graph, allow_unused=True)


def _write(targets: Iterable[Tensor], grads: Sequence[Tensor | None]) -> None:
    for target, grad in zip(targets, grads, strict=True):
        if grad is None:
            target.zero_()
        else:
            target.copy_(grad)
