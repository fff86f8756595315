"""What agents share that learn from a rollout of their present policy, and then throw it away."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

from mtrl_conic.agents.estimates import FLOAT, Product, multiplications, products_of, weight_bytes
from mtrl_conic.agents.protocol import Agent, Setting
from mtrl_conic.agents.rollout import Rollout
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.validation import whole

_INDEX = 8  # bytes


class OnPolicyAgent(Agent):
    """An agent that fills a rollout, makes some passes over it in minibatches, and begins the next.

    Args:
        rollout_steps: T, vector steps between updates.
        epochs: passes over a rollout.
        minibatches: parts of a pass, each with the same number of rows of every task.

    Attributes:
        rollout: made by `setup`.
        steps: environment steps per task so far.
    """

    overlaps: ClassVar[bool] = False
    rollout: Rollout
    steps: int = 0

    def __init__(self, rollout_steps: int, epochs: int, minibatches: int) -> None:
        self.rollout_steps = whole("rollout_steps", rollout_steps, 1)
        self.epochs = whole("epochs", epochs, 1)
        self.minibatches = whole("minibatches", minibatches, 1)

    @abstractmethod
    def networks_for(self, setting: Setting) -> dict[str, list[Network]]:
        """All networks, set up, by the hyperparameter that describes them: for estimates."""

    @abstractmethod
    def prepare(self) -> None:
        """Turn the full rollout into rows to learn from, and begin the next."""

    def updates_due(self) -> int:
        if not self.rollout.full:
            return 0
        self.prepare()
        return self.epochs * self.minibatches

    def steps_since(self, updates: int) -> int:
        """All updates of a rollout are made at its end; what came after it is in the next one."""
        rollouts = -(-updates // (self.epochs * self.minibatches)) - 1
        return (rollouts * self.rollout_steps + self.rollout.filled) * self.steps_per_decision

    def first_update(self, setting: Setting) -> int:
        return self.rollout_steps * setting.steps_per_decision

    def check(self, setting: Setting) -> None:
        rows = self.rollout_steps * setting.num_envs_per_task
        if rows % self.minibatches:
            raise ValueError(
                f"minibatches must divide the {rows} steps per task of a rollout (rollout_steps times the environments"
                f" per task), not {self.minibatches}"
            )

    def needs(self, setting: Setting) -> dict[str, int]:
        rows = math.prod(setting.cells) * setting.num_envs_per_task * self.rollout_steps
        values = 2 * setting.observation_size + setting.action_size + 4  # of a row
        weights = weight_bytes(self.networks_for(setting))
        return weights | {"rollout_steps": rows * values * FLOAT, "epochs": self.epochs * rows * _INDEX}

    def work(self, setting: Setting) -> float:
        return multiplications(self.networks_for(setting), len(setting.seeds) * self._rows(setting))

    def products(self, setting: Setting) -> list[Product]:
        """One pass of each network over a minibatch, forward and back."""
        nets = [net for each in self.networks_for(setting).values() for net in each]
        rows, tasks = self._rows(setting), setting.num_tasks
        return [product for net in nets for product in products_of(net, rows, num_tasks=tasks)]

    def _rows(self, setting: Setting) -> int:
        """Of a minibatch, those of all tasks of a seed."""
        return setting.num_tasks * setting.num_envs_per_task * self.rollout_steps // self.minibatches
