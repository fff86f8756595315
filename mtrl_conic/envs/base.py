"""What one task environment offers to the vector that steps it."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

# Nested dicts, lists and tuples of numpy arrays, str, int, float, bool and None: what a checkpoint may hold.
State = Any


class EnvStep(NamedTuple):
    """One transition of one environment."""

    observation: NDArray[np.float64]  # [O], the true next observation
    reward: float
    terminated: bool
    success: bool  # of this step, not of the episode


class TaskEnv(Protocol):
    """An environment of one task with a finite list of goals.

    It knows nothing of time limits, of other tasks and of random numbers: the vector draws the goal, counts
    the steps and truncates the episode after `horizon` of them.
    """

    observation_size: int
    action_size: int
    horizon: int
    num_goals: int

    def reset(self, goal: int) -> NDArray[np.float64]:
        """Start an episode with goal number `goal` (0 ≤ goal < num_goals); return the observation [O]."""

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Apply an action [A] with entries in [-1, 1]."""

    def get_state(self) -> State:
        """All that the rest of the episode depends on, also in mid-episode."""

    def set_state(self, state: State) -> None:
        """Continue from a state of `get_state`, bit for bit, also in a fresh process."""

    def close(self) -> None:
        """Release what the environment holds."""


class EnvSpec(Protocol):
    """What the vector needs to build its environments: picklable, built once and sent to every worker."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the K tasks, in order."""

    @property
    def observation_size(self) -> int: ...

    @property
    def action_size(self) -> int: ...

    @property
    def horizon(self) -> int: ...

    @property
    def num_goals(self) -> int: ...

    def make(self, task: int) -> TaskEnv:
        """Build the environment of task number `task`."""
