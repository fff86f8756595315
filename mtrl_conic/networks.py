"""Multi-head networks over flat parameters, for S seeds at once.

A network's parameters are one tensor [S, P]; the functions here are pure in (parameters, input). The linear
layers hand their input and output gradient to a recorder, which decides whether the K tasks' weight gradients
are summed or kept apart (`mtrl_conic.jacobian`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl_conic.runtime import SeedStreams

Views = Mapping[str, Tensor]


class Block(NamedTuple):
    """Where one parameter lies in the flat vector."""

    shape: tuple[int, ...]
    start: int
    stop: int


class Layout:
    """The order of the named parameters in a flat vector: the shared ones first, then the heads.

    Args:
        shared: shapes of the parameters that all tasks use.
        heads: shapes of the parameters with one row per task; their first axis is K.
    """

    def __init__(self, shared: Mapping[str, tuple[int, ...]], heads: Mapping[str, tuple[int, ...]]) -> None:
        self.blocks: dict[str, Block] = {}
        self.shared_size = self._append(shared, 0)
        self.size = self._append(heads, self.shared_size)

    def _append(self, shapes: Mapping[str, tuple[int, ...]], start: int) -> int:
        for name, shape in shapes.items():
            stop = start + math.prod(shape)
            self.blocks[name] = Block(shape, start, stop)
            start = stop
        return start

    def view(self, flat: Tensor, name: str) -> Tensor:
        """The parameter `name` of `flat` [S, P], as a view [S, *shape]."""
        block = self.blocks[name]
        return flat[:, block.start : block.stop].unflatten(1, block.shape)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        return {name: self.view(flat, name) for name in self.blocks}


class Recorder(Protocol):
    """Receives what a weight gradient is made of, during the backward pass."""

    anchor: Tensor  # a scalar that requires a gradient, so that a backward pass exists

    def shared(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        """Inputs [S, K·B, I] and output gradient [S, K·B, O] of the shared layer `name`."""

    def head(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        """Inputs [S, K, B, I] and output gradient [S, K, B, O] of the head `name`."""


class _SharedLinear(torch.autograd.Function):
    """y = x Wᵀ + b for rows [S, K·B, I] and one W [S, O, I]; parameter gradients go to the recorder."""

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
            ctx.recorder.shared(ctx.name, x, delta)
        return torch.bmm(delta, weight) if ctx.needs_input_grad[0] else None, None, None, None, None, None


class _HeadLinear(torch.autograd.Function):
    """y_k = x_k W_kᵀ + b_k with W [S, K, O, I]; parameter gradients go to the recorder."""

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
            ctx.recorder.head(ctx.name, x, delta)
        return delta @ weight if ctx.needs_input_grad[0] else None, None, None, None, None, None


class MultiHeadMLP:
    """A shared trunk of ReLU layers and one linear head per task.

    Args:
        name: prefix of the parameter names.
        input_size: I.
        hidden_sizes: widths of the trunk's layers.
        output_size: O of each head.
        num_tasks: K.
        layer_norm: normalise each trunk layer before its ReLU, without scale and shift (the next layer has them).
    """

    def __init__(
        self,
        name: str,
        input_size: int,
        hidden_sizes: Sequence[int],
        output_size: int,
        num_tasks: int,
        layer_norm: bool = False,
    ) -> None:
        sizes = [input_size, *hidden_sizes]
        self.layers = [f"{name}.trunk.{index}" for index in range(len(hidden_sizes))]
        self.head = f"{name}.head"
        self.layer_norm = layer_norm
        self.shared: dict[str, tuple[int, ...]] = {}
        for layer, fan_in, fan_out in zip(self.layers, sizes, sizes[1:], strict=False):
            self.shared |= {f"{layer}.weight": (fan_out, fan_in), f"{layer}.bias": (fan_out,)}
        self.heads: dict[str, tuple[int, ...]] = {
            f"{self.head}.weight": (num_tasks, output_size, sizes[-1]),
            f"{self.head}.bias": (num_tasks, output_size),
        }

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        """Map inputs [S, K, B, I] to outputs [S, K, B, O]."""
        anchor = None if recorder is None else recorder.anchor
        tasks_and_rows = x.shape[1:3]
        x = x.flatten(1, 2)
        for layer in self.layers:
            weight, bias = params[f"{layer}.weight"], params[f"{layer}.bias"]
            x = _SharedLinear.apply(x, weight, bias, layer, recorder, anchor)
            if self.layer_norm:
                x = F.layer_norm(x, x.shape[-1:])
            x = torch.relu_(x)
        weight, bias = params[f"{self.head}.weight"], params[f"{self.head}.bias"]
        x = x.unflatten(1, tasks_and_rows)
        return _HeadLinear.apply(x, weight, bias, self.head, recorder, anchor)


def initialize(layout: Layout, flat: Tensor, streams: SeedStreams, head_scale: float = 3e-3) -> None:
    """Fill flat parameters [S, P]: He-uniform trunk weights, zero biases, small uniform heads.

    Each seed draws from its own stream, so its initial weights do not depend on the other seeds.
    """
    for name, block in layout.blocks.items():
        view = layout.view(flat, name)
        if name.endswith("bias"):
            view.zero_()
            continue
        bound = math.sqrt(6 / block.shape[-1]) if ".trunk." in name else head_scale
        values = streams.uniform_(torch.empty(view.shape, dtype=flat.dtype, device=flat.device))
        view.copy_((2 * values - 1) * bound)
