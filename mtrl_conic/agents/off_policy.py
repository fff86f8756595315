"""What agents with a replay share: random actions first, then updates on batches of it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable

import torch
from torch import Tensor

from mtrl_conic.agents.estimates import FLOAT, multiplications, weight_bytes
from mtrl_conic.agents.protocol import Agent, Setting, Transition
from mtrl_conic.agents.replay import Batch, ReplayBuffer
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.streams import SeedStreams
from mtrl_conic.system.validation import whole


class OffPolicyAgent(Agent):
    """Collects with random actions, then with its own, into a replay, and updates on batches of it.

    Args:
        warmup_steps: first environment steps per task, with random actions and no updates.
        batch_size_per_task: transitions per seed and task in an update.
        capacity_per_task: transitions per seed and task in the replay; one per vector step and environment.
        updates_per_step: updates per vector step, however long it holds an action.

    Attributes:
        streams: of random numbers, by name; part of what is saved.
    """

    memory: ReplayBuffer

    def __init__(
        self, warmup_steps: int, batch_size_per_task: int, capacity_per_task: int, updates_per_step: int
    ) -> None:
        self.warmup_steps = whole("warmup_steps", warmup_steps, 0)
        self.batch_size_per_task = whole("batch_size_per_task", batch_size_per_task, 1)
        self.capacity_per_task = whole("capacity_per_task", capacity_per_task, 1)
        self.updates_per_step = whole("updates_per_step", updates_per_step, 1)

    @abstractmethod
    def act(self, observation: Tensor) -> Tensor:
        """Actions of the policy [S, K, N, A] with its own noise."""

    @abstractmethod
    def learn(self, batch: Batch) -> dict[str, Tensor]:
        """An update on a batch; returns what `update` does."""

    @abstractmethod
    def networks_for(self, setting: Setting) -> dict[str, list[Network]]:
        """All networks, set up for at least these sizes, by the hyperparameter that describes them: for estimates."""

    def setup(self, setting: Setting) -> None:
        self.device, self.steps_per_decision = torch.device(setting.device), setting.steps_per_decision
        self._action_size, self._action_repeat = setting.action_size, setting.action_repeat
        sizes = (setting.num_tasks, setting.observation_size, setting.action_size)
        self.memory = ReplayBuffer(setting.seeds, *sizes, self.capacity_per_task, setting.device)
        self.streams = {"exploration": SeedStreams(setting.seeds, "exploration", setting.device)}

    @property
    def _warming_up(self) -> bool:
        return self.memory.total * self._action_repeat < self.warmup_steps

    def explore(self, observation: Tensor) -> Tensor:
        return self.random_actions(observation) if self._warming_up else self.act(observation)

    def explore_kind(self) -> Hashable:
        return self._warming_up

    def random_actions(self, observation: Tensor) -> Tensor:
        """Actions uniform in [-1, 1) of the shape that `explore` gives."""
        shape = (*observation.shape[:-1], self._action_size)
        return self.streams["exploration"].uniform_(observation.new_empty(shape)) * 2 - 1

    def observe(self, transition: Transition) -> None:
        """A truncated episode goes on for the value function, so that the replay keeps only who `terminated`."""
        self.memory.add(*transition[:5])

    def updates_due(self) -> int:
        return 0 if self._warming_up or len(self.memory) == 0 else self.updates_per_step

    def update(self) -> dict[str, Tensor]:
        return self.learn(self.memory.sample(self.batch_size_per_task))

    def steps_since(self, updates: int) -> int:
        return -(-updates // self.updates_per_step) * self.steps_per_decision

    def first_update(self, setting: Setting) -> int:
        return self.warmup_steps + 1

    def check(self, setting: Setting) -> None:
        if setting.num_envs_per_task > self.capacity_per_task:
            raise ValueError(
                f"capacity_per_task must be at least the {setting.num_envs_per_task} environments per task,"
                f" not {self.capacity_per_task}"
            )

    def needs(self, setting: Setting) -> dict[str, int]:
        values = 2 * setting.observation_size + setting.action_size + 2  # of a transition
        row = math.prod(setting.cells) * values * FLOAT
        weights, batch = weight_bytes(self.networks_for(setting)), self.batch_size_per_task * row
        return weights | {"capacity_per_task": self.capacity_per_task * row, "batch_size_per_task": batch}

    def work(self, setting: Setting) -> float:
        return multiplications(self.networks_for(setting), math.prod(setting.cells) * self.batch_size_per_task)
