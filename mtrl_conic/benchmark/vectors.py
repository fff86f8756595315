"""The bare vector of a run: its environments with nobody who learns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.vector import VectorEnv

_OFTEN = 8  # times as many draws as goals: of 3,000 goals one has not come by then


def reset_warm(envs: VectorEnv, workers: int) -> NDArray[np.float32]:
    """Have nearly all goals simulated, which a worker does at the first reset to each; the observations to act on.

    Args:
        envs: whose goals are random.
        workers: of the vector; each draws for its own environments of a task.
    """
    of_a_worker = max(envs.shape[0] * envs.shape[2] // max(workers, 1), 1)
    for _ in range(-(-_OFTEN * envs.spec.num_goals // of_a_worker)):
        observation = envs.reset()
    return observation


class RandomSteps:
    """Steps of a vector with random actions, which are new at each step.

    Args:
        envs: the vector, reset.
        steps: how many of its steps a call makes.
    """

    def __init__(self, envs: VectorEnv, steps: int) -> None:
        self._envs, self._steps = envs, steps
        self._shape = (*envs.shape, envs.spec.action_size)
        self._generator = np.random.default_rng(0)

    def __call__(self) -> None:
        for _ in range(self._steps):
            drawn = self._generator.random(self._shape, dtype=np.float32)
            self._envs.step(2 * drawn - 1)
