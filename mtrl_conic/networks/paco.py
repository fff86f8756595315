"""Tasks whose weights are sums of a few sets of weights that all tasks share.

Source: Sun et al., "PaCo: Parameter-Compositional Multi-Task Reinforcement Learning" (arXiv 2210.11653). Where this
departs from it: docs/architectures.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl_conic.networks.initial import he_uniform, normal, uniform
from mtrl_conic.networks.layers import Recorder, Views, expert_parameters, mixed_linear, task_vectors
from mtrl_conic.networks.layout import Parameter
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.validation import whole, widths

_HEAD_BOUND = 3e-3  # of the last layer's initial weights: the first values and actions are near 0


class PaCo(Network):
    """ReLU layers and a linear one, whose weights and biases each task composes of n sets by a vector of its own.

    Args:
        hidden_sizes: widths of the ReLU layers.
        parameter_sets: n.
    """

    composed = True

    def __init__(self, hidden_sizes: Sequence[int], parameter_sets: int = 5) -> None:
        self.hidden_sizes = widths("hidden_sizes", hidden_sizes)
        self.parameter_sets = whole("parameter_sets", parameter_sets, 1, 1000)

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        sets, sizes = self.parameter_sets, [input_size, *self.hidden_sizes, output_size]
        self._layers = [f"{name}.layer.{index}" for index in range(len(sizes) - 1)]
        self._vectors = f"{name}.vectors"
        # With this variance a task's first weights have, in the mean, that of each set.
        self.parameters = {self._vectors: Parameter((num_tasks, sets), normal(sets**-0.5), per_task=True)}
        for layer, fan_in, fan_out in zip(self._layers, sizes, sizes[1:], strict=False):
            initial = uniform(_HEAD_BOUND) if layer == self._layers[-1] else he_uniform(fan_in)
            self.parameters |= expert_parameters(layer, sets, fan_in, fan_out, initial)

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        shares = task_vectors(params, self._vectors, recorder).squeeze(2)
        for layer in self._layers[:-1]:
            x = torch.relu(mixed_linear(params, layer, x, shares, recorder))
        return mixed_linear(params, self._layers[-1], x, shares, recorder)
