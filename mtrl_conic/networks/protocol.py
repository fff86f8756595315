"""What a network is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from mtrl_conic.networks.layers import Recorder, Views
from mtrl_conic.networks.layout import Parameter


class Network(Protocol):
    """A pure function of parameters and input, which draws no random numbers and keeps none."""

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """By name, which begins with the network's own, as several networks can share one flat tensor."""

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        """Map inputs [S, K, B, I] to outputs [S, K, B, O].

        Args:
            params: a view [S, *shape] of each of `parameters`.
            x: inputs.
            recorder: is handed what the parameters' gradients are made of during the backward pass; without one the
                parameters get no gradient, and the input does all the same.
        """
