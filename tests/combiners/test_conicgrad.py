"""ConicGrad's promises, its propositions and the reading of its equations."""

import pytest
import torch
from hard_matrices import SCALES, hard_jacobians, make

from mtrl_conic.combiners.conicgrad import DEGENERATE

UPDATES = 3


def norm(tensor):
    """Norm [S] of vectors [S, P], without underflow."""
    largest = tensor.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    return (tensor / largest).norm(dim=-1) * largest.squeeze(-1)


def check_promises(jacobian, direction, c):
    """Cosine and norm in float64; returns how many Jacobians were not degenerate."""
    jacobian, direction = jacobian.double(), direction.double()
    mean = jacobian.mean(1)
    mean_norm, largest = norm(mean), norm(jacobian.flatten(0, 1)).view(jacobian.shape[:2]).amax(1)
    ratio = mean_norm / largest.clamp_min(1e-300)
    usable, degenerate = ratio > DEGENERATE * 1.001, ratio < DEGENERATE * 0.999
    unit = mean / mean_norm.clamp_min(1e-300).unsqueeze(1)
    cosine = (direction * unit).sum(-1) / norm(direction).clamp_min(1e-300)
    assert (cosine[usable] >= c - 1e-5).all()
    assert ((norm(direction) / mean_norm - 1)[usable].abs() <= 1e-4).all()
    # g_0 itself, up to the rounding of its sum
    difference = norm(direction - mean)[degenerate]
    assert (difference <= 1e-6 * mean_norm[degenerate] + 1e-14 * largest[degenerate]).all()
    return int(usable.sum())


def scaled(jacobians):
    """The batch at each scale, as float32."""
    return torch.cat([jacobians.float() * scale for scale in SCALES])


@pytest.mark.parametrize("c", [0.01, 0.25, 0.5, 0.75, 0.99, 1.0])
@pytest.mark.parametrize("num_tasks", [1, 2, 3, 10, 50])
def test_cone_and_norm_on_random_jacobians(num_tasks, c):
    """100 Jacobians in 5 scales, 3 updates each: 45,000 directions over all parameters of this test."""
    generator = torch.Generator().manual_seed(num_tasks)
    common = torch.randn(100, 1, 31, generator=generator) * torch.rand(100, 1, 1, generator=generator) * 2
    spread = 10 ** (6 * torch.rand(100, num_tasks, 1, generator=generator) - 3)
    spread[::2] = 1
    batch = scaled((torch.randn(100, num_tasks, 31, generator=generator) + common) * spread)
    combiner = make("conicgrad", range(len(batch)), num_tasks, c=c)
    for _ in range(UPDATES):
        direction = combiner.direction(batch, torch.ones(batch.shape[:2]))
        assert check_promises(batch, direction, c) > 0.9 * len(batch)


@pytest.mark.parametrize("c", [0.25, 0.75, 1.0])
@pytest.mark.parametrize("num_tasks", [1, 2, 3, 10, pytest.param(50, marks=pytest.mark.slow)])
def test_cone_and_norm_on_hard_jacobians(num_tasks, c):
    """Six draws of each hand-made matrix in 5 scales; the logits start anywhere, as after many updates."""
    draws = [jacobian for seed in range(6) for jacobian in hard_jacobians(num_tasks, seed=seed).values()]
    batch = scaled(torch.stack(draws))
    for spread in (0.0, 1.0, 10.0):
        combiner = make("conicgrad", range(len(batch)), num_tasks, c=c)
        combiner.state["logits"].normal_(generator=torch.Generator().manual_seed(0)).mul_(spread)
        for _ in range(UPDATES):
            direction = combiner.direction(batch, torch.ones(batch.shape[:2]))
            check_promises(batch, direction, c)


@pytest.mark.parametrize("num_tasks", [2, 3, 10, 50])
def test_cone_and_norm_in_sequence(num_tasks):
    """Four seeds, 200 updates: the weights move far from uniform."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, num_tasks, 31, generator=generator) * torch.logspace(-1, 0, num_tasks).unsqueeze(1)
    combiner = make("conicgrad", range(4), num_tasks, c=0.5, gamma=0.001)
    for _ in range(200):
        jacobian = base + 0.3 * base.abs() * torch.randn(base.shape, generator=generator)
        check_promises(jacobian, combiner.direction(jacobian, torch.ones(4, num_tasks)), 0.5)
    assert (combiner.state["logits"].softmax(-1) - 1 / num_tasks).abs().max() > 0.5 / num_tasks


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_c_one_gives_the_mean_gradient(num_tasks):
    """Proposition A.3."""
    for name, jacobian in hard_jacobians(num_tasks).items():
        batch = jacobian.double().unsqueeze(0)
        combiner = make("conicgrad", num_tasks=num_tasks, c=1)
        for _ in range(UPDATES):
            direction = combiner.direction(batch, torch.ones(1, num_tasks))
        mean = batch.mean(1)
        assert norm(direction - mean) <= 1e-6 * norm(mean) + 1e-12 * jacobian.abs().max(), name


@pytest.mark.parametrize("c", [0.01, 0.5, 0.99])
def test_the_mean_gradient_is_strictly_inside_the_cone(c):
    """Proposition A.4: t g_0 with t > 0 meets the constraint with room, and g_ω along g_0 gives d = g_0."""
    mean = torch.randn(1, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (1e-6, 1.0, 1e6):
        constraint = (mean @ (t * mean).T).square() - c**2 * mean.norm() ** 2 * (t * mean).norm() ** 2
        assert constraint > 0
    jacobian = torch.stack((0.5 * mean, 1.5 * mean), 1)
    direction = make("conicgrad", num_tasks=2, c=c).direction(jacobian, torch.ones(1, 2))
    torch.testing.assert_close(direction, mean)


def test_the_exact_inverse_ascends():
    """Z = c²‖g_0‖² I − g_0 g_0ᵀ is indefinite for c < 1; at uniform weights it sends g_0 to −g_0/(1 − c²)‖g_0‖²."""
    for name in ("random", "aligned", "conflicting"):
        jacobian = hard_jacobians(3, size=20)[name].double()
        mean = jacobian.mean(0)
        for c in (0.25, 0.5, 0.9):
            exact = c**2 * mean.dot(mean) * torch.eye(20, dtype=torch.float64) - torch.outer(mean, mean)
            direction = torch.linalg.solve(exact, mean)
            assert direction.dot(mean) < 0, "following it raises the mean loss"
            torch.testing.assert_close(direction, -mean / ((1 - c**2) * mean.dot(mean)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [2, 7, 20])
@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_closed_form_equals_a_dense_solve(size, c):
    """The plain form is Z₊⁻¹ g_ω rescaled to ‖g_0‖; the turned one is it, or lies on the cone in their plane."""
    jacobian = torch.randn(4, 5, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    mean = jacobian.mean(1)
    plain = make("conicgrad", range(4), 5, c=c, gamma=0.01, enforce_cone=False)
    turned = make("conicgrad", range(4), 5, c=c, gamma=0.01)
    for _ in range(30):
        losses = torch.ones(4, 5)
        found, in_cone = plain.direction(jacobian, losses), turned.direction(jacobian, losses)
    weighted = (plain.state["logits"].softmax(-1).unsqueeze(1) @ jacobian).squeeze(1)
    square = mean.square().sum(-1)[:, None, None]
    dense = c**2 * square * torch.eye(size, dtype=torch.float64) + mean.unsqueeze(2) * mean.unsqueeze(1)
    expected = torch.linalg.solve(dense, weighted.unsqueeze(2)).squeeze(2)
    expected = expected * (norm(mean) / norm(expected)).unsqueeze(1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    cosine = (expected * mean).sum(-1) / norm(mean) ** 2
    cosine_turned = (in_cone * mean).sum(-1) / norm(mean) ** 2
    torch.testing.assert_close(cosine_turned, cosine.clamp_min(c), rtol=1e-9, atol=1e-12)
    basis = torch.linalg.qr(torch.stack((mean, expected), 2)).Q
    torch.testing.assert_close((basis @ (basis.mT @ in_cone.unsqueeze(2))).squeeze(2), in_cone)


def test_weights_follow_adam_on_the_dual_objective():
    """One update equals torch's Adam on ½ g_ωᵀ Z₊⁻¹ g_ω by automatic differentiation."""
    c, gamma = 0.5, 0.01
    jacobian = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = jacobian[0].mean(0)
    dense = c**2 * mean.dot(mean) * torch.eye(9, dtype=torch.float64) + torch.outer(mean, mean)
    combiner = make("conicgrad", num_tasks=4, c=c, gamma=gamma, weights_lr=0.1)
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.1, weight_decay=gamma)
    for _ in range(5):
        combiner.direction(jacobian, torch.ones(1, 4))
        adam.zero_grad()
        weighted = logits.softmax(-1) @ jacobian[0]
        (0.5 * weighted @ torch.linalg.solve(dense, weighted)).backward()
        adam.step()
        torch.testing.assert_close(combiner.state["logits"][0], logits.detach(), rtol=1e-7, atol=1e-9)


def test_antiparallel_direction_gives_the_mean():
    """g_1 = 10 v and g_2 = −v with all the weight on g_2: d* is −g_0, which no plane turns into the cone."""
    jacobian = torch.tensor([[[10.0, 0.0], [-1.0, 0.0]]])
    combiner = make("conicgrad", num_tasks=2)
    combiner.state["logits"][:] = torch.tensor([-20.0, 20.0])
    torch.testing.assert_close(combiner.direction(jacobian, torch.ones(1, 2)), jacobian.mean(1))
