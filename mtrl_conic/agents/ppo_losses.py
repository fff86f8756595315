"""Losses of proximal policy optimization, per seed and task: pure functions of tensors [S, K, ...].

Sources: Schulman et al., "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), and "High-Dimensional
Continuous Control Using Generalized Advantage Estimation" (arXiv 1506.02438).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.system.seedwise import by_seed, mean_of_rows

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density in nats [...] of actions [..., A] under Normal(mean, std); `log_std` broadcasts."""
    scaled = (action - mean) * (-log_std).exp()
    return (-0.5 * scaled.square() - log_std - _HALF_LOG_2PI).sum(-1)


def gaussian_sample(noise: Tensor, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    """Actions mean + std · noise [..., A] for standard normal noise, and their log-densities [...] in nats."""
    log_prob = torch.sub((log_std + _HALF_LOG_2PI).sum(-1).neg(), noise.square().sum(-1), alpha=0.5)
    return torch.addcmul(mean, noise, log_std.exp()), log_prob


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy in nats [...] of normal distributions with log standard deviations [..., A]."""
    return (log_std + 0.5 + _HALF_LOG_2PI).sum(-1)


def generalized_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    discount: float,
    trace: float,
) -> Tensor:
    """Generalized advantage estimates (arXiv 1506.02438, equation 16) along the axis of time.

    An episode that is `terminated` has no value beyond; one that the clock cut off has that of its true last
    observation. Neither lends its advantages to the episode after it.

    Args:
        reward: [S, K, T, N], as all the others.
        value: of the observations.
        next_value: of the next observations, of the same episode also where it ends.
        terminated: 1 where the task ended the episode.
        ended: 1 where anything did.
        discount: γ.
        trace: λ.

    Returns:
        [S, K, T, N].
    """
    surprise = reward + discount * (1 - terminated) * next_value - value
    kept = discount * trace * (1 - ended)
    advantage, later = torch.empty_like(surprise), torch.zeros_like(surprise[:, :, 0])
    for time in reversed(range(surprise.shape[2])):
        later = surprise[:, :, time] + kept[:, :, time] * later
        advantage[:, :, time] = later
    return advantage


def normalised(advantage: Tensor, over: str) -> Tensor:
    """Advantages [S, K, B] less their mean and over their deviation: per "task", over "all" tasks, or "none" of it."""
    if over == "none":
        return advantage
    how: dict[str, Any] = {"dim": (2,) if over == "task" else (1, 2), "correction": 0, "keepdim": True}
    std, mean = by_seed(partial(torch.std_mean, **how), advantage)
    return (advantage - mean) / (std + 1e-8)


def clipped_losses(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped surrogate to be minimised (arXiv 1707.06347, equation 7): arguments [S, K, B] → [S, K]."""
    ratio = (log_prob - old_log_prob).exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    return -mean_of_rows(torch.minimum(ratio * advantage, bounded * advantage))


def policy_shift(log_prob: Tensor, old_log_prob: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """How far the policy has moved: arguments [S, K, B] → KL divergence in nats and share of clipped ratios, [S, K].

    The divergence of the old policy from the new one is estimated by (r - 1) - log r, which is never negative.
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    divergence = mean_of_rows(ratio - 1 - log_ratio)
    clipped = mean_of_rows(((ratio - 1).abs() > clip).to(ratio.dtype))
    return divergence, clipped
