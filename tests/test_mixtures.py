"""PaCo, MOORE and CARE: in plain operations, row by row, against which outputs and gradients are held; their parts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mtrl_conic.gradients.recorder import TaskGradients
from mtrl_conic.networks.care import CARE
from mtrl_conic.networks.initial import constant
from mtrl_conic.networks.layout import Layout, Parameter
from mtrl_conic.networks.moore import MOORE, orthonormal
from mtrl_conic.networks.paco import PaCo
from mtrl_conic.networks.protocol import layout_of, weights_per_row
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.system.streams import SeedStreams

S, B, I, O = 2, 3, 4, 2

NETWORKS = {
    "paco": PaCo([6, 5], parameter_sets=3),
    "moore": MOORE([6, 5], experts=3),
    "moore, one head": MOORE([5], experts=2, heads="shared"),
    "care": CARE([6, 5], encoders=3, encoder_sizes=[4, 3], encoding_size=3),
    "care, a head per task": CARE([5], encoders=2, encoder_sizes=[4], encoding_size=3, heads="task"),
}


# The outputs for the rows [B, I] of task k in plain operations; `p` has the parameters of one seed.


def layers(p, name, x, of=lambda tensor: tensor):
    """Linear layers with a ReLU between them; `of` picks from weight and bias."""
    count = len([key for key in p if re.fullmatch(rf"{re.escape(name)}\.\d+\.weight", key)])
    for index in range(count):
        x = F.linear(x.relu() if index else x, of(p[f"{name}.{index}.weight"]), of(p[f"{name}.{index}.bias"]))
    return x


def expert(p, name, index, count, x):
    """The first layers of all experts lie one under the other in one matrix."""

    def of(tensor):
        apart = tensor if len(tensor) == count else tensor.unflatten(0, (count, -1))
        return apart[index]

    return layers(p, name, x, of)


def head(p, net, k, x):
    weight, bias = p["net.head.weight"], p["net.head.bias"]
    return F.linear(x, weight[k], bias[k]) if net.heads == "task" else F.linear(x, weight, bias)


def plain_paco(p, net, k, x):
    mixed = lambda sets: sum(p["net.vectors"][k, i] * sets[i] for i in range(net.parameter_sets))  # noqa: E731
    return layers(p, "net.layer", x, mixed)


def plain_moore(p, net, k, x):
    outputs = [expert(p, "net.experts", i, net.experts, x) for i in range(net.experts)]
    rows = []
    for row in range(len(x)):
        basis = []
        for output in outputs:
            own = output[row]
            for other in basis:
                own = own - output[row].dot(other) * other
            basis.append(own / own.norm())
        rows.append(sum(share * vector for share, vector in zip(p["net.vectors"][k], basis, strict=True)))
    return head(p, net, k, torch.stack(rows).tanh())


def plain_care(p, net, k, x):
    context = layers(p, "net.context", p["net.vectors"][k].relu())
    shares = layers(p, "net.attention", context.detach()).exp()
    encodings = [expert(p, "net.encoders", i, net.encoders, x) for i in range(net.encoders)]
    encoding = sum(share * each for share, each in zip(shares / shares.sum(), encodings, strict=True))
    torso = layers(p, "net.torso", torch.cat((encoding, context.repeat(len(x), 1)), 1))
    return head(p, net, k, torso.relu())


PLAIN = {PaCo: plain_paco, MOORE: plain_moore, CARE: plain_care}


def plain(net, layout, flat, x):
    views = layout.views(flat)
    forward = lambda s, k: PLAIN[type(net)]({key: view[s] for key, view in views.items()}, net, k, x[s, k])  # noqa: E731
    return torch.stack([torch.stack([forward(s, k) for k in range(x.shape[1])]) for s in range(S)])


def case(name, num_tasks):
    net = NETWORKS[name].made("net", I, O, num_tasks)
    layout, generator = layout_of([net]), torch.Generator().manual_seed(num_tasks)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return net, layout, draw(S, layout.size), draw(S, num_tasks, B, I), draw(S, num_tasks, B, O)


@pytest.mark.parametrize("num_tasks", [1, 2, 10])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_pass_gives_the_gradients_of_one_a_task(name, num_tasks):
    net, layout, flat, x, target = case(name, num_tasks)
    reference = flat.clone().requires_grad_()
    outputs = plain(net, layout, reference, x)
    losses = (outputs - target).square().mean((2, 3))
    rows = [torch.autograd.grad(losses[:, k].sum(), reference, retain_graph=True)[0] for k in range(num_tasks)]
    expected = torch.stack(rows, 1)
    torch.testing.assert_close(net(layout.views(flat), x), outputs.detach(), rtol=1e-10, atol=1e-12)

    gradients = TaskGradients(layout, S, num_tasks, "all", dtype=flat.dtype)
    (net(layout.views(flat), x, gradients) - target).square().mean((2, 3)).sum().backward()
    torch.testing.assert_close(gradients.jacobian, expected, rtol=1e-9, atol=1e-12)

    gradients.keep_tasks, gradients.task_weights = False, torch.rand(S, num_tasks)
    (net(layout.views(flat), x, gradients) - target).square().mean((2, 3)).sum().backward()
    weighted = torch.einsum("sk,skp->sp", gradients.task_weights.double(), expected)
    torch.testing.assert_close(gradients.flat, weighted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_input_gets_its_gradient_without_a_recorder(name):
    net, layout, flat, x, _ = case(name, 2)
    found = [torch.autograd.grad(f(own).sum(), own)[0] for f, own in (
        (lambda own: net(layout.views(flat), own), x.clone().requires_grad_()),
        (lambda own: plain(net, layout, flat, own), x.clone().requires_grad_()),
    )]  # fmt: skip
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("keep_tasks", [True, False])
def test_a_gradient_known_by_task(keep_tasks):
    layout = Layout({name: Parameter((2, 3), constant(0.0)) for name in ("before", "own")})
    gradients = TaskGradients(layout, S, 4, keep_tasks=keep_tasks, dtype=torch.float64)
    gradient, shares = torch.randn(S, 4, 2, 3).double(), torch.randn(S, 4, 2).double()
    for given, expected in (
        ((gradient,), gradient),
        ((gradient[:, :, 0], shares), torch.einsum("ski,skj->skij", shares, gradient[:, :, 0])),
    ):
        gradients.shared_tensor("own", *given)
        found = layout.view(gradients.flat, "own")
        if keep_tasks:
            found = gradients.jacobian[..., 6:].unflatten(2, (2, 3))
        torch.testing.assert_close(found, expected if keep_tasks else expected.sum(1))
        assert not layout.view(gradients.flat, "before").any()


def test_the_attention_of_care_leaves_the_context_alone():
    net, layout, flat, x, _ = case("care", 2)
    views = layout.views(flat)
    views["net.torso.0.weight"][..., net.encoding_size :] = 0  # now the context is seen by the attention alone
    gradients = TaskGradients(layout, S, 2, "all", dtype=flat.dtype)
    net(views, x, gradients).sum().backward()
    for name in layout.blocks:
        found = torch.stack([layout.view(rows, name) for rows in gradients.jacobian.unbind(1)])
        assert found.any() != (".context." in name or name == "net.vectors"), name


# Gram and Schmidt.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_become_orthonormal(dtype):
    vectors = torch.randn(20, 4, 9, generator=torch.Generator().manual_seed(0), dtype=dtype)
    basis = torch.stack(orthonormal(vectors.unbind(1)), 1)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(4, dtype=dtype).expand(20, -1, -1))
    coordinates = vectors @ basis.mT  # of each vector in those up to its own
    torch.testing.assert_close(coordinates @ basis, vectors)
    torch.testing.assert_close(coordinates, coordinates.tril(), rtol=0, atol=1e-5)
    assert (coordinates.diagonal(dim1=1, dim2=2) > 0).all()


def test_what_is_left_of_a_dependent_vector_counts_as_zero():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 9, generator=generator)
    zero = torch.zeros(9)
    vectors = [zero, first, 3 * first, second, zero, first - 2 * second, 1e-9 * torch.ones(9), -first]
    vectors = [vector.clone().requires_grad_() for vector in vectors]
    basis = orthonormal(vectors)
    assert [float(vector.detach().norm().round(decimals=5)) for vector in basis] == [0, 1, 0, 1, 0, 0, 0, 0]
    torch.stack(basis).square().mul(torch.arange(9)).sum().backward()
    for index, vector in enumerate(vectors):
        assert torch.isfinite(vector.grad).all()
        assert vector.grad.any() == (index in (1, 3))


def test_more_vectors_than_dimensions():
    basis = orthonormal(torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0)))
    products = torch.stack(basis, 1) @ torch.stack(basis, 1).mT
    expected = torch.diag(torch.tensor([1.0, 1, 1, 0, 0])).expand(7, -1, -1)
    torch.testing.assert_close(products, expected, rtol=0, atol=1e-4)


# Settings.


def test_the_first_weights_of_a_task_vary_as_those_of_a_set():
    net = PaCo([300], parameter_sets=4).made("net", 200, 1, 30)
    layout = layout_of([net])
    flat = torch.zeros(1, layout.size)
    layout.initialize(flat, SeedStreams([0], "test"))
    views = layout.views(flat)
    mixed = torch.einsum("skn,snoi->skoi", views["net.vectors"], views["net.layer.0.weight"])
    assert 0.8 < mixed.var() / views["net.layer.0.weight"].var() < 1.25


@pytest.mark.parametrize("name", ["paco", "moore", "care"])
def test_the_page_has_the_number_of_parameters(name):
    """On MT10: observations of 39 numbers, actions of 4."""
    agent = compose_config(["env=toy", f"agent={name}"]).make_agent()
    assert agent.network is agent.critic_network
    assert not agent.task_id_input
    actor, critic = agent.network.made("actor", 39, 8, 10), agent.network.made("critic0", 43, 1, 10)
    page = (Path(__file__).parent.parent / "docs" / "architectures.md").read_text()
    (section,) = re.findall(
        rf"^## {agent.network.__class__.__name__}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE
    )
    for net in (actor, critic):
        assert f"{layout_of([net]).size:,}" in section
    copies = agent.network.parameter_sets if actor.composed else 1  # a row meets the sum of them
    share = weights_per_row(actor) * copies / layout_of([actor]).size
    assert 0.97 < share <= 1  # which says what an update is worth


@pytest.mark.parametrize(
    ("agent", "setting", "message"),
    [
        ("paco", "parameter_sets=0", "parameter_sets must be a whole number of at least 1, not 0"),
        ("paco", "hidden_sizes=[]", "hidden_sizes must be one or more positive widths"),
        ("moore", "experts=401", "experts must be at most 400, not 401"),
        ("moore", "heads=both", "heads must be one of shared, task, not 'both'"),
        ("care", "encoders=1.5", "encoders must be a whole number of at least 1, not 1.5"),
        ("care", "encoder_sizes=50", "encoder_sizes must be one or more positive widths"),
        ("care", "encoding_size=0", "encoding_size must be a whole number of at least 1, not 0"),
    ],
)
def test_settings_that_cannot_be(agent, setting, message):
    with pytest.raises(ConfigError, match=re.escape(f"agent.network.{message}")):
        compose_config(["env=toy", f"agent={agent}", f"agent.network.{setting}"])
