"""An action that is held for several steps of its environment."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import EnvStep, TaskEnv


def held(env: TaskEnv, action: NDArray[np.float32], steps: int) -> Iterator[EnvStep]:
    """The steps that one decision for `action` [A] consists of: so many, or fewer where the environment ends before."""
    for _ in range(steps):
        step = env.step(action)
        yield step
        if step.terminated or step.truncated:
            return
