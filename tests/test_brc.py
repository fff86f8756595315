"""What BRC adds to SAC, each part against a reference that is slow and plain."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from meta_device import OneDevice, update_and_act
from resuming import COMBINERS, assert_same_state
from test_capture import Quiet, RecordedOnTheHost, updates
from test_networks import PLAIN

from mtrl_conic.agents.brc import BRC
from mtrl_conic.agents.critic_heads import DistributionalHead
from mtrl_conic.agents.losses import squashed_gaussian, td_target
from mtrl_conic.agents.protocol import Setting, Transition
from mtrl_conic.agents.replay import Batch
from mtrl_conic.agents.squashed import BoundedStd
from mtrl_conic.networks import layers
from mtrl_conic.networks.residual import Residual
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.training.device_steps import device_steps

E, S, K, B, O, A, D = 2, 2, 3, 8, 5, 2, 4
VECTORS = "embedding.vectors"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(combiner="ls", device="cpu", dtype=torch.float64, seeds=(3, 5), **settings):
    sizes = {"embedding_size": D, "warmup_steps": 0, "capacity_per_task": 100, "batch_size_per_task": B}
    agent = BRC(Residual(7, 1), Residual(8), value_bins=11, **(sizes | settings))
    config = compose_config(["env=toy", f"combiner={combiner}"])
    setting = Setting(list(seeds), K, O, A, make_combiner=config.make_combiner, device=device, dtype=dtype)
    agent.setup(setting)
    rows = torch.randn(2, K, 100, 2 * O + A + 2, generator=torch.Generator().manual_seed(0))
    rows[..., -1] = 0
    agent.memory.write_rows(0, rows[: len(seeds)].to(device))
    return agent


def batch_of():
    return Batch(draw(S, K, B, O), draw(S, K, B, A, seed=1).tanh(), draw(S, K, B), draw(S, K, B, O, seed=2), ends())


def ends():
    return (draw(S, K, B, seed=3) > 0.5).double()


# The target distribution


def slow_projection(probabilities, atoms, reward, mask, discount, entropy):
    """Each atom's probability to where it moves, atom by atom (C51 with entropy)."""
    found, step, limit = np.zeros(len(atoms)), atoms[1] - atoms[0], atoms[-1]
    for probability, atom in zip(probabilities, atoms, strict=True):
        moved = min(max(reward + discount * mask * (atom + entropy), -limit), limit)
        place = (moved + limit) / step
        low = min(math.floor(place), len(atoms) - 2)
        found[low] += probability * (low + 1 - place)
        found[low + 1] += probability * (place - low)
    return found


@pytest.mark.parametrize("reward_size", [0.1, 3.0, 100.0])
def test_the_target_is_the_projected_mean_of_the_critics(reward_size):
    head, discount = DistributionalHead(num_bins=9, limit=2.0), 0.9
    outputs, temperature = 3 * draw(E, S, K, B, 9), draw(S, K, seed=1).exp()
    reward, log_prob, ended = reward_size * draw(S, K, B, seed=2), draw(S, K, B, seed=4), ends()
    target = head.target(outputs, lambda value: td_target(reward, ended, value, log_prob, temperature, discount))
    probabilities = outputs.softmax(-1).mean(0)
    atoms = np.linspace(-2, 2, 9)
    for s, k, b in np.ndindex(S, K, B):
        entropy = float(-temperature[s, k] * log_prob[s, k, b])
        arguments = (float(reward[s, k, b]), 1 - float(ended[s, k, b]), discount, entropy)
        expected = slow_projection(probabilities[s, k, b].numpy(), atoms, *arguments)
        np.testing.assert_allclose(target[s, k, b].numpy(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(target.sum(-1), torch.ones_like(reward))


def test_the_loss_is_the_cross_entropy_to_the_target_and_critics_count_by_their_mean():
    head = DistributionalHead(num_bins=9, limit=2.0)
    outputs, target = draw(E, S, K, B, 9), draw(S, K, B, 9, seed=1).softmax(-1)
    expected = [F.cross_entropy(one.flatten(0, 2), target.flatten(0, 2), reduction="none") for one in outputs]
    torch.testing.assert_close(head.losses(outputs, target), torch.stack(expected).view(E, S, K, B).mean((0, 3)))
    values = draw(E, S, K, B)
    assert torch.equal(head.pooled(values), (values[0] + values[1]) / 2)


def test_the_agent_learns_from_that_target():
    """Online embedding for the next action, the targets' own for its value, rewards scaled."""
    agent, batch = make(), batch_of()
    agent.target_params.add_(0.3 * draw(*agent.target_params.shape))
    agent.rewards._largest.fill_(3.0)
    temperature, before = agent.temperatures.log.exp(), copy.deepcopy(agent.streams)
    target = agent._target(batch, temperature)

    def beside(observation, views):
        vectors = F.normalize(views[VECTORS], dim=-1).unsqueeze(2).expand(-1, -1, B, -1)
        return torch.cat((observation, vectors), -1)

    outputs = agent.actor_net(agent.actor.views, beside(batch.next_observation, agent.critic.views))
    noise = before["policy"].normal_(torch.empty(S, K, B, A, dtype=torch.float64))
    action, log_prob = squashed_gaussian(outputs, noise)
    pairs = torch.cat((beside(batch.next_observation, agent.target_views), action), -1)
    outputs = torch.stack([net(agent.target_views, pairs) for net in agent.critic_nets])
    probabilities, atoms = outputs.softmax(-1).mean(0), np.linspace(-10, 10, 11)
    scale = 10 / (3.0 + 0.1 * (A / 2) / 2 / 0.01)
    for s, k, b in np.ndindex(S, K, B):
        entropy = float(-temperature[s, k] * log_prob[s, k, b])
        arguments = (scale * float(batch.reward[s, k, b]), 1 - float(batch.terminated[s, k, b]), 0.99, entropy)
        expected = slow_projection(probabilities[s, k, b].numpy(), atoms, *arguments)
        np.testing.assert_allclose(target[s, k, b].numpy(), expected, rtol=0, atol=1e-6)


# The tasks' vectors


def test_the_vectors_follow_the_critics_loss(monkeypatch):
    agent, batch = make("conicgrad"), batch_of()
    agent._learn_values(batch, agent.temperatures.log.exp())  # a step, so that the critics differ from their targets
    start, twin = agent.critic.params.clone(), copy.deepcopy(agent)
    target = twin._target(batch, agent.temperatures.log.exp())
    agent._learn_values(batch, agent.temperatures.log.exp())
    found = agent.critic.layout.view(agent.critic.gradients.flat, VECTORS)

    for name, layer in PLAIN.items():
        monkeypatch.setattr(layers, name, layer)
    flat = start.requires_grad_()
    outputs = twin._outputs(twin.critic.layout.views(flat), batch.observation, batch.action)
    twin.head.losses(outputs, target).mean(1).sum().backward()
    expected = twin.critic.layout.view(flat.grad, VECTORS)
    assert expected.abs().min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    along = (found * twin.critic.layout.view(start, VECTORS)).sum(-1)  # the length is of no effect
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-12)


def test_the_actor_sees_the_vectors_but_does_not_move_them():
    agent, batch = make(), batch_of()
    seen = agent.inputs(batch.observation)
    vectors = agent.critic.views[VECTORS]
    torch.testing.assert_close(seen[..., O:], F.normalize(vectors, dim=-1).unsqueeze(2).expand(-1, -1, B, -1))
    assert not seen.requires_grad
    assert not torch.equal(seen[:, 0, 0, O:], seen[:, 1, 0, O:])
    agent.critic.gradients.flat.fill_(7.0)
    before, actor = agent.critic.params.clone(), agent.actor.params.clone()
    agent._learn_actions(batch.observation, agent.temperatures.log.exp())
    assert torch.equal(agent.critic.params, before)
    assert (agent.critic.gradients.flat == 7.0).all()
    assert not torch.equal(agent.actor.params, actor)
    agent._learn_values(batch, agent.temperatures.log.exp())
    assert not torch.equal(agent.inputs(batch.observation), seen)  # what the critics have learned, at once


def test_a_policy_has_the_vectors_it_was_trained_with():
    agent = make(dtype=torch.float32)
    updates(device_steps(agent), 3)
    state = copy.deepcopy(agent.policy_state(agent.state_dict()))
    assert state[VECTORS].untyped_storage().nbytes() == S * K * D * 4  # not the critics that it is a view of
    setting = Setting([3, 5], K, O, A)
    policy, observation = agent.policy(setting, state), torch.randn(S, K, 1, O)
    assert torch.equal(policy(observation), agent.exploit(observation))
    with pytest.raises(ValueError, match="vectors of shape"):
        agent.policy(Setting([3, 5], K + 1, O, A), state)


# The policy and the temperature


def test_log_std_is_within_its_bounds():
    bounded = BoundedStd(Residual(6, 1), -10.0, 2.0).made("net", O, 2 * A, K)
    plain = Residual(6, 1).made("net", O, 2 * A, K)
    params = {name: draw(S, *each.shape, seed=len(name)) for name, each in plain.parameters.items()}
    x = 5 * draw(S, K, B, O)
    mean, log_std = bounded(params, x).chunk(2, -1)
    expected_mean, raw = plain(params, x).chunk(2, -1)
    assert torch.equal(mean, expected_mean)
    torch.testing.assert_close(log_std, -10 + 12 * (1 + torch.tanh(raw)) / 2)
    huge = {name: 1e3 * view for name, view in params.items()}
    extreme = bounded(huge, x).chunk(2, -1)[1]
    assert (extreme.min(), extreme.max()) == (-10, 2)


def test_all_tasks_of_a_seed_share_one_temperature():
    agent = make(learning_rate=0.01)
    reference = [torch.tensor(0.1, dtype=torch.float64).log().requires_grad_() for _ in range(S)]
    optimizers = [torch.optim.Adam([each], lr=0.01, betas=(0.5, 0.999), eps=1e-8) for each in reference]
    for number in range(5):
        log_prob = draw(S, K, B, seed=number)
        agent.temperatures.update(log_prob, agent.health)
        for s, (each, optimizer) in enumerate(zip(reference, optimizers, strict=True)):
            optimizer.zero_grad()
            (-each * (log_prob[s].mean() - A / 2)).backward()
            optimizer.step()
    expected = torch.stack(reference).detach()
    torch.testing.assert_close(agent.temperatures.log, expected.unsqueeze(1).expand(S, K), rtol=1e-6, atol=1e-9)
    assert (agent.temperatures.log == agent.temperatures.log[:, :1]).all()
    assert agent.temperatures.log[0, 0] != agent.temperatures.log[1, 0]


# The whole


@pytest.mark.parametrize("combiner", ["ls", "conicgrad", "famo"])
def test_no_step_reads_or_moves_a_number(combiner, without_numbers):
    agent = make(combiner, "meta", torch.float32)
    steps = device_steps(agent, make_graph=RecordedOnTheHost)
    steps.update()
    observation = torch.zeros(2, K, 1, O, device="meta")
    with OneDevice():
        update_and_act(steps, observation, A)
        action, flags = steps.exploit(observation), torch.zeros(2, K, 1, device="meta")
        agent.observe(Transition(observation, action, flags, observation, flags, flags))


@pytest.mark.parametrize("scope", ["shared", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_seed_learns_the_same_alone_and_among_others(combiner, scope):
    together, alone = (make(combiner, gradient_scope=scope, seeds=seeds) for seeds in ((3, 5), (3,)))
    start = together.critic.params.clone()
    for agent in (together, alone):
        for _ in range(8):
            agent.update()
    for name in ("actor", "critic"):
        one, other = (getattr(agent, name).params[0] for agent in (together, alone))
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert not torch.equal(together.critic.layout.view(start, VECTORS), together.critic.views[VECTORS])
    assert torch.isfinite(together.critic.params).all()


def test_recorded_updates_equal_plain_ones():
    plain, agent = (make("conicgrad", dtype=torch.float32) for _ in range(2))
    expected = updates(device_steps(plain), 12)
    found = updates(device_steps(agent, make_graph=lambda: Quiet(agent.combiners)), 12)
    assert_same_state(found, expected)
    assert_same_state(agent.state_dict(), plain.state_dict())


def test_the_critics_come_to_predict_what_there_is():
    """Rewards of 1 for ever are worth 1 / (1 - γ), half of the largest return so far, whatever the action."""
    agent = make(dtype=torch.float32, learning_rate=3e-3, discount=0.8, tau=0.2, initial_temperature=1e-6)
    agent.rewards._largest.fill_(10.0)
    agent.memory.storage[..., O + A] = 1.0
    for _ in range(200):
        metrics = agent.update()
    assert metrics["q_value"].numpy() == pytest.approx(np.full((S, K), 5.0), abs=0.3)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("discount=1", r"agent\.discount must be a number in \(0, 1\), not 1"),
        ("embedding_size=0", r"agent\.embedding_size must be a whole number of at least 1, not 0"),
        ("embedding_size=1e12", r"agent\.embedding_size must be at most 10000, not 1000000000000"),
        ("value_bins=3e4", r"agent\.value_bins=30000.*: needs at least .* GiB of memory"),
        ("max_grad_norm=0", r"agent\.max_grad_norm must be a number in \(0, inf\), not 0"),
        ("critic_network.width=0", r"agent\.critic_network\.width must be a whole number of at least 1, not 0"),
        ("network.blocks=-1", r"agent\.network\.blocks must be a whole number of at least 0, not -1"),
        ("network.heads=own", r"agent\.network\.heads must be one of shared, task, not 'own'"),
        ("embeding_size=3", r"did you mean agent\.embedding_size\?"),
    ],
)
def test_what_cannot_be_is_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        compose_config(["env=toy", "agent=brc", f"{'+' if 'embeding' in setting else ''}agent.{setting}"])


def test_the_experiments():
    """The faithful one asks for more memory than there may be here: its settings are looked at on fewer transitions."""
    small = compose_config(["experiment=brc_small", "env=toy", "env.horizon=20"])
    assert small.agent["critic_network"]["width"] == 256
    paper = compose_config(["experiment=brc", "env=toy", "env.horizon=20", "agent.capacity_per_task=1000"])
    agent = paper.make_agent()
    assert (agent.critic_network.width, agent.critic_network.blocks, agent.updates_per_step) == (4096, 2, 2)
    assert (agent.learning_rate, agent.weight_decay, agent.max_grad_norm) == (3e-4, 1e-4, math.inf)
    assert paper.choices["combiner"] == "ls"
    assert agent.work(paper.setting()) > small.make_agent().work(small.setting())
