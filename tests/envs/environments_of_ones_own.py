"""Environments as a user would write them, in a module that worker processes can import."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtrl_conic.envs.base import EnvStep
from mtrl_conic.envs.environments import Environments


@dataclass(frozen=True)
class Lights(Environments):
    """Turn a dial until the light has the wanted brightness; its own spec.

    Args:
        speed: of the dial.
    """

    speed: float = 0.1
    tasks: tuple[str, ...] = ("lamp", "candle")
    observation_size: int = 2
    action_size: int = 1
    horizon: int = 12
    num_goals: int = 4

    def setup(self):
        return self

    def make(self, task):
        return Light(self, sign=1 - 2 * task)


class Light:
    def __init__(self, spec, sign):
        self.observation_size, self.action_size = spec.observation_size, spec.action_size
        self.horizon, self.num_goals = spec.horizon, spec.num_goals
        self.pace = sign * spec.speed
        self.reset(0)

    def reset(self, goal):
        self.wanted, self.brightness = (goal + 1) / self.num_goals, 0.0
        return np.array([self.brightness, self.wanted])

    def step(self, action):
        self.brightness += self.pace * float(action[0])
        distance = abs(self.brightness - self.wanted)
        observation = np.array([self.brightness, self.wanted])
        return EnvStep(observation, -distance, terminated=False, success=distance < 0.05)

    def get_state(self):
        return {"wanted": self.wanted, "brightness": self.brightness}

    def set_state(self, state):
        self.wanted, self.brightness = state["wanted"], state["brightness"]

    def close(self):
        pass
