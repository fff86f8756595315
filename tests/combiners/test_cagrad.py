"""CAGrad and the simplex solver against references."""

import numpy as np
import pytest
import torch
from hard_matrices import hard_jacobians, make
from scipy.optimize import minimize

from mtrl_conic.combiners.solvers import min_norm_weights

LOSSES = torch.ones(1, 1)


def objective(weights, gramian, c):
    """The dual objective of CAGrad, and its scale ‖g_0‖ max ‖g_i‖; NumPy, one problem."""
    mean = np.full(len(gramian), 1 / len(gramian))
    mean_norm = np.sqrt(max(mean @ gramian @ mean, 0))
    value = weights @ gramian @ mean + c * mean_norm * np.sqrt(max(weights @ gramian @ weights, 0))
    return value, mean_norm * np.sqrt(gramian.diagonal().max())


def slsqp(gramian, c):
    """The best value that SciPy's SLSQP finds from a few starts."""
    num_tasks = len(gramian)
    starts = [np.full(num_tasks, 1 / num_tasks), *np.eye(num_tasks)[:2]]
    constraint = {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = np.inf
    for start in starts:
        found = minimize(
            lambda w: objective(w, gramian, c)[0],
            0.9 * start + 0.1 / num_tasks,
            method="SLSQP",
            bounds=[(0, 1)] * num_tasks,
            constraints=constraint,
            options={"maxiter": 300, "ftol": 1e-12},
        )
        weights = found.x.clip(0) / found.x.clip(0).sum()
        best = min(best, objective(weights, gramian, c)[0])
    return best


def dual_weights(combiner, gramian):
    """The ω that a CAGrad finds for one Gramian."""
    combiner.weights(gramian.unsqueeze(0), LOSSES)
    return combiner.diagnostics["task_weight"][0].numpy()


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
@pytest.mark.parametrize("c", [0.4, 0.9])
def test_no_worse_than_slsqp(num_tasks, c):
    for name, jacobian in hard_jacobians(num_tasks).items():
        jacobian = jacobian.double()
        gramian = (jacobian @ jacobian.T) / max(jacobian.square().sum(-1).max().item(), 1e-30)
        combiner = make("cagrad", num_tasks=num_tasks, c=c)
        weights = dual_weights(combiner, gramian)
        value, scale = objective(weights, gramian.numpy(), c)
        assert value <= slsqp(gramian.numpy(), c) + 1e-6 * scale + 1e-15, name
        assert weights.min() >= -1e-12, name


@pytest.mark.parametrize("num_tasks", [2, 3, 10, 50])
@pytest.mark.parametrize("c", [0.0, 0.4, 0.9, 0.99])
def test_duality_gap_closes(num_tasks, c):
    batches = [hard_jacobians(num_tasks, seed=seed) for seed in range(20)]
    for name in batches[0]:
        jacobian = torch.stack([batch[name] for batch in batches]).double()
        combiner = make("cagrad", range(20), num_tasks, c=c)
        combiner.direction(jacobian, LOSSES.expand(20, num_tasks))
        gap = combiner.diagnostics["residual"].abs()  # bounds the error from above
        assert gap.median() < 1e-6, name
        assert gap.max() < (2e-6 if c < 0.95 else 1e-2), name  # as c → 1, 1 in 1000 is not done after 28 iterations


@pytest.mark.parametrize("num_tasks", [2, 10])
def test_direction_stays_in_the_ball(num_tasks):
    for name, jacobian in hard_jacobians(num_tasks).items():
        jacobian = jacobian.double().unsqueeze(0)
        combiner = make("cagrad", num_tasks=num_tasks, c=0.4)
        mean = jacobian.mean(1)
        offset = combiner.direction(jacobian, LOSSES.expand(1, num_tasks)) * (1 + 0.4**2) - mean
        assert offset.norm() <= 0.4 * mean.norm() * (1 + 1e-6) + 1e-12, name


def test_c_zero_gives_the_mean():
    jacobian = hard_jacobians(5)["conflicting"].unsqueeze(0)
    direction = make("cagrad", num_tasks=5, c=0.0).direction(jacobian, LOSSES.expand(1, 5))
    torch.testing.assert_close(direction, jacobian.mean(1))


def test_two_tasks_equal_a_fine_grid():
    share = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    grid = torch.stack((share, 1 - share), -1)
    for name, jacobian in hard_jacobians(2).items():
        gramian = jacobian.double() @ jacobian.double().T
        mean_norm = gramian.mean().clamp_min(0).sqrt()
        squares = ((grid @ gramian) * grid).sum(-1).clamp_min(0)
        values = grid @ gramian.mean(-1) + 0.5 * mean_norm * squares.sqrt()
        weights = dual_weights(make("cagrad", num_tasks=2, c=0.5), gramian)
        value, scale = objective(weights, gramian.numpy(), 0.5)
        assert value <= values.min().item() + 1e-6 * scale + 1e-15, name


@pytest.mark.parametrize("num_tasks", [1, 2, 10, 50])
def test_the_shortest_vector_of_the_hull(num_tasks):
    """At the optimum every g_i·g_ω is at least ‖g_ω‖²."""
    for name, jacobian in hard_jacobians(num_tasks).items():
        gramian = (jacobian.double() @ jacobian.double().T).unsqueeze(0)
        gramian = gramian / gramian.abs().max().clamp_min(1e-30)
        solution = min_norm_weights(gramian)
        products = (gramian @ solution.weights.unsqueeze(-1)).squeeze(-1)
        square = (products * solution.weights).sum(-1)
        assert square - products.amin(-1) <= 1e-5 * square + 1e-12, name
        assert solution.gap.abs() < 1e-5, name
        torch.testing.assert_close(solution.weights.sum(-1), torch.ones(1, dtype=torch.float64))
        assert (solution.weights >= 0).all()


@pytest.mark.parametrize("num_tasks", [2, 10])
def test_the_authors_inner_solve_is_near_the_optimum(num_tasks):
    jacobian = torch.stack([hard_jacobians(num_tasks, seed=seed)["random"] for seed in range(50)]).double()
    losses = LOSSES.expand(50, num_tasks)
    exact, inner = (make("cagrad", range(50), num_tasks, c=0.5, inner_iterations=n) for n in (None, 20))
    directions = [combiner.direction(jacobian, losses) for combiner in (exact, inner)]
    assert torch.cosine_similarity(*directions).median() > 0.99
    assert not torch.allclose(*directions, rtol=1e-3)
