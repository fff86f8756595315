"""Parts of networks: layers one after the other, once or as several experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl_conic.networks.initial import he_uniform
from mtrl_conic.networks.layers import (
    Recorder,
    Views,
    expert_linear,
    expert_parameters,
    linear,
    linear_parameters,
)
from mtrl_conic.networks.layout import Parameter


class MLP:
    """Linear layers that all tasks share, with a ReLU after each but the last.

    Args:
        name: with which those of the parameters begin.
        sizes: of the input and of what each layer gives.
    """

    def __init__(self, name: str, sizes: Sequence[int]) -> None:
        self._layers = [f"{name}.{index}" for index in range(len(sizes) - 1)]
        self.parameters: dict[str, Parameter] = {}
        for layer, fan_in, fan_out in zip(self._layers, sizes, sizes[1:], strict=False):
            self.parameters |= linear_parameters(layer, fan_in, fan_out, he_uniform(fan_in))

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        """Map rows [S, K·B, I] to [S, K·B, O]."""
        for layer in self._layers[:-1]:
            x = torch.relu_(linear(params, layer, x, recorder))
        return linear(params, self._layers[-1], x, recorder)


class Experts:
    """n networks as `MLP`, each with weights of its own, that see the same input.

    Args:
        name: with which those of the parameters begin.
        experts: n.
        sizes: of the input and of what each layer of an expert gives.
    """

    def __init__(self, name: str, experts: int, sizes: Sequence[int]) -> None:
        self._experts = experts
        self._first, *self._others = [f"{name}.{index}" for index in range(len(sizes) - 1)]
        first = linear_parameters(self._first, sizes[0], experts * sizes[1], he_uniform(sizes[0]))
        self.parameters: dict[str, Parameter] = first
        for layer, fan_in, fan_out in zip(self._others, sizes[1:], sizes[2:], strict=False):
            self.parameters |= expert_parameters(layer, experts, fan_in, fan_out, he_uniform(fan_in))

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        """Map rows [S, K·B, I] to [S, K·B, n, O]."""
        x = linear(params, self._first, x, recorder).unflatten(2, (self._experts, -1))  # one wide layer for all
        for layer in self._others:
            x = expert_linear(params, layer, torch.relu(x), recorder)
        return x
