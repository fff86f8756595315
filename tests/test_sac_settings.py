"""Settings of SAC that other agents are made of: who shares a temperature, and what weighs the tasks' losses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TOY, train_here
from meta_device import OneDevice, update_and_act
from test_capture import RecordedOnTheHost

from mtrl_conic.agents.losses import temperature_weights
from mtrl_conic.agents.protocol import Transition
from mtrl_conic.agents.replay import Batch
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.training.device_steps import device_steps
from mtrl_conic.training.summary import starting

S, K, B, O, A = 2, 3, 5, 6, 2


def draws(seed, *shape):
    return torch.randn(S, K, B, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of():
    return Batch(draws(0, O), draws(1, A).tanh(), draws(2), draws(3, O), (draws(4) > 0.5).double())


def made(*arguments):
    small = ["agent.network.hidden_sizes=[7]", "agent.capacity_per_task=10", "combiner=ls", "device=cpu"]
    config = compose_config(["env=toy", *small, *arguments])
    agent = config.make_agent()
    agent.setup(replace(config.setting(), seeds=range(S), dtype=torch.float64))
    return agent


def test_tasks_may_share_a_temperature():
    agents = {name: made(f"agent.temperatures={name}", "agent.learning_rate=0.01") for name in ("task", "shared")}
    for agent in agents.values():
        for seed in range(3):
            agent.temperatures.update(draws(seed), agent.health)
    shared, own = agents["shared"].temperatures.log, agents["task"].temperatures.log
    assert (shared == shared[:, :1]).all()
    assert shared[0, 0] != shared[1, 0]
    assert len(own.unique()) == S * K


def test_weights_by_temperature_in_numbers():
    """α = 1/2, 1, 1/4: the reciprocals 2, 1, 4 sum to 7."""
    found = temperature_weights(torch.tensor([[0.5, 1.0, 0.25]], dtype=torch.float64).log())
    torch.testing.assert_close(found, torch.tensor([[6 / 7, 3 / 7, 12 / 7]], dtype=torch.float64))


@pytest.mark.parametrize("combiner", ["ls", "famo", "imtl_g"])
def test_losses_are_weighted_before_the_combiner_sees_them(combiner, monkeypatch):
    """Critic and actor alike, after the step as well; not the temperatures."""
    agents = [made(f"agent.loss_weighting={name}", f"combiner={combiner}") for name in ("none", "temperature")]
    logarithms = torch.linspace(-2, 1, S * K, dtype=torch.float64).view(S, K)
    seen = [{"critic": [], "actor": []} for _ in agents]
    for agent, losses in zip(agents, seen, strict=True):
        agent.temperatures.log.copy_(logarithms)
        for learner in (agent.critic, agent.actor):

            def step(given, health, again, learner=learner, losses=losses):
                losses[learner.name] += [given.detach(), again().detach()]
                return {}

            monkeypatch.setattr(learner, "step", step)
        agent.learn(batch_of())
    reciprocals = (-logarithms).exp()
    weights = K * reciprocals / reciprocals.sum(1, keepdim=True)
    for name in ("critic", "actor"):
        for plain, weighted in zip(seen[0][name], seen[1][name], strict=True):
            torch.testing.assert_close(weighted, weights * plain)
    torch.testing.assert_close(agents[0].temperatures.log, agents[1].temperatures.log)
    assert not torch.equal(agents[0].temperatures.log, logarithms)


def test_rewards_may_be_learned_over_their_deviation():
    """By the deviation of now, whatever it was when they came, times a factor; the replay has them as they were."""
    scaled = made("agent.normalise_rewards=true", "agent.reward_scale=0.5")
    plain = made()
    mean, variance = np.zeros((S, K)), np.ones((S, K))
    for step in range(30):
        reward = 20 * draws(step)[:, :, :1].float()
        nothing, flags = torch.zeros(S, K, 1, O), torch.zeros(S, K, 1)
        scaled.observe(Transition(nothing, torch.zeros(S, K, 1, A), reward, nothing, flags, flags))
        new = reward[..., 0].double().numpy()
        mean = 0.999 * mean + 0.001 * new
        variance = 0.999 * variance + 0.001 * (new - mean) ** 2
    assert torch.equal(scaled.memory.read_rows(29, 30)[..., O + A], reward)
    deviation = torch.from_numpy(np.sqrt(variance)).unsqueeze(-1)
    assert (deviation > 2).all()
    batch = batch_of()
    scaled.learn(batch)
    plain.learn(batch._replace(reward=0.5 * batch.reward / deviation))
    for one, other in ((scaled.critic, plain.critic), (scaled.actor, plain.actor)):
        torch.testing.assert_close(one.params, other.params, rtol=1e-5, atol=1e-7)
    unscaled = made()
    unscaled.learn(batch)
    assert (unscaled.critic.params - scaled.critic.params).abs().max() > 1e-4


def test_observations_may_be_learned_over_their_deviation():
    """In deviations from the mean of all that a task has seen, of any update; the replay has them as they were."""
    normalised, plain = made("agent.normalise_observations=true"), made()
    seen = torch.stack([3 + 5 * draws(step, O)[:, :, :1] for step in range(30)]).float()
    for observation in seen:
        flags = torch.zeros(S, K, 1)
        normalised.observe(Transition(observation, torch.zeros(S, K, 1, A), flags, observation, flags, flags))
    assert torch.equal(normalised.memory.read_rows(29, 30)[..., :O], seen[29])
    mean, deviation = (torch.from_numpy(of(seen.double().numpy(), 0)) for of in (np.mean, np.std))
    batch = batch_of()
    over = [(rows - mean) / deviation for rows in (batch.observation, batch.next_observation)]
    normalised.learn(batch)
    plain.learn(batch._replace(observation=over[0], next_observation=over[1]))
    for one, other in ((normalised.critic, plain.critic), (normalised.actor, plain.actor)):
        torch.testing.assert_close(one.params, other.params, rtol=1e-9, atol=1e-12)
    for act in ("exploit", "act"):
        found, expected = getattr(normalised, act)(batch.observation), getattr(plain, act)(over[0])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def steps_on_meta(config):
    """The steps, recorded, of an agent whose replay holds rows without numbers, after its first update."""
    agent = config.make_agent()
    agent.warmup_steps, agent.capacity_per_task, agent.batch_size_per_task = 0, 20, B
    agent.setup(replace(config.setting(), seeds=range(S), device="meta"))
    agent.memory.write_rows(0, torch.zeros(S, K, 20, 2 * O + A + 2, device="meta"))
    steps = device_steps(agent, make_graph=RecordedOnTheHost)
    steps.update()
    return steps


@pytest.mark.parametrize("agent", ["stl", "soft_modularization"])
def test_no_step_reads_or_moves_a_number(agent, without_numbers):
    config = compose_config(["env=toy", f"agent={agent}", "combiner=ls", "agent.network.hidden_sizes=[7]"])
    steps = steps_on_meta(config)
    with OneDevice():
        update_and_act(steps, torch.zeros(S, K, 1, O, device="meta"), A)


def test_no_gradient_goes_through_the_weights():
    log = torch.zeros(S, K, requires_grad=True)
    assert not temperature_weights(log).requires_grad


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("agent.temperatures=own", "agent.temperatures must be one of task, shared, combined, not 'own'"),
        ("agent.normalise_observations=3", "agent.normalise_observations must be true or false, not 3"),
        ("agent.normalise_rewards=3", "agent.normalise_rewards must be true or false, not 3"),
        ("agent.critic_head=bounded", "agent.critic_head must not be 'bounded' where normalise_returns is false"),
        ("agent.loss_weighting=alpha", "agent.loss_weighting must be one of none, temperature, not 'alpha'"),
        ("agent.network.heads=none", "agent.network.heads must be one of task, shared, not 'none'"),
        ("agent.network.layers=0", "agent.network.layers must be a whole number of at least 1, not 0"),
        ("agent.network.modules=101", "agent.network.modules must be at most 100, not 101"),
        ("agent.network.gating_sizes=[]", r"agent.network.gating_sizes must be one or more positive widths.*\[\]"),
    ],
)
def test_what_cannot_be_is_refused(setting, words):
    agent = "mtsac" if "heads" in setting else "soft_modularization"
    with pytest.raises(ValueError, match=words):
        compose_config(["env=toy", f"agent={agent}", setting])


NUMBERS = {  # of O = 6 observed numbers, A = 2 of the action and K = 3 tasks
    "mtsac": (2 * (400 * 12 + 2 * 400 * 401 + 401), 400 * 10 + 2 * 400 * 401 + 4 * 401),
    "stl": (3 * 2 * (400 * 9 + 2 * 400 * 401 + 401), 3 * (400 * 7 + 2 * 400 * 401 + 4 * 401)),
}


@pytest.mark.parametrize("agent", NUMBERS)
def test_how_many_numbers_are_learned(agent):
    config = compose_config(["env=toy", f"agent={agent}", "combiner=ls"])
    counts = config.make_agent().parameter_counts(config.setting())
    assert (counts["critic"], counts["actor"]) == NUMBERS[agent]


def test_a_run_says_how_many_numbers_it_learns(tmp_path):
    run = train_here(*TOY, "combiner=ls", "steps_per_task=70", f"run_dir={tmp_path}/run")
    critic, actor = 2 * (16 * 12 + 3 * 17), 16 * 10 + 3 * 4 * 17
    (piece,) = json.loads((run / "provenance.json").read_text())["pieces"]
    assert piece["parameters_per_seed"] == {"critic": critic, "actor": actor}
    said = starting(compose_config([*TOY, "combiner=ls"])).splitlines()
    assert said[1:] == [f"critic: {critic} parameters per seed", f"actor: {actor} parameters per seed"]


def test_rewards_are_normalised_in_one_way():
    words = "agent.normalise_rewards must be false where normalise_returns is true, not true"
    with pytest.raises(ValueError, match=f"^{words}$"):
        compose_config(["env=toy", "agent.normalise_returns=true", "agent.normalise_rewards=true"])
