"""Success of the deterministic policy on a fixed list of goals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl_conic.envs.vector import VectorEnv, VectorStep


class Evaluation(NamedTuple):
    """Means over the episodes of each seed and task.

    `success_rate` is the share of episodes with success at any step.
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
        act: deterministic policy, observations [S, K, 1, O] → actions [S, K, 1, A].
        envs: one environment per seed and task, `goals="in_turn"`; they are reset first.
        should_stop: asked at every step.
        watch: told each step's actions [S, K, 1, A] and what came of them.

    Raises:
        Interrupted: `should_stop` said so; nothing was measured.
        WorkerError: an environment failed.
    """
    num_seeds, num_tasks, _ = envs.shape
    played = np.zeros((num_seeds, num_tasks, 1), dtype=int)
    successes, returns = np.zeros(played.shape), np.zeros(played.shape)
    observation = envs.reset()
    while played.min() < episodes:
        if should_stop():
            raise Interrupted
        action = act(torch.from_numpy(observation).to(device)).cpu().numpy()
        step = envs.step(action)
        watch(action, step)
        ended = (step.terminated | step.truncated) & (played < episodes)
        successes += ended & step.success
        returns += np.where(ended, step.episode_return, 0)
        played += ended
        observation = step.observation
    return Evaluation(successes[..., 0] / episodes, returns[..., 0] / episodes, episodes)
