"""An action that is held for several steps of its environment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import EnvStep, TaskEnv
from mtrl_conic.envs.returned import checked_step


def held(env: TaskEnv, action: NDArray[np.float32], steps: int) -> Iterator[EnvStep]:
    """The steps that one decision for `action` [A] consists of: so many, or fewer where the environment ends before."""
    shape = (env.observation_size,)
    for _ in range(steps):
        step = checked_step(env.step(action), shape)
        yield step
        if step.terminated or step.truncated:
            return
