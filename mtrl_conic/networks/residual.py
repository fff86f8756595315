"""A wide network of residual blocks with layer norm.

Source: "Bigger, Regularized, Optimistic" (Nauman et al., arXiv 2405.16158), whose critics have this form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mtrl_conic.networks.initial import orthogonal
from mtrl_conic.networks.layers import (
    Recorder,
    Views,
    head,
    layer_norm,
    layer_norm_parameters,
    linear,
    linear_parameters,
)
from mtrl_conic.networks.layout import Parameter
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.validation import choice, whole

_GAIN = math.sqrt(2)  # of all orthogonal initial weights, the head's included


class Residual(Network):
    """A layer, then blocks of two that are added to their input, each layer with layer norm; then a linear head.

    A block's sum is neither normalised nor cut off: what one writes, all later ones and the head can read.

    Args:
        width: of every layer.
        blocks: how many.
        heads: one "shared" by all tasks, which must tell them apart by the input, or one for each "task".
    """

    def __init__(self, width: int, blocks: int = 2, heads: str = "shared") -> None:
        self.width = whole("width", width, 1)
        self.blocks = whole("blocks", blocks, 0, 1000)
        self.heads = choice("heads", heads, ("shared", "task"))

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        self._stem, self._last = f"{name}.stem", f"{name}.head"
        self._pairs = [(f"{name}.block.{index}.0", f"{name}.block.{index}.1") for index in range(self.blocks)]
        self.parameters = self._layer(self._stem, input_size)
        for layer in (layer for pair in self._pairs for layer in pair):
            self.parameters |= self._layer(layer, self.width)
        tasks = num_tasks if self.heads == "task" else None
        self.parameters |= linear_parameters(self._last, self.width, output_size, orthogonal(_GAIN), tasks)
        if self.heads == "task":
            self.head = self._last  # the name under which a head per task is looked for

    def _layer(self, layer: str, fan_in: int) -> dict[str, Parameter]:
        weights = linear_parameters(layer, fan_in, self.width, orthogonal(_GAIN))
        return weights | layer_norm_parameters(f"{layer}.norm", self.width)

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        def normal(layer: str, x: Tensor) -> Tensor:
            return layer_norm(params, f"{layer}.norm", linear(params, layer, x, recorder), recorder)

        tasks_and_rows = x.shape[1:3]
        x = torch.relu_(normal(self._stem, x.flatten(1, 2)))
        for first, second in self._pairs:
            x = x + normal(second, torch.relu_(normal(first, x)))
        return head(params, self._last, x.unflatten(1, tasks_and_rows), self.heads == "task", recorder)
