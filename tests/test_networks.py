"""The layers' gradients by way of a recorder, against plain autograd in float64, and initial values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from mtrl_conic.gradients.recorder import TaskGradients
from mtrl_conic.networks import layers
from mtrl_conic.networks.independent import IndependentMLP
from mtrl_conic.networks.initial import constant, he_uniform, normal, orthogonal, uniform
from mtrl_conic.networks.layout import Layout, Parameter
from mtrl_conic.networks.multi_head import MultiHeadMLP
from mtrl_conic.networks.protocol import Network, layout_of
from mtrl_conic.networks.residual import Residual
from mtrl_conic.networks.soft_modularization import SoftModularization
from mtrl_conic.networks.trial import try_out
from mtrl_conic.settings.parts import build
from mtrl_conic.settings.paths import CONFIG_DIR, choices
from mtrl_conic.system.streams import SeedStreams

S, K, B, I, W, O, E = 2, 3, 5, 4, 6, 2, 3


class Everything:
    """Every layer once: an embedding beside the input, shared layers, one in groups, layer norm, a head."""

    def __init__(self):
        self.parameters = {"embedding": Parameter((K, E), uniform(1.0), per_task=True)}
        self.parameters |= layers.linear_parameters("trunk", I + E, W, he_uniform(I + E))
        self.parameters |= layers.layer_norm_parameters("norm", W)
        self.parameters |= layers.expert_parameters("experts", 2, W // 2, W, he_uniform(W // 2))
        self.parameters |= layers.linear_parameters("head", W, O, orthogonal(), K)

    def __call__(self, params, x, recorder=None):
        vectors = F.normalize(layers.task_vectors(params, "embedding", recorder), dim=-1)
        x = torch.cat((x, vectors.expand(-1, -1, B, -1)), -1).flatten(1, 2)
        x = layers.layer_norm(params, "norm", layers.linear(params, "trunk", x, recorder), recorder).relu()
        x = layers.expert_linear(params, "experts", x.unflatten(2, (2, -1)), recorder).prod(2)
        return layers.task_linear(params, "head", x.unflatten(1, (K, B)), recorder)

    def plain(self, params, x):
        """The same in differentiable operations."""
        vectors = F.normalize(params["embedding"], dim=-1).unsqueeze(2).expand(-1, -1, B, -1)
        x = torch.einsum("skbi,soi->skbo", torch.cat((x, vectors), -1), params["trunk.weight"])
        x = F.layer_norm(x + params["trunk.bias"][:, None, None], (W,))
        x = (x * params["norm.gain"][:, None, None] + params["norm.bias"][:, None, None]).relu()
        x = torch.einsum("skbgi,sgoi->skbgo", x.unflatten(3, (2, -1)), params["experts.weight"])
        x = x + params["experts.bias"][:, None, None]
        x = x.prod(3)
        return torch.einsum("skbi,skoi->skbo", x, params["head.weight"]) + params["head.bias"][:, :, None]


@pytest.fixture
def case():
    net, generator = Everything(), torch.Generator().manual_seed(0)
    layout = Layout(net.parameters)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return net, layout, draw(S, layout.size), draw(S, K, B, I)


def expected_rows(net, layout, flat, x):
    flat = flat.clone().requires_grad_()
    losses = net.plain(layout.views(flat), x).square().mean((2, 3))
    rows = [torch.autograd.grad(losses[:, k].sum(), flat, retain_graph=True)[0] for k in range(K)]
    return torch.stack(rows, 1)


@pytest.mark.parametrize("scope", ["shared", "all"])
def test_every_layer_gives_per_task_gradients(case, scope):
    net, layout, flat, x = case
    gradients = TaskGradients(layout, S, K, scope, dtype=torch.float64)
    net(layout.views(flat), x, gradients).square().mean((2, 3)).sum().backward()
    gradients.finish()
    expected, in_scope = expected_rows(net, layout, flat, x), gradients.scope_size
    torch.testing.assert_close(gradients.jacobian, expected[..., :in_scope], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients.flat[:, in_scope:], expected[..., in_scope:].mean(1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scope", ["shared", "all"])
def test_every_layer_gives_weighted_gradients(case, scope):
    net, layout, flat, x = case
    gradients = TaskGradients(layout, S, K, scope, dtype=torch.float64)
    gradients.keep_tasks, weights = False, torch.rand(S, K, dtype=torch.float64)
    gradients.task_weights = weights
    net(layout.views(flat), x, gradients).square().mean((2, 3)).sum().backward()
    gradients.finish()
    rows, in_scope = expected_rows(net, layout, flat, x), gradients.scope_size
    weighted = torch.einsum("sk,skp->sp", weights, rows)
    torch.testing.assert_close(gradients.flat[:, :in_scope], weighted[:, :in_scope], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients.flat[:, in_scope:], rows[..., in_scope:].mean(1), rtol=1e-10, atol=1e-12)


def test_the_input_gets_its_gradient_with_and_without_a_recorder(case):
    net, layout, flat, x = case
    found = []
    for recorder in (None, TaskGradients(layout, S, K, dtype=torch.float64)):
        x = x.clone().requires_grad_()
        found.append(torch.autograd.grad(net(layout.views(flat), x, recorder).sum(), x)[0])
    (expected,) = torch.autograd.grad(net.plain(layout.views(flat), x).sum(), x)
    for gradient in found:
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("targets", "kinds"), [(3, 2), (1, 4), (2, 1)])
def test_a_mixture_is_a_weighted_sum_and_has_its_gradients(targets, kinds):
    generator = torch.Generator().manual_seed(0)
    shares = torch.randn(S, B, targets, kinds, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(kinds, S, B, W, generator=generator, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layers.mixture(shares, x), torch.einsum("srjm,msrd->jsrd", shares, x))
    assert torch.autograd.gradcheck(layers.mixture, (shares, x))


def test_shared_parameters_come_first(case):
    _, layout, _, _ = case
    assert [parameter.per_task for parameter in layout.parameters.values()] == [False] * 6 + [True] * 3
    assert layout.shared_size == W * (I + E) + 3 * W + 2 * W * (W // 2 + 1)
    assert layout.size == layout.shared_size + K * (E + O * W + O)


@pytest.mark.parametrize(("rows", "columns"), [(6, 4), (4, 6), (5, 5)])
def test_orthogonal_matrices(rows, columns):
    view = torch.empty(S, K, rows, columns, dtype=torch.float64)
    orthogonal(2.0)(view, SeedStreams([0, 1], "test"))
    short = view if rows < columns else view.mT
    eye = torch.eye(min(rows, columns), dtype=torch.float64).expand(S, K, -1, -1)
    torch.testing.assert_close(short @ short.mT, 4 * eye)
    assert not torch.allclose(view[0], view[1])


@pytest.mark.parametrize("initial", [uniform(0.3), normal(0.3), he_uniform(20), orthogonal(), constant(2.0)])
def test_initial_values_of_a_seed_do_not_depend_on_the_others(initial):
    views = []
    for seeds in ([3], [0, 3, 5]):
        view = torch.empty(len(seeds), 4, 3)
        initial(view, SeedStreams(seeds, "test"))
        views.append(view[seeds.index(3)])
    assert torch.equal(*views)


# What holds for every network in configs/network: a new one needs no test of its own for this.

NETWORKS = choices("network")
SMALL = {
    "hidden_sizes": [7, 6],
    "width": 7,
    "encoder_sizes": [5],
    "encoding_size": 4,
    "gating_sizes": [5, 6],
}  # of these settings a network is given those that it has


@pytest.fixture(params=NETWORKS)
def network(request):
    section = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "network" / f"{request.param}.yaml"))
    return build(section | {key: value for key, value in SMALL.items() if key in section}, Network, "network")


def flat_of(net, seeds=(0, 1)):
    layout = layout_of([net])
    flat = torch.zeros(len(seeds), layout.size, dtype=torch.float64)
    layout.initialize(flat, SeedStreams(seeds, "test"))
    return layout, flat


class _Plain:
    """Layers whose parameters autograd sees, in the places of those that hand their gradients to a recorder."""

    def __init__(self, forward):
        self.apply = forward


PLAIN = {
    "_SharedLinear": _Plain(lambda x, weight, bias, *_: x @ weight.mT + bias.unsqueeze(1)),
    "_TaskLinear": _Plain(lambda x, weight, bias, *_: x @ weight.mT + bias.unsqueeze(2)),
    "_ExpertLinear": _Plain(lambda x, weight, bias, *_: x @ weight.mT + bias.unsqueeze(2)),
    "_MixedLinear": _Plain(
        lambda x, shares, weight, bias, *_: (
            torch.einsum("skn,skbi,snoi->skbo", shares, x, weight) + (shares @ bias).unsqueeze(2)
        )
    ),
    "_Mixture": _Plain(lambda shares, x: torch.einsum("srjm,msrd->jsrd", shares, x)),
    "_Affine": _Plain(lambda x, gain, bias, *_: x * gain.unsqueeze(1) + bias.unsqueeze(1)),
    "_TaskVectors": _Plain(lambda vectors, *_: vectors.unsqueeze(2).clone()),
}


@pytest.mark.parametrize("num_tasks", [1, 2, 10])
def test_one_pass_gives_the_gradients_of_every_network(network, num_tasks, monkeypatch):
    net = network.made("net", I, O, num_tasks)
    layout, flat = flat_of(net)
    generator = torch.Generator().manual_seed(0)
    flat += 0.3 * torch.randn(flat.shape, generator=generator, dtype=flat.dtype)  # zeros would hide mistakes
    x, target = (torch.randn(S, num_tasks, B, size, generator=generator, dtype=flat.dtype) for size in (I, O))
    gradients = TaskGradients(layout, S, num_tasks, "all", dtype=flat.dtype)
    (net(layout.views(flat), x, gradients) - target).square().mean((2, 3)).sum().backward()

    for name, layer in PLAIN.items():
        monkeypatch.setattr(layers, name, layer)
    flat = flat.requires_grad_()
    losses = (net(layout.views(flat), x) - target).square().mean((2, 3))
    rows = [torch.autograd.grad(losses[:, k].sum(), flat, retain_graph=True)[0] for k in range(num_tasks)]
    torch.testing.assert_close(gradients.jacobian, torch.stack(rows, 1), rtol=1e-10, atol=1e-12)


def test_every_network_passes_the_trial_of_ones_own(network):
    try_out(network.made("net", I, O, K), "net", I, O, K)


def test_every_network_starts_the_same_alone_and_among_others(network):
    net = network.made("net", I, O, K)
    (_, alone), (_, together) = flat_of(net, [3]), flat_of(net, [0, 3, 5])
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_every_network_keeps_rows_apart(network):
    """Rows of a batch, tasks and seeds: what one gets depends on its own input alone."""
    net = network.made("net", I, O, K)
    layout, flat = flat_of(net)
    x = torch.randn(S, K, B, I, generator=torch.Generator().manual_seed(0), dtype=flat.dtype)
    with torch.no_grad():
        before = net(layout.views(flat), x)
        changed = x.clone()
        changed[1, 2, 3] += 1
        after = net(layout.views(flat), changed)
    assert before.shape == (S, K, B, O)
    differs = (before != after).any(-1)
    assert differs.nonzero().tolist() == [[1, 2, 3]]


def test_networks_of_one_kind_share_a_flat_tensor(network):
    nets = [network.made(name, I, O, K) for name in ("first", "second")]
    for net, name in zip(nets, ("first", "second"), strict=True):
        assert all(key.startswith(f"{name}.") for key in net.parameters)
    assert layout_of(nets).size == 2 * layout_of(nets[:1]).size


# What single networks are, in plain operations.


@pytest.mark.parametrize("heads", ["shared", "task"])
def test_a_residual_network_in_plain_operations(heads):
    net = Residual(width=7, blocks=2, heads=heads).made("net", I, O, K)
    layout, flat = flat_of(net)
    flat += 0.3 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0), dtype=flat.dtype)
    x, params = torch.randn(S, K, B, I, dtype=flat.dtype), layout.views(flat)
    found = net(params, x)
    assert ("head" in vars(net)) == (heads == "task")  # where PopArt looks for the tasks' own
    for s in range(S):

        def normal(layer, rows, s=s):
            rows = F.linear(rows, params[f"net.{layer}.weight"][s], params[f"net.{layer}.bias"][s])
            norm = f"net.{layer}.norm"
            return F.layer_norm(rows, (7,), params[f"{norm}.gain"][s], params[f"{norm}.bias"][s])

        for k in range(K):
            rows = normal("stem", x[s, k]).relu()
            for block in ("block.0", "block.1"):
                rows = rows + normal(f"{block}.1", normal(f"{block}.0", rows).relu())
            own = (s,) if heads == "shared" else (s, k)
            expected = F.linear(rows, params["net.head.weight"][own], params["net.head.bias"][own])
            torch.testing.assert_close(found[s, k], expected)


def test_a_residual_network_starts_orthogonal():
    net = Residual(width=16, blocks=1).made("net", I, O, K)
    layout, flat = flat_of(net)
    for name, view in layout.views(flat).items():
        if name.endswith("weight"):
            short = view if view.shape[1] < view.shape[2] else view.mT
            eye = torch.eye(short.shape[1], dtype=flat.dtype).expand(2, -1, -1)
            torch.testing.assert_close(short @ short.mT, 2 * eye)
        else:
            assert (view == (1.0 if name.endswith("gain") else 0.0)).all()


def made_for_a_test(network):
    """With parameters that are not as small as at first, and inputs."""
    net = network.made("net", I, O, K)
    layout, flat = flat_of(net)
    flat += 0.3 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0), dtype=flat.dtype)
    return net, layout.views(flat), torch.randn(S, K, B, I, dtype=flat.dtype)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("shared", [True, False])
def test_one_network_for_all_tasks_and_one_for_each(shared, layer_norm):
    network = MultiHeadMLP([7, 6], layer_norm, heads="shared") if shared else IndependentMLP([7, 6], layer_norm)
    net, params, x = made_for_a_test(network)
    assert {each.per_task for each in net.parameters.values()} == {not shared}
    layer = "trunk" if shared else "layer"
    for s in range(S):
        for k in range(K):
            own, rows = ((s,) if shared else (s, k)), x[s, k]
            for index, width in enumerate((7, 6)):
                name = f"net.{layer}.{index}"
                rows = F.linear(rows, params[f"{name}.weight"][own], params[f"{name}.bias"][own])
                rows = (F.layer_norm(rows, (width,)) if layer_norm else rows).relu()
            expected = F.linear(rows, params["net.head.weight"][own], params["net.head.bias"][own])
            torch.testing.assert_close(net(params, x)[s, k], expected)


@pytest.mark.parametrize(("layers_", "modules", "gating"), [(2, 2, [5, 6]), (4, 3, [5]), (1, 2, [5, 6, 4])])
def test_soft_modularization_row_by_row(layers_, modules, gating):
    """As its code has it, a row and a module at a time."""
    network = SoftModularization(layers_, modules, width=5, hidden_sizes=[8, 7], gating_sizes=gating)
    net, params, x = made_for_a_test(network)
    found, parts = net(params, x), [slice(5 * j, 5 * j + 5) for j in range(modules)]
    for s in range(S):

        def dense(name, row, s=s, part=slice(None)):
            return params[f"net.{name}.weight"][s][part] @ row + params[f"net.{name}.bias"][s][part]

        for k, b in ((0, 0), (1, 3), (2, 4)):
            features = dense("base.1", dense("base.0", x[s, k, b]).relu())
            gate = (features * params["net.task"][s, k]).relu()
            for index in range(len(gating)):
                gate = dense(f"gating.{index}", gate if index == 0 else gate.relu())
            seen, inputs = [], [features.relu()] * modules
            for layer in range(layers_):
                outputs = [dense(f"modules.{layer}", inputs[j], part=j) for j in range(modules * (layer > 0))]
                outputs = outputs or [dense("modules.0", inputs[0], part=part) for part in parts]
                signal = gate.relu()
                if layer > 0:
                    signal = (dense(f"condition.{layer}", torch.cat(seen)) * gate).relu()
                logits = dense(f"route.{layer}", signal)
                shares = [each.softmax(0) for each in logits.split(modules)]  # of one input, or that of the head
                seen += shares
                inputs = [sum(share * each for share, each in zip(of, outputs, strict=True)).relu() for of in shares]
            assert len(inputs) == 1
            torch.testing.assert_close(found[s, k, b], dense("head", inputs[0]))
