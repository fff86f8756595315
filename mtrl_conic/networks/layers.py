"""Layers that hand what a parameter's gradient is made of to a recorder.

Each row of a batch belongs to one task, so the recorder can keep the K tasks' gradients apart at the cost of their sum
(`mtrl_conic.gradients.recorder`). A layer's parameters get their gradients through the recorder alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl_conic.networks.initial import Initial, constant
from mtrl_conic.networks.layout import Parameter
from mtrl_conic.system.seedwise import add_matmul, aligned, matmul, sum_over

Views = Mapping[str, Tensor]


class Recorder(Protocol):
    """Receives, during the backward pass, what the gradient of each parameter is made of."""

    anchor: Tensor  # a scalar that requires a gradient, so that a backward pass exists

    def shared_matrix(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        """Inputs [S, K·B, I] and output gradient [S, K·B, O] of the shared weight `name` [O, I].

        Of n weights at once, `name` [n, O, I]: [S, K·B, n, I] and [S, K·B, n, O].
        """

    def shared_vector(self, name: str, delta: Tensor) -> None:
        """Gradient [S, K·B, *shape] with respect to the shared `name` [*shape], a vector as a rule, row by row."""

    def shared_tensor(self, name: str, gradient: Tensor, shares: Tensor | None = None) -> None:
        """Gradient [S, K, *shape] of each task's loss with respect to the shared `name` [*shape].

        With `shares` [S, K, n] it is that of n tensors, `name` [n, *shape], of which each gets its share of `gradient`.
        """

    def task_matrix(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        """Inputs [S, K, B, I] and output gradient [S, K, B, O] of the tasks' weights `name` [K, O, I]."""

    def task_vector(self, name: str, delta: Tensor) -> None:
        """Gradient [S, K, B, D] with respect to the tasks' vectors `name` [K, D], row by row."""


def linear_parameters(
    name: str, fan_in: int, fan_out: int, initial: Initial, num_tasks: int | None = None
) -> dict[str, Parameter]:
    """Weight and bias of `linear`, or of `task_linear` for `num_tasks`; the bias starts at 0."""
    tasks, per_task = (() if num_tasks is None else (num_tasks,)), num_tasks is not None
    return {
        f"{name}.weight": Parameter((*tasks, fan_out, fan_in), initial, per_task),
        f"{name}.bias": Parameter((*tasks, fan_out), constant(0.0), per_task),
    }


def linear(params: Views, name: str, x: Tensor, recorder: Recorder | None = None) -> Tensor:
    """x Wᵀ + b for rows [S, K·B, I], with a weight that all tasks share → [S, K·B, O]."""
    return _applied(
        _SharedLinear, x, params[f"{name}.weight"], params[f"{name}.bias"], name, recorder, _anchor(recorder)
    )


def expert_parameters(name: str, experts: int, fan_in: int, fan_out: int, initial: Initial) -> dict[str, Parameter]:
    """Weights and biases of `expert_linear`, or of `mixed_linear`; the biases start at 0."""
    return {
        f"{name}.weight": Parameter((experts, fan_out, fan_in), initial),
        f"{name}.bias": Parameter((experts, fan_out), constant(0.0)),
    }


def expert_linear(params: Views, name: str, x: Tensor, recorder: Recorder | None = None) -> Tensor:
    """x_n W_nᵀ + b_n for rows [S, K·B, n, I], each of n experts with a weight that all tasks share → [S, K·B, n, O]."""
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    return _applied(_ExpertLinear, x.transpose(1, 2), weight, bias, name, recorder, _anchor(recorder)).transpose(1, 2)


def mixed_linear(params: Views, name: str, x: Tensor, shares: Tensor, recorder: Recorder | None = None) -> Tensor:
    """x_k W_kᵀ + b_k for rows [S, K, B, I], where W_k and b_k are sums of n that all tasks share → [S, K, B, O].

    Args:
        shares: [S, K, n], by which each task weighs them; gets a gradient.
    """
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    return _applied(_MixedLinear, x, shares, weight, bias, name, recorder, _anchor(recorder))


def task_linear(params: Views, name: str, x: Tensor, recorder: Recorder | None = None) -> Tensor:
    """x_k W_kᵀ + b_k for rows [S, K, B, I], each task with its own weight → [S, K, B, O]."""
    return _applied(_TaskLinear, x, params[f"{name}.weight"], params[f"{name}.bias"], name, recorder, _anchor(recorder))


def head(params: Views, name: str, x: Tensor, per_task: bool, recorder: Recorder | None = None) -> Tensor:
    """`task_linear` or, where all tasks share one weight, `linear` for rows [S, K, B, I] → [S, K, B, O]."""
    if per_task:
        return task_linear(params, name, x, recorder)
    return linear(params, name, x.flatten(1, 2), recorder).unflatten(1, x.shape[1:3])


def mixture(shares: Tensor, x: Tensor) -> Tensor:
    """Sums of M kinds of rows [M, S, R, D], J of them with shares [S, R, J, M] → [J, S, R, D]."""
    return _applied(_Mixture, shares, x)


def layer_norm_parameters(name: str, size: int) -> dict[str, Parameter]:
    """Gain, which starts at 1, and bias of `layer_norm`."""
    return {
        f"{name}.gain": Parameter((size,), constant(1.0)),
        f"{name}.bias": Parameter((size,), constant(0.0)),
    }


def layer_norm(params: Views, name: str, x: Tensor, recorder: Recorder | None = None) -> Tensor:
    """Normalised rows [S, K·B, D] times a gain plus a bias that all tasks share (arXiv 1607.06450)."""
    normal = F.layer_norm(x, x.shape[-1:])
    return _applied(_Affine, normal, params[f"{name}.gain"], params[f"{name}.bias"], name, recorder, _anchor(recorder))


def task_vectors(params: Views, name: str, recorder: Recorder | None = None) -> Tensor:
    """The tasks' own vectors [K, D], an embedding of each, as [S, K, 1, D]."""
    return _applied(_TaskVectors, params[name], name, recorder, _anchor(recorder))


def shared_vectors(params: Views, name: str, num_tasks: int, recorder: Recorder | None = None) -> Tensor:
    """A vector [D] that all tasks share, once for each of them, as [S, K, 1, D]."""
    return _applied(_SharedVectors, params[name], num_tasks, name, recorder, _anchor(recorder))


class _NoGraph:
    """Stands in for a function's context where nothing will be differentiated."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Forget them."""


def _applied(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """`function.apply`, without autograd's part of it where no gradient is wanted: small layers take half the time."""
    if torch.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(_NoGraph(), *arguments)


def _anchor(recorder: Recorder | None) -> Tensor | None:
    return None if recorder is None else recorder.anchor


class _SharedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, name: str, recorder: Any, _: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.name, ctx.recorder = name, recorder
        return add_matmul(bias, x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        delta = aligned(deltas[0])
        if ctx.recorder is not None:
            ctx.recorder.shared_matrix(f"{ctx.name}.weight", x, delta)
            ctx.recorder.shared_vector(f"{ctx.name}.bias", delta)
        return matmul(delta, weight) if ctx.needs_input_grad[0] else None, None, None, None, None, None


class _ExpertLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, name: str, recorder: Any, _: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.name, ctx.recorder = name, recorder
        return add_matmul(bias, x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        delta = deltas[0]
        if ctx.recorder is not None:
            rows = delta.transpose(1, 2)
            ctx.recorder.shared_matrix(f"{ctx.name}.weight", x.transpose(1, 2), rows)
            ctx.recorder.shared_vector(f"{ctx.name}.bias", rows)
        return matmul(delta, weight) if ctx.needs_input_grad[0] else None, None, None, None, None, None


class _MixedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shares: Tensor, weight: Tensor, bias: Tensor, name: str, recorder: Any, _: Any
    ) -> Tensor:
        mixed = matmul(shares, weight.flatten(2)).unflatten(2, weight.shape[2:])  # [S, K, O, I]
        ctx.save_for_backward(x, shares, weight, bias, mixed)
        ctx.name, ctx.recorder = name, recorder
        return add_matmul(matmul(shares, bias), x, mixed.mT)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        x, shares, weight, bias, mixed = ctx.saved_tensors
        delta, of_shares = aligned(deltas[0]), None
        if ctx.recorder is not None or ctx.needs_input_grad[1]:
            of_weight, of_bias = matmul(delta.mT, x), sum_over(delta, 2)
            of_shares = matmul(of_weight.flatten(2), weight.flatten(2).mT) + matmul(of_bias, bias.mT)
        if ctx.recorder is not None:
            ctx.recorder.shared_tensor(f"{ctx.name}.weight", of_weight, shares)
            ctx.recorder.shared_tensor(f"{ctx.name}.bias", of_bias, shares)
        return matmul(delta, mixed) if ctx.needs_input_grad[0] else None, of_shares, None, None, None, None, None


class _Mixture(torch.autograd.Function):
    """Term by term: products of matrices as small as the shares of a row take longer, and all terms at once memory."""

    @staticmethod
    def forward(ctx: Any, shares: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(shares, x)
        return _weighted_sum(shares.movedim(2, 0), x, x.new_empty(shares.shape[2], *x.shape[1:]))

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        (shares, x), delta = ctx.saved_tensors, deltas[0]
        of_shares = of_x = None
        if ctx.needs_input_grad[0]:
            of_shares = torch.stack([(delta * rows).sum(-1) for rows in x], -1).movedim(0, 2)
        if ctx.needs_input_grad[1]:
            of_x = _weighted_sum(shares.movedim(3, 0), delta, torch.empty_like(x))
        return of_shares, of_x


def _weighted_sum(weights: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """J sums [J, S, R, D] of M kinds of rows [M, S, R, D] with weights [J, S, R, M], written to `out`."""
    first, *columns = weights.split(1, -1)
    torch.mul(first, x[0], out=out)
    for column, rows in zip(columns, x[1:], strict=True):
        out.addcmul_(column, rows)
    return out


class _TaskLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, name: str, recorder: Any, _: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.name, ctx.recorder = name, recorder
        return matmul(x, weight.mT) + bias.unsqueeze(2)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        delta = aligned(deltas[0])
        if ctx.recorder is not None:
            ctx.recorder.task_matrix(f"{ctx.name}.weight", x, delta)
            ctx.recorder.task_vector(f"{ctx.name}.bias", delta)
        return matmul(delta, weight) if ctx.needs_input_grad[0] else None, None, None, None, None, None


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, name: str, recorder: Any, _: Any) -> Tensor:
        ctx.save_for_backward(x, gain)
        ctx.name, ctx.recorder = name, recorder
        return torch.addcmul(bias.unsqueeze(1), x, gain.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        x, gain = ctx.saved_tensors
        delta = aligned(deltas[0])
        if ctx.recorder is not None:
            ctx.recorder.shared_vector(f"{ctx.name}.gain", delta * x)
            ctx.recorder.shared_vector(f"{ctx.name}.bias", delta)
        return delta * gain.unsqueeze(1) if ctx.needs_input_grad[0] else None, None, None, None, None, None


class _TaskVectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, name: str, recorder: Any, _: Any) -> Tensor:
        ctx.name, ctx.recorder = name, recorder
        return vectors.unsqueeze(2).clone()

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.recorder is not None:
            ctx.recorder.task_vector(ctx.name, deltas[0])
        return None, None, None, None


class _SharedVectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vector: Tensor, num_tasks: int, name: str, recorder: Any, _: Any) -> Tensor:
        ctx.name, ctx.recorder = name, recorder
        return vector[:, None, None].repeat(1, num_tasks, 1, 1)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.recorder is not None:
            ctx.recorder.shared_vector(ctx.name, deltas[0].flatten(1, 2))
        return None, None, None, None, None
