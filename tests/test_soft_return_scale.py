"""The scale of BRC's rewards against a slow reference, episode by episode."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from resuming import assert_same_state

from mtrl_conic.agents.protocol import Transition
from mtrl_conic.agents.reward_scales import SoftReturnScale

S, K, B = 2, 3, 8


def slow_largest(rewards, flags, discount):
    """The largest absolute return of all steps of the episodes that have ended; flags: whether there, whether cut."""
    largest, episode = 0.0, []
    for reward, (ended, truncated) in zip(rewards, flags, strict=True):
        episode.append(reward)
        if ended:
            value = np.mean(episode) / (1 - discount) if truncated else 0.0
            for each in reversed(episode):
                value = each + discount * value
                largest = max(largest, abs(value))
            episode = []
    return largest


class Fixed:
    """Temperatures of a seed that are given."""

    def __init__(self, values, target_entropy):
        self.log, self.target_entropy = torch.tensor(values).log(), target_entropy


def observed(scale, steps, seed=0):
    """Rewards [S, K, N] of so many steps, and what ended with them."""
    generator = torch.Generator().manual_seed(seed)
    nothing, seen = torch.zeros(S, K, 2, 0), []
    for step in range(steps):
        reward = torch.randn(S, K, 2, generator=generator) - 1.0
        chance = torch.rand(S, K, 2, generator=generator)
        terminated, truncated = (chance < 0.03).float(), (chance > 0.95).float()
        if step == steps - 1:
            truncated = 1 - terminated
        scale.observe(Transition(nothing, nothing, reward, nothing, terminated, truncated))
        seen.append((reward, terminated, truncated))
    return seen


def expected_largest(seen, discount):
    largest = torch.zeros(S, K)
    for s, k, n in np.ndindex(S, K, 2):
        rewards = [float(reward[s, k, n]) for reward, _, _ in seen]
        flags = [(bool(one[s, k, n] or other[s, k, n]), bool(other[s, k, n])) for _, one, other in seen]
        largest[s, k] = max(largest[s, k], slow_largest(rewards, flags, discount))
    return largest


def test_rewards_are_scaled_by_the_largest_return_and_what_entropy_is_worth():
    discount, alpha = 0.9, torch.tensor([[0.2] * K, [0.7] * K])
    scale = SoftReturnScale((S, K, 2), discount, 10.0, Fixed(alpha.tolist(), -3.0))
    torch.testing.assert_close(scale(torch.ones(S, K, B))[..., 0], 10 / (alpha * 3 / 0.2))  # before any episode ended
    seen = observed(scale, 180)  # the places of returns are used anew: there are 66
    expected = 10 / (expected_largest(seen, discount) + alpha * 3 / (2 * (1 - discount)))
    torch.testing.assert_close(scale(torch.ones(S, K, B)), expected.unsqueeze(-1).expand(S, K, B), rtol=1e-4, atol=0)


def test_returns_of_long_episodes_are_complete_but_for_a_thousandth():
    scale, nothing = SoftReturnScale((1, 1, 1), 0.9, 1.0, Fixed([[1.0]], 0.0)), torch.zeros(1, 1, 1, 0)
    none, one = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    for step in range(400):
        reward = torch.full((1, 1, 1), 5.0 if step < 150 else 0.1)
        scale.observe(Transition(nothing, nothing, reward, nothing, none, one if step == 399 else none))
    assert 1 / scale(torch.ones(1, 1, 1)).item() == pytest.approx(50, rel=1.1e-3)


def test_what_the_scale_has_seen_is_saved():
    temperatures = Fixed([[0.2] * K, [0.7] * K], -3.0)
    scale, again = (SoftReturnScale((S, K, 2), 0.9, 10.0, temperatures) for _ in range(2))
    observed(scale, 77)
    again.load_state_dict(copy.deepcopy(scale.state_dict()))
    for each in (scale, again):
        observed(each, 77, seed=1)
    assert_same_state(again.state_dict(), scale.state_dict())
