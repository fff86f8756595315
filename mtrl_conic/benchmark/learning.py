"""An agent that can be updated at any time: fed with random transitions, outside of what is measured."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mtrl_conic.agents.protocol import Transition
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.system.segments import Memory
from mtrl_conic.training.device_steps import device_steps

Sizes = tuple[int, int, int]  # K, O, A

_CAPACITY = 20_000  # of a replay, at most


class LearningAgent:
    """The agent of a run without the run: its updates, and vector steps of random numbers between them.

    Args:
        config: settings of the run.
        sizes: K, O, A.
        memory: of another such agent, which this one goes on to fill, so that many agents need only one.

    Attributes:
        agent: set up.
        update: one update, recorded as a CUDA graph where the training would; `ready` comes before each.
    """

    def __init__(self, config: TrainConfig, sizes: Sizes, memory: Memory | None = None) -> None:
        num_tasks, self._observation_size, action_size = sizes
        self.setting = replace(
            config.setting(), num_tasks=num_tasks, observation_size=sizes[1], action_size=action_size
        )
        self.agent = _small(config).make_agent()
        self.agent.setup(self.setting)
        if memory is not None:
            self.agent.memory = memory
        self._steps, self._left = device_steps(self.agent, config.cuda_graphs), 0
        self.update = self._steps.update

    def ready(self) -> None:
        """See that an update is due: where none is left, make vector steps until the agent says so, as in training."""
        while not self._left:
            self._vector_step()
            self._left = self.agent.updates_due()
        self._left -= 1

    def _vector_step(self) -> None:
        """One in which no episode ends."""
        observation, reached = self._normal(self._observation_size), self._normal(self._observation_size)
        action = self._steps.explore(observation)
        reward = self._normal(1).squeeze(-1)
        goes_on = torch.zeros_like(reward)
        self.agent.observe(Transition(observation, action, reward, reached, goes_on, goes_on))

    def _normal(self, size: int) -> Tensor:
        shape = (*self.setting.cells, self.setting.num_envs_per_task, size)
        return torch.randn(shape, device=self.setting.device)


def _small(config: TrainConfig) -> TrainConfig:
    """With a replay no larger than an update can tell."""
    capacity = config.agent.get("capacity_per_task")
    if capacity is None:
        return config
    return replace(config, agent={**config.agent, "capacity_per_task": min(capacity, _CAPACITY)})
