"""What critics predict and in what units, against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtrl_conic.agents.critic_heads import BoundedHead, CategoricalHead, ScalarHead
from mtrl_conic.agents.protocol import Transition
from mtrl_conic.agents.reward_scales import DeviationScale, ReturnScale
from mtrl_conic.settings.compose import compose_config

E, S, K, B = 2, 3, 2, 5


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_scalar_head_is_the_squared_error():
    outputs, target = normals(E, S, K, B, 1), normals(S, K, B, seed=1)
    head = ScalarHead()
    assert torch.equal(head.values(outputs), outputs[..., 0])
    expected = torch.stack([(one[..., 0] - target).square().mean(-1) for one in outputs]).mean(0)
    torch.testing.assert_close(head.losses(outputs, target), expected)


def test_targets_of_a_bounded_head_are_near_the_limit_at_most():
    head, outputs = BoundedHead(limit=4.0), 20 * normals(E, S, K, B, 1)

    def backup(value):
        return 1 + 0.9 * value

    target, free = head.target(outputs, backup), ScalarHead().target(outputs, backup)
    torch.testing.assert_close(free, 1 + 0.9 * outputs[..., 0].min(0).values)
    assert torch.equal(target, free.clamp(-5, 5))
    assert (free > 5).any()
    assert (free < -5).any()
    assert torch.equal(head.losses(outputs, target), ScalarHead().losses(outputs, target))


def test_shares_of_two_neighbours_have_the_target_as_their_mean():
    head = CategoricalHead(num_bins=9, limit=2.0)
    target = torch.linspace(-2, 2, 37, dtype=torch.float64)
    shares = head.shares(target)
    assert ((shares > 1e-12).sum(-1) <= 2).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones_like(target))
    torch.testing.assert_close(head.values(shares.clamp_min(1e-300).log()), target, atol=1e-9, rtol=0)
    torch.testing.assert_close(head.shares(torch.tensor([-7.0, 7.0]))[:, [0, -1]], torch.eye(2))


def test_a_categorical_head_is_the_cross_entropy_of_torch():
    head = CategoricalHead(num_bins=9, limit=2.0)
    outputs, target = normals(E, S, K, B, 9), normals(S, K, B, seed=1)
    losses = head.losses(outputs, target)
    shares = head.shares(target).expand(E, S, K, B, 9)
    expected = torch.nn.functional.cross_entropy(outputs.flatten(0, 3), shares.flatten(0, 3), reduction="none")
    torch.testing.assert_close(losses, expected.view(E, S, K, B).mean((0, 3)))


def test_a_categorical_head_learns_the_target():
    head, target = CategoricalHead(num_bins=51, limit=5.0), 3 * normals(1, 1, B).clamp(-1, 1)
    logits = torch.zeros(1, 1, 1, B, 51, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.5)
    for _ in range(300):
        optimizer.zero_grad()
        head.losses(logits, target).sum().backward()
        optimizer.step()
    torch.testing.assert_close(head.values(logits.detach())[0], target, atol=0.05, rtol=0)


def test_rewards_are_scaled_by_the_largest_return_of_their_task():
    scale, running = ReturnScale((1, 2, 1), discount=0.5, limit=10.0), torch.zeros(2)
    largest, nothing = torch.zeros(2), torch.zeros(1, 2, 1, 0)
    for step in range(9):
        reward = torch.tensor([1.0, -40.0 if step < 5 else 1.0])
        ended = float(step % 4 == 3)
        running = 0.5 * running + reward
        largest = torch.maximum(largest, running.abs())
        flags = torch.full((1, 2, 1), ended)
        scale.observe(Transition(nothing, nothing, reward.view(1, 2, 1), nothing, 0 * flags, flags))
        running *= 1 - ended
    found = scale(torch.ones(1, 2, 3))
    torch.testing.assert_close(found[0, :, 0], 10 / largest)
    again = ReturnScale((1, 2, 1), discount=0.5, limit=10.0)
    again.load_state_dict(scale.state_dict())
    assert torch.equal(again(torch.ones(1, 2, 3)), found)


def test_rewards_are_scaled_by_the_running_deviation_of_their_task():
    scale, nothing = DeviationScale((1, 2), step=0.1), torch.zeros(1, 2, 3, 0)
    rewards = np.random.default_rng(0).normal([[[1.0], [-30.0]]], [[[2.0], [50.0]]], (40, 2, 3))
    wanted = []
    for task in range(2):
        mean, variance = 0.0, 1.0
        for reward in rewards[:, task].ravel():
            mean = 0.9 * mean + 0.1 * reward
            variance = 0.9 * variance + 0.1 * (reward - mean) ** 2
        wanted.append(1 / np.sqrt(variance))
    for reward in torch.from_numpy(rewards).float():
        flags = torch.ones(1, 2, 3)
        scale.observe(Transition(nothing, nothing, reward[None], nothing, flags, flags))
    again = DeviationScale((1, 2))
    again.load_state_dict(scale.state_dict())
    for each in (scale, again):
        np.testing.assert_allclose(each(torch.ones(1, 2, 1)).flatten(), wanted, rtol=1e-5)


@pytest.mark.parametrize("setting", ["critic_head=two", "value_bins=1", "value_limit=0", "normalise_returns=3"])
def test_what_cannot_be_is_refused(setting):
    with pytest.raises(ValueError, match=rf"^agent\.{setting.partition('=')[0]} must be .*, not "):
        compose_config(["env=toy", f"agent.{setting}"])
