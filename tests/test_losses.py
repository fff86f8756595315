"""The losses against torch.distributions and against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from mtrl_conic.agents.losses import (
    actor_losses,
    critic_losses,
    squashed_gaussian,
    td_target,
    temperature_losses,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_squashed_gaussian_density():
    outputs, noise = 0.5 * draw(2, 3, 4, 10), draw(2, 3, 4, 5, seed=1)
    action, log_prob = squashed_gaussian(outputs, noise)
    mean, log_std = outputs.chunk(2, -1)
    raw = mean + log_std.exp() * noise
    torch.testing.assert_close(action, raw.tanh())
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    torch.testing.assert_close(log_prob, squashed.log_prob(action).sum(-1))


def test_squashed_gaussian_is_finite_where_tanh_saturates():
    outputs = torch.tensor([[[[40.0, -30.0, 2.0, 2.0]]]], requires_grad=True)
    action, log_prob = squashed_gaussian(outputs, torch.zeros(1, 1, 1, 2))
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(outputs.grad).all()
    assert (action.abs() <= 1).all()


def test_truncated_episodes_bootstrap_and_terminated_ones_do_not():
    reward, value, log_prob = (torch.full((1, 2, 1), number) for number in (1.0, 10.0, -2.0))
    terminated = torch.tensor([[[0.0], [1.0]]])
    target = td_target(reward, terminated, value, log_prob, torch.full((1, 2), 0.5), discount=0.9)
    torch.testing.assert_close(target.flatten(), torch.tensor([1 + 0.9 * 11, 1.0]))


def test_losses_are_means_a_seed_and_task():
    values, target = draw(2, 2, 3, 4), draw(2, 3, 4, seed=1)
    expected = sum((values[e, 1, 2, b] - target[1, 2, b]) ** 2 for e in range(2) for b in range(4)) / 8
    assert critic_losses(values, target)[1, 2] == pytest.approx(float(expected))
    log_prob, temperature = draw(2, 3, 4, seed=2), draw(2, 3, seed=3).exp()
    expected = sum(temperature[1, 0] * log_prob[1, 0, b] - target[1, 0, b] for b in range(4)) / 4
    assert actor_losses(log_prob, target, temperature)[1, 0] == pytest.approx(float(expected))


def test_temperature_rises_where_entropy_is_below_its_target():
    log_temperature = torch.zeros(1, 2, requires_grad=True)
    log_prob = torch.tensor([[[5.0, 7.0], [-5.0, -7.0]]])  # entropies -6 and 6, target -4
    temperature_losses(log_temperature, log_prob, target_entropy=-4.0).sum().backward()
    gradient = log_temperature.grad
    assert gradient[0, 0] < 0 < gradient[0, 1]
    assert math.isclose(gradient[0, 0], -2.0, abs_tol=1e-6)
