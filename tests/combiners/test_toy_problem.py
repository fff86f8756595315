"""The two-task toy problem of the papers."""

import pytest
import torch

from mtrl_conic import toy
from mtrl_conic.combiners.conicgrad import ConicGrad
from mtrl_conic.combiners.ls import LS


def descend(combiner, starts, scale, num_steps):
    """Adam 1e-3 from each start, a seed each: excess of the mean loss [steps, S] and cos(d, g_0) [steps, S]."""
    points = torch.tensor(starts, dtype=torch.float64)
    combiner.setup(range(len(points)), 2)
    optimizer = torch.optim.Adam([points], 1e-3)
    excess, cosines = [], []
    for _ in range(num_steps):
        losses, jacobian = toy.jacobian(points, scale)
        direction, mean = combiner.direction(jacobian, losses), jacobian.mean(1)
        cosines.append(torch.cosine_similarity(direction, mean, eps=1e-30))
        excess.append(losses.mean(-1) - toy.MINIMA[scale][1])
        points.grad = direction
        optimizer.step()
    return torch.stack(excess), torch.stack(cosines)


def test_jacobian_equals_automatic_differentiation():
    points = torch.tensor(toy.STARTS, dtype=torch.float64)
    losses, jacobian = toy.jacobian(points, 0.1)
    expected = torch.func.vmap(torch.func.jacrev(lambda point: toy.losses(point, 0.1)))(points)
    torch.testing.assert_close(jacobian, expected)
    torch.testing.assert_close(losses, toy.losses(points, 0.1))


def test_every_start_can_move():
    _, jacobian = toy.jacobian(torch.tensor(toy.STARTS), 0.1)
    assert (jacobian.mean(1).norm(dim=-1) > 0).all()


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_minimum_is_a_minimum(scale):
    point, least = toy.MINIMA[scale]
    axis = torch.linspace(-12, 12, 481)
    grid = torch.cartesian_prod(axis, axis).double()
    assert toy.losses(grid, scale).mean(-1).min() >= least - 1e-4
    found = toy.losses(torch.tensor(point, dtype=torch.float64), scale).mean()
    torch.testing.assert_close(found.item(), least, rtol=0, atol=1e-4)


def test_scales_can_differ_between_points():
    points = torch.tensor(toy.STARTS)
    scales = torch.tensor([0.1, 1.0, 0.1, 1.0, 0.1])
    both = torch.stack((toy.losses(points, 0.1), toy.losses(points, 1.0)))
    torch.testing.assert_close(toy.losses(points, scales), torch.where(scales[:, None] == 0.1, *both))


def test_ls_descends():
    excess, cosines = descend(LS(), [toy.STARTS[3]], 0.1, 500)
    assert excess[-1] < excess[0] - 0.5
    assert cosines.min() > 1 - 1e-9


@pytest.mark.parametrize("c", [0.25, 0.5])
def test_conicgrad_descends_in_the_cone(c):
    excess, cosines = descend(ConicGrad(c=c, gamma=0.001), toy.STARTS, 0.1, 1000)
    assert (excess[-1] < excess[0]).all()
    assert cosines.min() >= c - 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("c", [0.25, 0.5])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_conicgrad_reaches_the_minimum_and_stays(c, scale):
    """Figure 1 of arXiv 2502.00217: all five starts, 50,000 steps."""
    excess, cosines = descend(ConicGrad(c=c, gamma=0.001), toy.STARTS, scale, 50_000)
    hit = excess < 0.02
    assert hit.any(0).all(), hit.any(0)
    print("first hits", hit.int().argmax(0).tolist())
    assert hit[-1000:].all()
    assert cosines.min() >= c - 1e-5
