"""The two-task toy problem of the papers."""

import pytest
import torch

from mtrl_conic.combiners.conicgrad import ConicGrad
from mtrl_conic.combiners.ls import LS
from mtrl_conic.toy import problem as toy
from mtrl_conic.toy.descent import TOLERANCE, descend


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


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_losses_stay_above_their_lower_bounds(scale):
    axis = torch.linspace(-12, 12, 481)
    lowest = toy.losses(torch.cartesian_prod(axis, axis).double(), scale).amin(0)
    assert (lowest >= torch.tensor(toy.LOWER_BOUNDS[scale]) + 0.1).all()


def test_ls_descends():
    descent = descend(LS(), [toy.STARTS[3]], 0.1, 500)
    assert descent.excess[-1] < descent.excess[0] - 0.5
    assert descent.smallest_cosine > 1 - 1e-9


@pytest.mark.parametrize("c", [0.25, 0.5])
def test_conicgrad_descends_in_the_cone(c):
    descent = descend(ConicGrad(c=c, gamma=0.001), toy.STARTS, 0.1, 1000)
    assert (descent.excess[-1] < descent.excess[0]).all()
    assert descent.smallest_cosine.min() >= c - 1e-5


def test_an_exact_conicgrad_descends_in_the_cone():
    descent = descend(ConicGrad(c=0.5, weights="exact"), toy.STARTS, 0.1, 300)
    assert (descent.excess[-1] < descent.excess[0]).all()
    assert descent.smallest_cosine.min() >= 0.5 - 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("weights", ["adam", "exact"])
@pytest.mark.parametrize("c", [0.25, 0.5])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_conicgrad_reaches_the_minimum_and_stays(c, scale, weights):
    """Figure 1 of arXiv 2502.00217: all five starts, 50,000 steps."""
    descent = descend(ConicGrad(c=c, gamma=0.001, weights=weights), toy.STARTS, scale, 50_000)
    print("first hits", descent.first_hit.tolist())
    assert (descent.first_hit >= 0).all()
    assert (descent.excess[-1000:] < TOLERANCE).all()
    assert descent.smallest_cosine.min() >= c - 1e-5
