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

Views = Mapping[str, Tensor]


class Recorder(Protocol):
    """Receives, during the backward pass, what the gradient of each parameter is made of."""

    anchor: Tensor  # a scalar that requires a gradient, so that a backward pass exists

    def shared_matrix(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        """Inputs [S, K·B, I] and output gradient [S, K·B, O] of the shared weight `name` [O, I]."""

    def shared_vector(self, name: str, delta: Tensor) -> None:
        """Gradient [S, K·B, D] with respect to the shared vector `name` [D], row by row."""

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
    return _SharedLinear.apply(x, params[f"{name}.weight"], params[f"{name}.bias"], name, recorder, _anchor(recorder))


def task_linear(params: Views, name: str, x: Tensor, recorder: Recorder | None = None) -> Tensor:
    """x_k W_kᵀ + b_k for rows [S, K, B, I], each task with its own weight → [S, K, B, O]."""
    return _TaskLinear.apply(x, params[f"{name}.weight"], params[f"{name}.bias"], name, recorder, _anchor(recorder))


def layer_norm_parameters(name: str, size: int) -> dict[str, Parameter]:
    """Gain, which starts at 1, and bias of `layer_norm`."""
    return {
        f"{name}.gain": Parameter((size,), constant(1.0)),
        f"{name}.bias": Parameter((size,), constant(0.0)),
    }


def layer_norm(params: Views, name: str, x: Tensor, recorder: Recorder | None = None) -> Tensor:
    """Normalised rows [S, K·B, D] times a gain plus a bias that all tasks share (arXiv 1607.06450)."""
    normal = F.layer_norm(x, x.shape[-1:])
    return _Affine.apply(normal, params[f"{name}.gain"], params[f"{name}.bias"], name, recorder, _anchor(recorder))


def task_vectors(params: Views, name: str, recorder: Recorder | None = None) -> Tensor:
    """The tasks' own vectors [K, D], an embedding of each, as [S, K, 1, D]."""
    return _TaskVectors.apply(params[name], name, recorder, _anchor(recorder))


def _anchor(recorder: Recorder | None) -> Tensor | None:
    return None if recorder is None else recorder.anchor


class _SharedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, name: str, recorder: Any, _: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.name, ctx.recorder = name, recorder
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        delta = deltas[0].contiguous()
        if ctx.recorder is not None:
            ctx.recorder.shared_matrix(f"{ctx.name}.weight", x, delta)
            ctx.recorder.shared_vector(f"{ctx.name}.bias", delta)
        return torch.bmm(delta, weight) if ctx.needs_input_grad[0] else None, None, None, None, None, None


class _TaskLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, name: str, recorder: Any, _: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.name, ctx.recorder = name, recorder
        return x @ weight.mT + bias.unsqueeze(2)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        delta = deltas[0].contiguous()
        if ctx.recorder is not None:
            ctx.recorder.task_matrix(f"{ctx.name}.weight", x, delta)
            ctx.recorder.task_vector(f"{ctx.name}.bias", delta)
        return delta @ weight if ctx.needs_input_grad[0] else None, None, None, None, None, None


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, name: str, recorder: Any, _: Any) -> Tensor:
        ctx.save_for_backward(x, gain)
        ctx.name, ctx.recorder = name, recorder
        return torch.addcmul(bias.unsqueeze(1), x, gain.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, ...]:
        x, gain = ctx.saved_tensors
        delta = deltas[0].contiguous()
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
