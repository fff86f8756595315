"""Per-task gradients of the real networks and losses, against plain autograd in float64."""

from __future__ import annotations

import pytest
import torch

from mtrl_conic.agents.losses import actor_losses, critic_losses, squashed_gaussian
from mtrl_conic.agents.protocol import Setting
from mtrl_conic.agents.replay import Batch
from mtrl_conic.agents.sac import MultiTaskSAC
from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.ls import LS
from mtrl_conic.combiners.products import gramian, weighted_sum
from mtrl_conic.networks.multi_head import MultiHeadMLP

S, K, B, O, A = 2, 3, 5, 4, 2


class MeanOfJacobian(Combiner):
    """LS by way of the Jacobian."""

    def weights(self, gramian, losses):
        return torch.full_like(losses, 1 / losses.shape[-1])


def make_agent(combiner=MeanOfJacobian, dtype=torch.float64, **settings):
    settings = {"max_grad_norm": 1e9, **settings}
    network = MultiHeadMLP([7, 6], settings.pop("layer_norm", False))
    agent = MultiTaskSAC(network, capacity_per_task=10, **settings)
    agent.setup(Setting(range(S), K, O, A, make_combiner=lambda _: combiner(), dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # small heads and zero biases would hide mistakes
        for learner in (agent.actor, agent.critic):
            noise = torch.randn(learner.params.shape, generator=generator, dtype=dtype)
            learner.params.add_(0.3 * noise)
    return agent


def make_batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(S, K, B, *shape, generator=generator, dtype=dtype)  # noqa: E731
    return Batch(draw(O), draw(A).tanh(), draw(), draw(O), (draw() > 0.5).to(dtype))


def reference_forward(net: MultiHeadMLP, views, x):
    """The same network in plain differentiable operations."""
    for layer in net.layers:
        x = torch.einsum("skbi,soi->skbo", x, views[f"{layer}.weight"]) + views[f"{layer}.bias"][:, None, None]
        if net.layer_norm:
            x = torch.nn.functional.layer_norm(x, x.shape[-1:])
        x = x.relu()
    head, bias = views[f"{net.head}.weight"], views[f"{net.head}.bias"]
    return torch.einsum("skbi,skoi->skbo", x, head) + bias[:, :, None]


def critic_case(agent, batch, plain=None, recorder=None):
    views = agent.critic.views if plain is None else agent.critic.layout.views(plain)
    pairs = torch.cat((agent.inputs(batch.observation), batch.action), -1)
    if plain is None:
        values = [net(views, pairs, recorder) for net in agent.critic_nets]
    else:
        values = [reference_forward(net, views, pairs) for net in agent.critic_nets]
    return critic_losses(torch.stack(values).squeeze(-1), batch.reward)


def actor_case(agent, batch, plain=None, recorder=None):
    inputs = agent.inputs(batch.observation)
    if plain is None:
        outputs = agent.actor_net(agent.actor.views, inputs, recorder)
    else:
        outputs = reference_forward(agent.actor_net, agent.actor.layout.views(plain), inputs)
    action, log_prob = squashed_gaussian(outputs, batch.action)
    pairs = torch.cat((inputs, action), -1)
    forward = reference_forward if plain is not None else MultiHeadMLP.__call__
    values = torch.stack([forward(net, agent.critic.views, pairs) for net in agent.critic_nets])
    temperature = torch.linspace(0.1, 1, S * K, dtype=pairs.dtype).view(S, K)
    return actor_losses(log_prob, values.squeeze(-1).amin(0), temperature)


CASES = {"critic": critic_case, "actor": actor_case}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scope", ["shared", "all"])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("num_critics", [1, 2])
def test_one_backward_pass_equals_one_a_task(name, scope, layer_norm, num_critics):
    agent = make_agent(gradient_scope=scope, layer_norm=layer_norm, num_critics=num_critics)
    batch, case, learner = make_batch(), CASES[name], getattr(agent, name)
    gradients = learner.gradients
    case(agent, batch, recorder=gradients).sum().backward()
    gradients.finish()

    plain = learner.params.clone().requires_grad_()
    losses = case(agent, batch, plain)
    rows = [torch.autograd.grad(losses[:, k].sum(), plain, retain_graph=True)[0] for k in range(K)]
    expected = torch.stack(rows, 1)
    in_scope = gradients.jacobian.shape[2]
    assert in_scope == (learner.layout.size if scope == "all" else learner.layout.shared_size)
    torch.testing.assert_close(gradients.jacobian, expected[..., :in_scope], rtol=1e-10, atol=1e-12)
    # heads outside the Jacobian follow the mean loss
    torch.testing.assert_close(gradients.flat[:, in_scope:], expected[..., in_scope:].mean(1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scope", ["shared", "all"])
def test_ls_without_and_with_jacobian_equals_mean_loss(name, scope):
    batch, case = make_batch(), CASES[name]
    found = {}
    for combiner in (LS, MeanOfJacobian):
        agent = make_agent(combiner, gradient_scope=scope)
        learner = getattr(agent, name)
        losses = case(agent, batch, recorder=learner.gradients)
        learner.combine(learner.differentiate(losses))
        found[combiner] = learner.gradients.flat.clone()
    plain = learner.params.clone().requires_grad_()
    (expected,) = torch.autograd.grad(case(agent, batch, plain).mean(1).sum(), plain)
    for gradient in found.values():
        assert (gradient - expected).norm() <= 1e-10 * expected.norm()


def test_updates_are_the_same_with_and_without_jacobian():
    agents = [make_agent(LS, max_grad_norm=1.0), make_agent(MeanOfJacobian, max_grad_norm=1.0)]
    for agent in agents:
        for _ in range(3):
            agent.learn(make_batch())
    for name in ("actor", "critic"):
        one, other = (getattr(agent, name).params for agent in agents)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 5, 4095, 4096, 4097, 70000, 150001])
def test_gramian_and_weighted_sum_cover_every_column(size):
    jacobian = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    weights = torch.rand(2, 3, dtype=torch.float64)
    torch.testing.assert_close(gramian(jacobian), jacobian @ jacobian.mT)
    expected = torch.einsum("sk,skp->sp", weights, jacobian)
    torch.testing.assert_close(weighted_sum(weights, jacobian), expected)
    buffer = torch.full((2, size + 2), 7.0, dtype=torch.float64)
    weighted_sum(weights, jacobian, out=buffer[:, :size])
    torch.testing.assert_close(buffer[:, :size], expected)
    assert (buffer[:, size:] == 7).all()


def test_gramian_keeps_the_mean_of_cancelling_gradients():
    gradient = torch.randn(1, 1, 1000, generator=torch.Generator().manual_seed(0))
    jacobian = torch.cat((gradient, 1e-4 - gradient), 1)
    exact = jacobian.double().mean(1).square().sum()
    torch.testing.assert_close(gramian(jacobian).mean(), exact[None].squeeze(), rtol=1e-6, atol=0)
