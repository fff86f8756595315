"""Policies whose actions are tanh of a normal distribution's numbers, and what networks see of the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.agents.losses import squashed_gaussian
from mtrl_conic.agents.normalisation import AsTheyAre, RunningMoments
from mtrl_conic.agents.protocol import ActingPolicy
from mtrl_conic.networks.embedding import TaskEmbedding
from mtrl_conic.networks.layers import Recorder, Views
from mtrl_conic.networks.protocol import Network


class TaskInput:
    """Puts a one-hot task number beside the observation, unless it is switched off.

    Args:
        num_tasks: K.
        one_hot: whether it does.
    """

    def __init__(self, num_tasks: int, one_hot: bool, device: torch.device | str, dtype: torch.dtype) -> None:
        self.size = num_tasks if one_hot else 0
        self._task_id = torch.eye(num_tasks, device=device, dtype=dtype)

    def __call__(self, observation: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """Inputs [S, T, B, O + `size`] for observations [S, T, B, O] of T tasks, by default all K in order."""
        if not self.size:
            return observation.to(self._task_id.dtype)
        chosen = self._task_id if tasks is None else self._task_id[list(tasks)]
        task_id = chosen.view(1, -1, 1, self.size).expand(*observation.shape[:3], -1)
        return torch.cat((observation, task_id), -1)

    def of_critics(self, views: Views, observation: Tensor, recorder: Recorder | None = None) -> Tensor:
        """The same, as there is nothing to learn."""
        return self(observation)


class EmbeddedTaskInput:
    """Puts a vector beside the observation that the critics learn for the task; an actor only sees it.

    Args:
        embedding: set up.
        views: of parameters, the embedding's among them, that an actor is to see.
        device: of the actor.
    """

    def __init__(self, embedding: TaskEmbedding, views: Views, device: torch.device | str) -> None:
        self._embedding = embedding
        self._seen = {name: views[name].to(device) for name in embedding.parameters}  # stays a view where it is there

    def __call__(self, observation: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """Inputs of an actor [S, T, B, ·] for observations [S, T, B, O] of T tasks, by default all K in order."""
        chosen: Any = slice(None) if tasks is None else list(tasks)
        return self._embedding({name: view[:, chosen] for name, view in self._seen.items()}, observation)

    def of_critics(self, views: Views, observation: Tensor, recorder: Recorder | None = None) -> Tensor:
        """Inputs of the critics that have these parameters, [S, K, B, ·]."""
        return self._embedding(views, observation, recorder)


class NormalisedInput:
    """What another input makes of observations that have been normalised.

    Args:
        inputs: the other one.
        moments: of the observations; whoever collects them moves these on.
    """

    def __init__(self, inputs: TaskInput | EmbeddedTaskInput, moments: RunningMoments | AsTheyAre) -> None:
        self._inputs, self._moments = inputs, moments

    def __call__(self, observation: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        chosen: Any = slice(None) if tasks is None else list(tasks)
        return self._inputs(self._moments.normalise(observation, chosen), tasks)

    def of_critics(self, views: Views, observation: Tensor, recorder: Recorder | None = None) -> Tensor:
        return self._inputs.of_critics(views, self._moments.normalise(observation), recorder)


class BoundedStd(Network):
    """A policy's network whose log standard deviation is bounded by a tanh, which has a slope also near the bounds.

    Args:
        network: gives mean and what becomes the log standard deviation, [S, K, B, 2A].
        low, high: the bounds.
    """

    def __init__(self, network: Network, low: float, high: float) -> None:
        self._network, self._low, self._high = network, low, high

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        self._network.setup(name, input_size, output_size, num_tasks)
        self.parameters = self._network.parameters

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        mean, raw = self._network(params, x, recorder).chunk(2, -1)
        return torch.cat((mean, self._low + (self._high - self._low) * 0.5 * (1 + raw.tanh())), -1)


Inputs = Callable[[Tensor, Sequence[int] | None], Tensor]


class SquashedGaussianPolicy(ActingPolicy):
    """tanh(Normal(mean, std)) with mean and log standard deviation from a network; deterministic: tanh of the mean.

    Args:
        network: set up; its outputs are [S, T, N, 2A].
        views: of its parameters.
        inputs: what the network sees of an observation of these tasks, such as a `TaskInput`.
    """

    def __init__(self, network: Network, views: Mapping[str, Tensor], inputs: Inputs) -> None:
        self._network, self._views, self._inputs = network, views, inputs

    @torch.no_grad()
    def __call__(
        self, observation: Tensor, tasks: Sequence[int] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        outputs = self._network(self._of(tasks), self._inputs(observation, tasks))
        mean = outputs.chunk(2, dim=-1)[0]
        if generator is None:
            return mean.tanh()
        return squashed_gaussian(outputs, torch.empty_like(mean).normal_(generator=generator))[0]

    def _of(self, tasks: Sequence[int] | None) -> Mapping[str, Tensor]:
        """The parameters, those of single tasks for these tasks."""
        if tasks is None:
            return self._views
        chosen: Any = list(tasks)
        parameters = self._network.parameters
        return {name: view[:, chosen] if parameters[name].per_task else view for name, view in self._views.items()}
