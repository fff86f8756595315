"""Success of the deterministic policy on a fixed list of goals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl_conic.envs.vector import VectorEnv, VectorStep


@dataclass
class EvalConfig:
    """When and how long to evaluate."""

    every: int
    episodes: int
    final_episodes: int
    parallel: int = 1  # as in all versions before there was a choice
    terminate_on_success: bool = False

    @property
    def num_envs_per_task(self) -> int:
        """Environments of a task and seed: no more than `parallel`, nor than the least number of episodes keeps busy.

        As few of them as take no more turns.
        """
        episodes = min(self.episodes, self.final_episodes)
        turns = -(-episodes // self.parallel)
        return -(-episodes // turns)


class Evaluation(NamedTuple):
    """Means over the episodes of each seed and task.

    `success_rate` is the share of episodes with success at any step. Where the episodes are broken off there, it is
    the same, and `episode_return` ends there.
    """

    success_rate: NDArray[np.float64]  # [S, K]
    episode_return: NDArray[np.float64]  # [S, K]
    episodes: int  # per seed and task

    def lines(self, step: int, seeds: Sequence[int], tasks: Sequence[str]) -> list[dict[str, Any]]:
        """A record per seed, ready for JSON: what `evaluations.jsonl` holds, the time aside."""
        return [
            {
                "step": step,
                "seed": seed,
                "success_rate": float(self.success_rate[row].mean()),
                "success": dict(zip(tasks, self.success_rate[row].tolist(), strict=True)),
                "return": dict(zip(tasks, self.episode_return[row].tolist(), strict=True)),
                "episodes": self.episodes,
            }
            for row, seed in enumerate(seeds)
        ]


class Interrupted(Exception):
    """The run is asked to stop."""


def _ignore(action: NDArray[np.float32], step: VectorStep) -> None:
    """Nobody watches."""


def evaluate(
    act: Callable[[Tensor], Tensor],
    envs: VectorEnv,
    episodes: int,
    device: torch.device | str = "cpu",
    should_stop: Callable[[], bool] = lambda: False,
    watch: Callable[[NDArray[np.float32], VectorStep], None] = _ignore,
) -> Evaluation:
    """Play `episodes` episodes of each seed and task, on goals 0, 1, ... in turn.

    Args:
        act: deterministic policy, observations [S, K, N, O] → actions [S, K, N, A].
        envs: N environments per seed and task, which play N episodes at a time, `goals="in_turn"`; they are reset
            first.
        should_stop: asked at every step.
        watch: told each step's actions [S, K, N, A] and what came of them.

    Raises:
        Interrupted: `should_stop` said so; nothing was measured.
        WorkerError: an environment failed.
    """
    played, successes, returns = (np.zeros(envs.shape) for _ in range(3))
    observation = envs.reset(episodes)  # none plays more than its share of them
    while (played.sum(2) < episodes).any():
        if should_stop():
            raise Interrupted
        action = act(torch.from_numpy(observation).to(device)).cpu().numpy()
        step = envs.step(action)
        watch(action, step)
        ended = step.terminated | step.truncated
        played += ended
        successes += ended & step.success
        returns += np.where(ended, step.episode_return, 0)
        observation = step.observation
    return Evaluation(successes.sum(2) / episodes, returns.sum(2) / episodes, episodes)
