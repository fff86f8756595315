"""Environments that go wrong in one way each, in a module that worker processes and `env._target_` can import."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from mtrl_conic.envs.base import EnvStep
from mtrl_conic.envs.environments import Environments

# What is returned in place of what should be, as `EnvStep`'s fields have it, and words of the line about it.
RETURNED = {
    "one entry": ({"observation": np.zeros(1)}, "numbers of the shape (2,), not float64 of the shape (1,)"),
    "scalar": ({"observation": 0.5}, "shape (2,), not 0.5"),
    "two axes": ({"observation": np.zeros((1, 2))}, "not float64 of the shape (1, 2)"),
    "ragged": ({"observation": [[1], [1, 2]]}, "shape (2,), not [[1], [1, 2]]"),
    "strings": ({"observation": np.array(["1", "2"])}, "shape (2,), not <U1 of the shape (2,)"),
    "no observation": ({"observation": None}, "shape (2,), not None"),
    "reward as text": ({"reward": "1.0"}, "reward must be a number, not '1.0'"),
    "no reward": ({"reward": None}, "reward must be a number, not None"),
    "two rewards": ({"reward": np.ones(2)}, "reward must be a number, not float64 of the shape (2,)"),
    "success unknown": ({"success": float("nan")}, "success must be True or False, not nan"),
    "success as text": ({"success": "False"}, "success must be True or False, not 'False'"),
    "truncated is info": ({"truncated": {}}, "truncated must be True or False, not {}"),
    "terminated twice": ({"terminated": 2}, "terminated must be True or False, not 2"),
}


class Faulty(Environments):
    """Two tasks, the second of which is faulty from the third step on, or in `setup` or `close`."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.tasks = ("sound", "faulty")
        self.observation_size, self.action_size, self.horizon, self.num_goals = 2, 1, 10, 4
        if fault == "constructor exits":
            sys.exit(0)

    def setup(self):
        if self.fault == "setup raises":
            raise KeyError("x")
        if self.fault == "setup exits":
            sys.exit(0)
        if self.fault == "cannot be sent":
            self.function = lambda: 1
        other = Faulty()
        other.observation_size = 3
        return {"none": None, "number": 3, "other size": other}.get(self.fault, self)

    def make(self, task):
        return FaultyEnv(self.fault if self.tasks[task] == "faulty" else "")


class FaultyEnv:
    observation_size, action_size, horizon, num_goals = 2, 1, 10, 4

    def __init__(self, fault):
        self.fault, self.count = fault, 0

    def reset(self, goal):
        self.count = 0
        if self.fault == "reset exits":
            sys.exit(0)
        return np.zeros(3) if self.fault == "reset" else np.zeros(2)

    def step(self, action):
        self.count += 1
        right = {"observation": np.full(2, self.count / 10), "reward": 1.0, "terminated": False, "success": False}
        if self.count < 3:
            return EnvStep(**right)
        if self.fault == "step exits":
            sys.exit(0)
        if self.fault == "tuple":
            return right["observation"], 1.0, False, False, {}
        return EnvStep(**right | RETURNED.get(self.fault, [{}])[0])

    def camera(self, size):
        sys.exit(0)

    def get_state(self):
        held = {"object in state": object(), "lambda in state": lambda: 1, "number of numpy": np.float32(0.1)}
        return {"count": self.count, "held": [held.get(self.fault)]}

    def set_state(self, state):
        self.count = state["count"]
        if self.fault == "number of numpy":
            held = state["held"][0]
            assert (held, held.dtype) == (np.float32(0.1), np.float32)

    def close(self):
        if self.fault == "close":
            raise RuntimeError("the door\nis stuck")


class Old(gymnasium.Env):
    """Gymnasium's interface, or what was before it.

    Args:
        fault: "reset" returns no info, "info" is none, and so on; else a key of RETURNED.
    """

    observation_space, action_space = Box(-1, 1, (2,)), Box(-1, 1, (1,))

    def __init__(self, fault=""):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32) if self.fault == "reset" else (np.zeros(2, np.float32), {})

    def step(self, action):
        self.count += 1
        right = {"observation": np.zeros(2, np.float32), "reward": 1.0, "terminated": False, "truncated": False}
        found = right | RETURNED.get(self.fault, [{}])[0]
        success = found.pop("success", self.count > 2)
        return *found.values(), None if self.fault == "info" else {"won": success, "speed": 1.0}

    def close(self):
        if self.fault == "close":
            raise RuntimeError("stuck")


gymnasium.register("faulty/Old-v0", f"{__name__}:Old", max_episode_steps=10)
