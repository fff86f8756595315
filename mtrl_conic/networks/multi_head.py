"""A shared trunk with one linear head per task, or one for all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl_conic.networks.initial import Initial, he_uniform, orthogonal, uniform
from mtrl_conic.networks.layers import Recorder, Views, linear, linear_parameters, task_linear
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.validation import choice, flag, positive, widths

_HEAD_BOUND = 3e-3  # of the heads' initial weights: the first values and actions are near 0


class MultiHeadMLP(Network):
    """A shared trunk of ReLU layers and one linear head per task, or one for all.

    Args:
        hidden_sizes: widths of the trunk's layers.
        layer_norm: normalise each trunk layer before its ReLU, without scale and shift (the next layer has them).
        initialization: of the weights: "uniform", with He's variance in the trunk and near 0 in the heads, or
            "orthogonal".
        head_gain: of orthogonal heads; that of the trunk is √2.
        heads: one for each "task", or one "shared" by all tasks.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int],
        layer_norm: bool = False,
        initialization: str = "uniform",
        head_gain: float = 1.0,
        heads: str = "task",
    ) -> None:
        self.hidden_sizes = widths("hidden_sizes", hidden_sizes)
        self.layer_norm = flag("layer_norm", layer_norm)
        self.initialization = choice("initialization", initialization, ("uniform", "orthogonal"))
        self.head_gain = positive("head_gain", head_gain)
        self.heads = choice("heads", heads, ("task", "shared"))

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        self.layers = [f"{name}.trunk.{index}" for index in range(len(self.hidden_sizes))]
        self.head = f"{name}.head"
        self.parameters = {}
        fan_in = input_size
        for layer, fan_out in zip(self.layers, self.hidden_sizes, strict=True):
            self.parameters |= linear_parameters(layer, fan_in, fan_out, self._initial(fan_in))
            fan_in = fan_out
        tasks = num_tasks if self.heads == "task" else None
        self.parameters |= linear_parameters(self.head, fan_in, output_size, self._initial(), tasks)

    def _initial(self, fan_in: int | None = None) -> Initial:
        """Of a trunk layer with that many inputs; without, of the heads."""
        if self.initialization == "orthogonal":
            return orthogonal(self.head_gain if fan_in is None else math.sqrt(2))
        return uniform(_HEAD_BOUND) if fan_in is None else he_uniform(fan_in)

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        tasks_and_rows = x.shape[1:3]
        x = x.flatten(1, 2)
        for layer in self.layers:
            x = linear(params, layer, x, recorder)
            if self.layer_norm:
                x = F.layer_norm(x, x.shape[-1:])
            x = torch.relu_(x)
        if self.heads == "shared":
            return linear(params, self.head, x, recorder).unflatten(1, tasks_and_rows)
        return task_linear(params, self.head, x.unflatten(1, tasks_and_rows), recorder)
