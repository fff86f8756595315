"""Single-task learning: tasks beside each other in one agent, of which each learns as it would alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_networks import PLAIN

from mtrl_conic.agents.clipping import NetworkClip, TaskClip
from mtrl_conic.agents.losses import actor_losses, squashed_gaussian
from mtrl_conic.agents.replay import Batch
from mtrl_conic.combiners import LS, MGDA
from mtrl_conic.networks import layers
from mtrl_conic.networks.independent import IndependentMLP
from mtrl_conic.networks.layout import Layout
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError

S, B = 2, 5
TASKS = ["direct", "mirrored"]


def composed(*arguments):
    small = ["agent.network.hidden_sizes=[7,6]", "agent.capacity_per_task=10"]
    return compose_config(["env=toy", "agent=stl", "combiner=ls", "device=cpu", *small, *arguments])


def made(tasks, *arguments):
    config = composed(f"env.tasks=[{','.join(tasks)}]", *arguments)
    agent = config.make_agent()
    agent.setup(replace(config.setting(), seeds=range(S), dtype=torch.float64))
    return agent


def draws(step, *shape):
    return torch.randn(S, len(TASKS), B, *shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def batch_of(step, rows, scale=1.0):
    """Of the tasks in `rows`; the first one's rewards are larger by `scale`."""
    size, actions = 6, 2
    reward = draws(step) * torch.tensor([scale, 1.0]).view(1, 2, 1)
    ends = (draws(step + 1) > 0.5).double()
    whole = (draws(step + 2, size), draws(step + 3, actions).tanh(), reward, draws(step + 4, size), ends)
    return Batch(*(each[:, rows] for each in whole))


def with_noise_of(agent, rows, monkeypatch):
    """The same noise whether a task is alone or beside others."""
    count = iter(range(1000, 2000))
    monkeypatch.setattr(agent, "_noise", lambda stream, like: draws(next(count), 2)[:, rows])
    return agent


def learned(agent):
    yield from ((agent.actor.layout, agent.actor.params), (agent.critic.layout, agent.critic.params))
    yield agent.critic.layout, agent.target_params


@pytest.mark.parametrize("scale", [1.0, 1e3])  # the gradients of the larger rewards are cut off
def test_each_task_learns_as_it_does_alone(scale, monkeypatch):
    both = with_noise_of(made(TASKS), slice(None), monkeypatch)
    for _, params in learned(both):  # heads of 0 would hide mistakes
        params += 0.3 * torch.randn(params.shape, generator=torch.Generator().manual_seed(0), dtype=params.dtype)
    alone = [with_noise_of(made([task]), slice(k, k + 1), monkeypatch) for k, task in enumerate(TASKS)]
    for k, agent in enumerate(alone):
        for (layout, params), (own, single) in zip(learned(both), learned(agent), strict=True):
            for name in own.blocks:
                own.view(single, name).copy_(layout.view(params, name)[:, k : k + 1])
    for step in range(0, 50, 10):
        metrics = both.learn(batch_of(step, slice(None), scale))
        for k, agent in enumerate(alone):
            single = agent.learn(batch_of(step, slice(k, k + 1), scale))
            torch.testing.assert_close(metrics["loss/critic"][:, k : k + 1], single["loss/critic"])
    for k, agent in enumerate(alone):
        for (layout, params), (own, single) in zip(learned(both), learned(agent), strict=True):
            for name in own.blocks:
                found = layout.view(params, name)[:, k : k + 1]
                torch.testing.assert_close(found, own.view(single, name), rtol=1e-9, atol=1e-12)
        found = both.temperatures.log[:, k : k + 1]
        torch.testing.assert_close(found, agent.temperatures.log, rtol=1e-12, atol=0)


def test_each_task_follows_its_own_loss_times_its_weight(monkeypatch):
    """K times the combiner's weight: 1 with LS."""

    class Uneven(LS):
        def weights(self, gramian, losses):
            return torch.tensor([0.8, 0.2], dtype=losses.dtype).expand_as(losses)

    config = composed(f"env.tasks=[{','.join(TASKS)}]")
    agent = config.make_agent()
    setting = replace(config.setting(), seeds=range(S), dtype=torch.float64, make_combiner=lambda _: Uneven())
    agent.setup(setting)
    agent.actor.clip = NetworkClip(1e9)
    batch, temperature = batch_of(0, slice(None)), agent.temperatures.log.exp()
    before = agent.actor.params.clone()
    with_noise_of(agent, slice(None), monkeypatch)
    agent._learn_actions(batch.observation, temperature)
    for name, layer in PLAIN.items():
        monkeypatch.setattr(layers, name, layer)
    flat = before.requires_grad_()
    outputs = agent.actor_net(agent.actor.layout.views(flat), batch.observation)
    action, log_prob = squashed_gaussian(outputs, draws(1000, 2))
    losses = actor_losses(log_prob, agent._value(agent.critic.views, batch.observation, action), temperature)
    (expected,) = torch.autograd.grad((1.6 * losses[:, 0] + 0.4 * losses[:, 1]).sum(), flat)
    torch.testing.assert_close(agent.actor.gradients.flat, expected, rtol=1e-9, atol=1e-12)


def test_the_norm_of_each_tasks_gradient_is_bounded():
    net = IndependentMLP([3]).made("net", 2, 1, 2)
    layout = Layout(net.parameters)
    assert layout.shared_size == 0
    gradient = torch.randn(S, layout.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name in layout.blocks:
        layout.view(gradient, name)[:, 0] *= 1e-3
    before = gradient.clone()
    norm = TaskClip(1.0)(layout, gradient)
    torch.testing.assert_close(norm, torch.linalg.vector_norm(before, dim=1))

    def of_task(k, flat):
        return torch.cat([layout.view(flat, name)[:, k].flatten(1) for name in layout.blocks], 1)

    assert torch.equal(of_task(0, gradient), of_task(0, before))
    large = of_task(1, before)
    torch.testing.assert_close(of_task(1, gradient), large / torch.linalg.vector_norm(large, dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["combiner=conicgrad"], "ConicGrad combines gradients .* the tasks of the critic share none .* combiner=ls"),
        (["combiner=graddrop"], "GradDrop combines gradients of parameters that tasks share"),
        (["actor.combiner=gradnorm"], "GradNorm combines gradients .* the tasks of the actor share none"),
        (["combiner=pcgrad", "agent.gradient_scope=all"], r"PCGrad .* \(with gradient_scope=all neither\)"),
        (["agent=mtmhppo", "network=independent", "combiner=mgda", "agent.popart=null"], "MGDA .* of the actor"),
        (["agent.loss_reduction=max"], "agent.loss_reduction must be one of mean, sum, not 'max'"),
    ],
)
def test_what_has_nothing_to_combine_is_refused(arguments, words):
    of_ppo = arguments[0] == "agent=mtmhppo"
    with pytest.raises(ConfigError, match=words) as error:
        compose_config(["env=toy", *([] if of_ppo else ["agent=stl", "combiner=ls"]), *arguments])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("combiner", ["ls", "famo", "uw", "dwa", "rlw", "si"])
def test_what_weighs_losses_is_not(combiner):
    agent = made(TASKS, f"combiner={combiner}")
    before = agent.critic.params.clone()
    agent.learn(batch_of(0, slice(None)))
    assert torch.isfinite(agent.critic.params).all()
    assert not torch.equal(agent.critic.params, before)


def test_a_program_is_refused_as_well():
    config = composed()
    with pytest.raises(ValueError, match="MGDA combines gradients"):
        config.make_agent().setup(replace(config.setting(), make_combiner=lambda _: MGDA()))


def test_threads_are_chosen_by_the_work_of_own_layers():
    config = compose_config(["env=toy", "agent=stl", "combiner=ls"])
    usual = compose_config(["env=toy", "agent=mtsac", "agent.task_id_input=false", "combiner=ls"])
    assert config.make_agent().work(config.setting()) == usual.make_agent().work(usual.setting())
