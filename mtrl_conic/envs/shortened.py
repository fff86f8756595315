"""Environments whose episodes are broken off earlier than their own horizon, for training."""

from __future__ import annotations

from dataclasses import dataclass

from mtrl_conic.envs.base import EnvSpec, TaskEnv


@dataclass(frozen=True, eq=False)
class Shortened:
    """Those of a spec with episodes of at most `horizon` steps; an `EnvSpec`.

    Such an episode is truncated, not terminated: its last observation has a value as any other.

    Args:
        spec: builds the environments.
        horizon: at most the spec's own.
    """

    spec: EnvSpec
    horizon: int

    def __post_init__(self) -> None:
        if not 1 <= self.horizon <= self.spec.horizon:
            raise ValueError(f"horizon must be from 1 to {self.spec.horizon}, not {self.horizon}")

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.spec.tasks

    @property
    def observation_size(self) -> int:
        return self.spec.observation_size

    @property
    def action_size(self) -> int:
        return self.spec.action_size

    @property
    def num_goals(self) -> int:
        return self.spec.num_goals

    def make(self, task: int) -> TaskEnv:
        """Build the environment of task number `task`."""
        env = self.spec.make(task)
        env.horizon = min(env.horizon, self.horizon)
        return env
