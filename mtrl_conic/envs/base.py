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
    truncated: bool = False  # the environment itself breaks the episode off, before the vector does at `horizon`


class TaskEnv(Protocol):
    """An environment of one task with a finite list of goals.

    It knows nothing of other tasks, and of random numbers only what a goal's number says: the vector draws the goal,
    counts the steps and truncates the episode after `horizon` of them. An environment that can be drawn also has
    `camera(size)`, which gives a `Camera`; one that may have something to say to the user has `remarks()`, a list of
    lines that is asked for after each evaluation.
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
        """All that the rest of the episode depends on, also in mid-episode; None where it cannot be stored."""

    def set_state(self, state: State) -> None:
        """Continue from a state of `get_state`, bit for bit, also in a fresh process."""

    def close(self) -> None:
        """Release what the environment holds."""


class Camera(Protocol):
    """Draws an environment for a video."""

    every: int  # steps from one picture to the next
    frames_per_second: int

    def __call__(self, step: EnvStep, /) -> NDArray[np.uint8]:
        """The picture [size, size, 3] after a step."""


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
    def horizon(self) -> int:
        """Steps of the longest episodes; those of a task may be shorter."""

    @property
    def num_goals(self) -> int: ...

    def make(self, task: int) -> TaskEnv:
        """Build the environment of task number `task`."""
