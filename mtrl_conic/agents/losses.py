"""Soft actor-critic losses, one per seed and task: pure functions of tensors [S, K, B].

Source: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905), with one temperature
per task as in multi-task SAC (Meta-World, arXiv 1910.10897).
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from mtrl_conic.system.seedwise import by_seed, mean_of_rows

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def squashed_gaussian(outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A reparameterised action and its log-density under tanh(Normal(mean, std)).

    Args:
        outputs: [S, K, B, 2A], mean and log standard deviation of the policy head.
        noise: [S, K, B, A], standard normal.

    Returns:
        action [S, K, B, A] in (-1, 1), log_prob [S, K, B] in nats.
    """
    mean, log_std = outputs.chunk(2, dim=-1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(u)²) = 2 (log 2 - u - softplus(-2u)), exact where tanh saturates
    correction = 2 * (math.log(2) - raw - by_seed(F.softplus, -2 * raw))
    log_prob = -(0.5 * noise.square() + log_std + _HALF_LOG_2PI + correction).sum(-1)
    return raw.tanh(), log_prob


def td_target(
    reward: Tensor,
    terminated: Tensor,
    next_value: Tensor,
    next_log_prob: Tensor,
    temperature: Tensor,
    discount: float,
) -> Tensor:
    """The soft Bellman target r + γ (1 - terminated) (min Q' - α log π'), arguments [S, K, B], temperature [S, K].

    A truncated episode goes on for the value function: only `terminated` stops the bootstrap.
    """
    soft_value = next_value - temperature.unsqueeze(-1) * next_log_prob
    return reward + discount * (1 - terminated) * soft_value


def critic_losses(values: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the ensemble and the batch: values [E, S, K, B], target [S, K, B] → [S, K]."""
    return (values - target).square().mean(-1).mean(0)


def actor_losses(log_prob: Tensor, value: Tensor, temperature: Tensor) -> Tensor:
    """Mean of α log π - min Q: log_prob and value [S, K, B], temperature [S, K] → [S, K]."""
    return mean_of_rows(temperature.unsqueeze(-1) * log_prob - value)


def temperature_losses(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """-log α · mean(log π + target entropy): log_temperature [S, K], log_prob [S, K, B] → [S, K]."""
    return -log_temperature * (mean_of_rows(log_prob) + target_entropy)


def linear_temperature_losses(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """-α · mean(log π + target entropy), whose gradient by log α is α times that of `temperature_losses`.

    Linear in α, as in arXiv 1812.05905 and in the code base MTRL: log_temperature [S, K], log_prob [S, K, B]
    → [S, K].
    """
    return -log_temperature.exp() * (log_prob.mean(-1) + target_entropy)


def temperature_weights(log_temperature: Tensor) -> Tensor:
    """Weights of the tasks' losses, K softmax(-log α): those of tasks whose policies are sure count more.

    As in the public code of Soft Modularization; its paper (arXiv 2003.13661) has softmax(-α).

    Args:
        log_temperature: [S, K].

    Returns:
        [S, K], of mean 1 in each seed, without a gradient.
    """
    return log_temperature.shape[-1] * (-log_temperature.detach()).softmax(-1)
