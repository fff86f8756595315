"""Policies whose actions are normally distributed, with a spread of their own for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.agents.protocol import ActingPolicy
from mtrl_conic.agents.squashed import Inputs
from mtrl_conic.networks.initial import constant
from mtrl_conic.networks.layers import Recorder, Views, task_vectors
from mtrl_conic.networks.layout import Parameter
from mtrl_conic.networks.protocol import Network


class TaskVector(Network):
    """A vector per task that does not look at the input, such as the logarithm of a standard deviation.

    Args:
        initial: all entries at first.
    """

    def __init__(self, initial: float = 0.0) -> None:
        self.initial = initial

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        self.name = f"{name}.vector"
        self.parameters = {self.name: Parameter((num_tasks, output_size), constant(self.initial), per_task=True)}

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        """The vectors [S, K, 1, O], whatever the inputs are."""
        return task_vectors(params, self.name, recorder)


class GaussianPolicy(ActingPolicy):
    """Normal(mean of a network, std per task), cut off at the bounds of the actions; deterministic: the mean.

    Args:
        network: set up; its outputs are [S, T, N, A].
        spread: set up; log standard deviations [S, T, 1, A].
        views: of the parameters of both.
        inputs: what the network sees of an observation of these tasks.
    """

    def __init__(self, network: Network, spread: Network, views: Mapping[str, Tensor], inputs: Inputs) -> None:
        self._network, self._spread, self._views, self._inputs = network, spread, views, inputs

    @torch.no_grad()
    def __call__(
        self, observation: Tensor, tasks: Sequence[int] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        chosen: Any = slice(None) if tasks is None else list(tasks)
        views = {name: view[:, chosen] if self._is_own(name) else view for name, view in self._views.items()}
        inputs = self._inputs(observation, tasks)
        mean = self._network(views, inputs)
        if generator is not None:
            noise = torch.empty_like(mean).normal_(generator=generator)
            mean = mean + self._spread(views, inputs).exp() * noise
        return mean.clamp(-1, 1)

    def _is_own(self, name: str) -> bool:
        return (self._network.parameters | self._spread.parameters)[name].per_task
