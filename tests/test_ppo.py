"""The parts of PPO against independent references; `test_agents.py` has what every agent must do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import Independent, Normal
from torch.utils._pytree import tree_leaves

from mtrl_conic.agents.normalisation import PopArt, RunningMoments
from mtrl_conic.agents.ppo_losses import (
    clipped_losses,
    gaussian_entropy,
    gaussian_log_prob,
    gaussian_sample,
    generalized_advantages,
    policy_shift,
)
from mtrl_conic.agents.protocol import Setting, Transition
from mtrl_conic.agents.rollout import Minibatches
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.system.streams import SeedStreams

S, K, T, N = 2, 3, 7, 2


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_densities_and_entropies_are_those_of_torch():
    action, mean, log_std = normals(S, K, 5, 4), normals(S, K, 5, 4, seed=1), normals(S, K, 1, 4, seed=2)
    expected = Independent(Normal(mean, log_std.exp().expand_as(mean)), 1)
    torch.testing.assert_close(gaussian_log_prob(action, mean, log_std), expected.log_prob(action))
    torch.testing.assert_close(gaussian_entropy(log_std).expand(S, K, 5), expected.entropy())


@pytest.mark.parametrize("trace", [0.0, 0.9, 1.0])
def test_advantages_are_sums_of_discounted_surprises_within_an_episode(trace):
    reward, value, following = normals(S, K, T, N), normals(S, K, T, N, seed=1), normals(S, K, T, N, seed=2)
    draws = torch.rand(S, K, T, N, generator=torch.Generator().manual_seed(3))
    terminated, ended = (draws < 0.2).double(), (draws < 0.4).double()
    found = generalized_advantages(reward, value, following, terminated, ended, 0.95, trace)
    for s, k, n in ((0, 0, 0), (1, 2, 1), (0, 1, 1)):
        for start in range(T):
            total, share = 0.0, 1.0
            for t in range(start, T):
                at = (s, k, t, n)
                after = 0.0 if terminated[at] else 0.95 * following[at]
                total += share * (reward[at] + after - value[at])
                if ended[at]:
                    break
                share *= 0.95 * trace
            assert found[s, k, start, n].item() == pytest.approx(float(total), abs=1e-12)


def test_a_time_limit_cuts_the_trace_and_not_the_value():
    one = torch.ones(1, 1, 1, 1)
    cut = generalized_advantages(one, 0 * one, 10 * one, 0 * one, one, 0.5, 0.9)
    terminated = generalized_advantages(one, 0 * one, 10 * one, one, one, 0.5, 0.9)
    assert (cut.item(), terminated.item()) == (6.0, 1.0)


def test_the_surrogate_stops_where_the_ratio_has_gone_far_enough():
    old = torch.zeros(1, 1, 4, dtype=torch.float64)
    ratio = torch.tensor([[[1.5, 0.5, 1.5, 0.5]]], dtype=torch.float64)
    advantage = torch.tensor([[[1.0, 1.0, -1.0, -1.0]]], dtype=torch.float64)
    log_prob = ratio.log().requires_grad_()
    losses = clipped_losses(log_prob, old, advantage, 0.2)
    assert losses.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    (gradient,) = torch.autograd.grad(losses.sum(), log_prob)
    assert (gradient != 0).flatten().tolist() == [False, True, True, False]
    divergence, clipped = policy_shift(log_prob.detach(), old, 0.2)
    assert divergence.item() == pytest.approx(float((ratio - 1 - ratio.log()).mean()))
    assert clipped.item() == 1.0


def test_running_moments_are_those_of_all_rows():
    moments = RunningMoments(Setting(range(S), K, 4, 1), limit=1e6)
    pieces = [3 * normals(S, K, count, 4, seed=count) + 5 for count in (3, 10, 1)]
    for piece in pieces:
        moments.update(piece, torch.zeros(S))
    rows = torch.cat(pieces, 2)
    torch.testing.assert_close(moments.mean, rows.mean(2))
    torch.testing.assert_close(moments.variance, rows.var(2, correction=0))
    expected = (rows - rows.mean(2, keepdim=True)) / rows.std(2, correction=0, keepdim=True)
    torch.testing.assert_close(moments.normalise(rows).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        moments.normalise(rows[:, [2, 0]], [2, 0]).double(), expected[:, [2, 0]], rtol=1e-5, atol=1e-5
    )
    before = moments.mean.clone()
    moments.update(pieces[0], torch.tensor([0.0, 1.0]))
    assert torch.equal(moments.mean[1], before[1])
    assert not torch.equal(moments.mean[0], before[0])


def test_popart_keeps_what_the_head_predicts():
    popart = PopArt((S, K), step=0.3)
    features, weight, bias = normals(S, K, 6, 5).float(), normals(S, K, 1, 5, seed=1).float(), normals(S, K, 1).float()

    def predicted():
        return popart.restore((features @ weight.mT).squeeze(-1) + bias)

    for seed in range(3):
        before = predicted()
        returns = 40 * normals(S, K, 50, seed=seed).float() + 100
        popart.update(returns, weight, bias, torch.zeros(S))
        torch.testing.assert_close(predicted(), before, rtol=1e-4, atol=1e-3)
        if seed == 0:
            torch.testing.assert_close(popart.mean, returns.mean(-1))
            torch.testing.assert_close(popart.std, returns.std(-1, correction=0))
    broken = returns.clone()
    broken[1, 0, 0] = torch.nan
    before = popart.mean.clone()
    popart.update(broken, weight, bias, torch.zeros(S))
    assert torch.equal(popart.mean[1], before[1])
    assert bool(torch.isfinite(weight).all())


def test_samples_have_their_own_density():
    noise, mean = torch.randn(2, S, K, 5, 4, dtype=torch.float64)
    log_std = torch.randn(S, K, 1, 4, dtype=torch.float64)
    action, log_prob = gaussian_sample(noise, mean, log_std)
    torch.testing.assert_close(action, mean + noise * log_std.exp())
    torch.testing.assert_close(log_prob, gaussian_log_prob(action, mean, log_std))


def test_minibatches_show_every_row_once_per_pass():
    count, passes = 12, 3
    batches = Minibatches((S, K), count, (1, 2), passes, 4, SeedStreams([0, 5], "minibatches"))
    rows = torch.arange(S * K * count, dtype=torch.float32).view(S, K, count, 1)
    batches.fill(rows, torch.cat((rows, -rows), -1))
    orders = []
    for _ in range(passes):
        taken = [batches.take() for _ in range(4)]
        assert all(one.shape == (S, K, 3, 1) and torch.equal(two[..., :1], one) for one, two in taken)
        order = torch.cat([one for one, _ in taken], 2)
        assert torch.equal(order.sort(2).values, rows)
        orders.append(order)
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0][0, 0] - orders[0][0, 0].min(), orders[0][1, 0] - orders[0][1, 0].min())


def test_a_rollout_that_cannot_be_parted_is_refused():
    with pytest.raises(ConfigError, match=r"^agent\.minibatches must divide the 256 steps per task .* not 7$"):
        compose_config(["env=toy", "agent=mtmhppo", "agent.minibatches=7"])


@pytest.mark.parametrize("diverging", ["none", "critic", "actor"])
@pytest.mark.parametrize("combiner", ["ls", "conicgrad"])
def test_networks_learn_the_same_side_by_side_and_one_after_the_other(combiner, diverging):
    settings = ["agent=mtmhppo", "agent.rollout_steps=8", "agent.minibatches=4", "agent.epochs=2"]
    config = compose_config(["env=toy", "env.num_envs_per_task=2", f"combiner={combiner}", "device=cpu", *settings])
    setting = replace(config.setting(), seeds=[0, 3])
    states = []
    for threads in (1, 2):
        agent, draws = config.make_agent(), torch.Generator().manual_seed(0)
        agent.setup(setting)
        for step in range(16):
            observation, reached = (torch.randn(2, 3, 2, 6, generator=draws) for _ in range(2))
            action, reward = agent.explore(observation), torch.randn(2, 3, 2, generator=draws)
            agent.observe(Transition(observation, action, reward, reached, 0 * reward, 0 * reward))
            for _ in range(agent.updates_due()):
                if step == 15 and diverging != "none":
                    getattr(agent, diverging).params[1, 0] = torch.nan
                torch.set_num_threads(threads)
                agent.update()
                torch.set_num_threads(1)
        states.append(agent.state_dict())
    assert states[0]["health"]["halted"].tolist() == [0, int(diverging != "none")]
    one, other = (tree_leaves(state) for state in states)
    for left, right in zip(one, other, strict=True):
        same = torch.equal(left.nan_to_num(), right.nan_to_num()) if isinstance(left, torch.Tensor) else left == right
        assert same
