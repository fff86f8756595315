"""A network for each task, with nothing shared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl_conic.networks.initial import he_uniform, uniform
from mtrl_conic.networks.layers import Recorder, Views, linear_parameters, task_linear
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.validation import flag, widths

_HEAD_BOUND = 3e-3  # of the last layers' initial weights: the first values and actions are near 0


class IndependentMLP(Network):
    """K networks of ReLU layers that share nothing; each layer is one product for all tasks.

    Args:
        hidden_sizes: widths of each network's layers.
        layer_norm: normalise each layer before its ReLU, without scale and shift (the next layer has them).
    """

    def __init__(self, hidden_sizes: Sequence[int], layer_norm: bool = False) -> None:
        self.hidden_sizes = widths("hidden_sizes", hidden_sizes)
        self.layer_norm = flag("layer_norm", layer_norm)

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        self._layers = [f"{name}.layer.{index}" for index in range(len(self.hidden_sizes))]
        self.head = f"{name}.head"
        self.parameters = {}
        fan_in = input_size
        for layer, fan_out in zip(self._layers, self.hidden_sizes, strict=True):
            self.parameters |= linear_parameters(layer, fan_in, fan_out, he_uniform(fan_in), num_tasks)
            fan_in = fan_out
        self.parameters |= linear_parameters(self.head, fan_in, output_size, uniform(_HEAD_BOUND), num_tasks)

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        for layer in self._layers:
            x = task_linear(params, layer, x, recorder)
            if self.layer_norm:
                x = F.layer_norm(x, x.shape[-1:])
            x = torch.relu_(x)
        return task_linear(params, self.head, x, recorder)
