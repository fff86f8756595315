"""The methods that solve a problem, against solvers of others: each on 1,000 Jacobians of 2 to 50 tasks."""

import warnings

import cvxpy
import numpy as np
import pytest
import torch
from hard_matrices import cone_jacobians, make, oracle_jacobians
from scipy.optimize import nnls
from torchjd.aggregation import IMTLG, AlignedMTL, CAGradWeighting, UPGrad
from torchjd.linalg import QuadprogProjector

SIZES = (2, 3, 10, 50)
RELATIVE = 1e-4
ZERO = 1e-9  # of the largest squared norm: an optimum of 0, up to rounding


def solve(method, jacobian, **settings):
    """The weights [N, K] and the diagnostics of a method on Jacobians [N, K, P]."""
    combiner = make(method, range(len(jacobian)), jacobian.shape[1], **settings)
    weights = combiner.weights(jacobian @ jacobian.mT, torch.ones(jacobian.shape[:2]))
    return weights, combiner.diagnostics


def squared_norms(jacobian, weights):
    return (weights.unsqueeze(1) @ jacobian).square().sum((1, 2))


def largest_squares(jacobian):
    return jacobian.square().sum(-1).amax(-1)


def assert_objectives_agree(found, expected, scale):
    expected, scale = torch.as_tensor(expected), torch.as_tensor(scale)
    assert len(found) == 250
    assert ((found - expected).abs() <= RELATIVE * expected.abs() + ZERO * scale).all()


def least_square(rows):
    """min ‖Σ w_i g_i‖² on the simplex by least-distance programming (Lawson and Hanson, chapter 23.4)."""
    scale = np.abs(rows).max()
    system = np.vstack([rows.T / scale, np.ones(len(rows))])
    target = np.zeros(len(system))
    target[-1] = 1
    weights, _ = nnls(system, target, maxiter=100 * len(rows))
    weights /= weights.sum()
    return float(np.square(weights @ rows).sum())


@pytest.mark.parametrize("num_tasks", SIZES)
def test_mgda_finds_the_shortest_vector(num_tasks):
    jacobian = oracle_jacobians(num_tasks)
    weights, diagnostics = solve("mgda", jacobian)
    torch.testing.assert_close(weights.sum(-1), torch.ones(250, dtype=torch.float64))
    assert (weights >= 0).all()
    assert not diagnostics["missed_solves"].any()
    expected = [least_square(rows) for rows in jacobian.numpy()]
    assert_objectives_agree(squared_norms(jacobian, weights), expected, largest_squares(jacobian))


@pytest.mark.parametrize("num_tasks", SIZES)
def test_sdmgrad_finds_the_shortest_shifted_vector(num_tasks):
    jacobian = oracle_jacobians(num_tasks)
    weights, diagnostics = solve("sdmgrad", jacobian, lamda=0.6)
    shifted = jacobian + 0.6 * jacobian.mean(1, keepdim=True)
    task_weights = diagnostics["task_weight"]
    torch.testing.assert_close(weights, (task_weights + 0.6 / num_tasks) / 1.6)
    assert not diagnostics["missed_solves"].any()
    expected = [least_square(rows) for rows in shifted.numpy()]
    assert_objectives_agree(squared_norms(shifted, task_weights), expected, largest_squares(jacobian))


def test_sdmgrad_where_a_shifted_gradient_vanishes():
    """g_1 + λ g_0 = 0 for g_2 = −(13/3) g_1: rounding makes its square negative in a part of these."""
    generator = torch.Generator().manual_seed(0)
    first, noise = torch.randn(2, 3000, 2, generator=generator, dtype=torch.float64)
    jacobian = torch.stack((first, -13 / 3 * first + 1e-8 * noise), 1)
    weights, diagnostics = solve("sdmgrad", jacobian, lamda=0.6)
    assert weights.isfinite().all()
    assert not diagnostics["missed_solves"].any()


@pytest.mark.parametrize("num_tasks", SIZES)
def test_upgrad_projects_onto_the_dual_cone(num_tasks):
    """Against non-negative least squares, a gradient at a time."""
    jacobian = oracle_jacobians(num_tasks, draws={2: 15, 3: 15, 10: 8, 50: 2}[num_tasks])
    weights, diagnostics = solve("upgrad", jacobian)
    direction = (weights.unsqueeze(1) @ jacobian).squeeze(1)
    assert not diagnostics["missed_solves"].any()
    norms = jacobian.norm(dim=-1)
    inner = (jacobian @ direction.unsqueeze(-1)).squeeze(-1)
    assert (inner >= -1e-6 * norms * norms.amax(-1, keepdim=True)).all(), "no task is harmed"
    units = (jacobian / norms.clamp_min(1e-300).unsqueeze(-1)).numpy()
    for unit, norm, found in zip(units, norms.numpy(), direction.numpy(), strict=True):
        projected = [row + nnls(unit.T, -row, maxiter=5000)[0] @ unit for row in unit]
        expected = (norm @ np.array(projected)) / num_tasks
        assert np.linalg.norm(found - expected) <= RELATIVE * np.linalg.norm(expected) + 3e-5 * norm.max()


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_upgrad_equals_torchjd(num_tasks):
    aggregate = UPGrad(projector=QuadprogProjector(norm_eps=1e-12, reg_eps=1e-10))
    jacobian = cone_jacobians(num_tasks)[:100]
    weights, _ = solve("upgrad", jacobian)
    for rows, row_weights in zip(jacobian, weights, strict=True):
        torch.testing.assert_close(
            row_weights @ rows, aggregate(rows), rtol=0, atol=1e-4 * rows.norm(dim=-1).max().item()
        )


@pytest.mark.parametrize("num_tasks", SIZES)
def test_cagrad_finds_the_optimum(num_tasks):
    """Against a conic solver, on the problem divided by ‖g_0‖ max ‖g_i‖."""
    jacobian = oracle_jacobians(num_tasks)
    _, diagnostics = solve("cagrad", jacobian, c=0.5)
    weights = diagnostics["task_weight"]
    assert not diagnostics["missed_solves"].any()
    units = jacobian / largest_squares(jacobian).sqrt()[:, None, None]
    mean = units.mean(1)
    mean = mean / mean.norm(dim=-1, keepdim=True).clamp_min(1e-7)
    along = (units @ mean.unsqueeze(-1)).squeeze(-1)
    found = (along * weights).sum(-1) + 0.5 * squared_norms(units, weights).sqrt()

    variable = cvxpy.Variable(num_tasks, nonneg=True)
    linear, root = cvxpy.Parameter(num_tasks), cvxpy.Parameter((num_tasks, num_tasks))
    objective = linear @ variable + 0.5 * cvxpy.norm(root @ variable)
    problem = cvxpy.Problem(cvxpy.Minimize(objective), [cvxpy.sum(variable) == 1])
    expected = []
    for rows, row_along in zip(units.numpy(), along.numpy(), strict=True):
        linear.value, root.value = row_along, np.linalg.qr(rows.T, mode="r")
        expected.append(problem.solve(solver=cvxpy.CLARABEL))
    expected = torch.tensor(expected)
    assert ((found - expected).abs() <= RELATIVE * expected.abs() + 1e-6).all()


@pytest.mark.parametrize("num_tasks", SIZES)
def test_nashmtl_solves_the_bargaining_problem(num_tasks):
    """Gα = 1/α on gradients with a common descent direction, up to the scale that the authors' code gives α."""
    jacobian = cone_jacobians(num_tasks)
    weights, diagnostics = solve("nashmtl", jacobian)
    assert not diagnostics["missed_solves"].any()
    gramian = jacobian @ jacobian.mT
    size = gramian.square().sum((1, 2)).sqrt()[:, None]
    products = weights * (gramian @ weights.unsqueeze(-1)).squeeze(-1) / size
    torch.testing.assert_close(products, torch.ones_like(products), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_nashmtl_minimises_the_convex_objective(num_tasks):
    jacobian = cone_jacobians(num_tasks)[::5]
    weights, _ = solve("nashmtl", jacobian)
    norms = jacobian.norm(dim=-1)
    size = (jacobian @ jacobian.mT).square().sum((1, 2)).sqrt()[:, None]
    found = weights * norms / size.sqrt()
    variable, root = cvxpy.Variable(num_tasks), cvxpy.Parameter((num_tasks, num_tasks))
    objective = 0.5 * cvxpy.sum_squares(root @ variable) - cvxpy.sum(cvxpy.log(variable))
    problem = cvxpy.Problem(cvxpy.Minimize(objective))
    for rows, value in zip((jacobian / norms.unsqueeze(-1)).numpy(), found.numpy(), strict=True):
        root.value = np.linalg.qr(rows.T, mode="r")
        problem.solve(solver=cvxpy.CLARABEL)
        np.testing.assert_allclose(value, variable.value, rtol=1e-3)


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_nashmtl_outside_its_domain(num_tasks):
    """A zero gradient gets no weight and is left out; with opposite gradients the direction lies across them."""
    jacobian = cone_jacobians(num_tasks)[:50]
    bargained, _ = solve("nashmtl", jacobian)
    with_zero = torch.cat((jacobian, torch.zeros_like(jacobian[:, :1])), 1)
    weights, _ = solve("nashmtl", with_zero)
    assert not weights[:, -1].any()
    torch.testing.assert_close(weights[:, :-1], bargained, rtol=1e-6, atol=0)
    opposite = torch.cat((jacobian, -jacobian[:, :1]), 1)
    weights, _ = solve("nashmtl", opposite)
    direction = (weights.unsqueeze(1) @ opposite).squeeze(1)
    along = torch.cosine_similarity(direction, jacobian[:, 0], dim=-1, eps=1e-300)
    assert direction.isfinite().all()
    assert (
        along.abs() * direction.norm(dim=-1) <= 1e-3 * direction.norm(dim=-1) + 1e-3 * jacobian[:, 0].norm(dim=-1)
    ).all()


@pytest.mark.parametrize("num_tasks", SIZES)
def test_imtl_g_has_equal_projections(num_tasks):
    """Independent gradients: the closed form of the paper, its Eq 6, from differences to the first gradient."""
    jacobian = cone_jacobians(num_tasks)
    independent = torch.linalg.cond(jacobian / jacobian.norm(dim=-1, keepdim=True)) < 1e5
    assert independent.sum() >= 150
    jacobian = jacobian[independent]
    weights, _ = solve("imtl_g", jacobian)
    units = jacobian / jacobian.norm(dim=-1, keepdim=True)
    differences, unit_differences = (m[:, :1] - m[:, 1:] for m in (jacobian, units))
    system = differences @ unit_differences.mT
    tail = torch.linalg.solve(system.mT, (unit_differences @ jacobian[:, 0].unsqueeze(-1))).squeeze(-1)
    expected = torch.cat((1 - tail.sum(-1, keepdim=True), tail), -1)
    direction, wanted = ((w.unsqueeze(1) @ jacobian).squeeze(1) for w in (weights, expected))
    error = (direction - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert (error <= RELATIVE).all()
    projections = (units @ direction.unsqueeze(-1)).squeeze(-1)
    assert ((projections - projections.mean(-1, keepdim=True)).abs() <= RELATIVE * projections.abs()).all()


@pytest.mark.parametrize("num_tasks", SIZES)
def test_imtl_g_with_dependent_gradients(num_tasks):
    """The pseudo-inverse of the cosines, by another route."""
    jacobian = oracle_jacobians(num_tasks)
    weights, _ = solve("imtl_g", jacobian)
    assert weights.isfinite().all()
    norms = jacobian.norm(dim=-1)
    present = (norms > 0).to(norms)
    units = jacobian / norms.clamp_min(1e-300).unsqueeze(-1)
    inverse = torch.linalg.pinv(units, rtol=1e-6)  # C⁺1 = (U⁺)ᵀ U⁺ 1
    raw = (inverse.mT @ (inverse @ present.unsqueeze(-1))).squeeze(-1) / norms.clamp_min(1e-300) * present
    total = raw.sum(-1, keepdim=True)
    terms = raw.abs() + present / norms.clamp_min(1e-300)
    usable = (total.abs() > 1e-5 * terms.sum(-1, keepdim=True)).squeeze(-1)
    expected = raw / total
    error = (weights - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert usable.sum() >= 175  # two opposite gradients have no such direction, nor have two in one line
    assert (error[usable] <= RELATIVE).all()


def test_imtl_g_equals_torchjd():
    jacobian = cone_jacobians(3)[:50]
    weights, _ = solve("imtl_g", jacobian)
    scaled = jacobian / largest_squares(jacobian).sqrt()[:, None, None]
    expected = torch.stack([IMTLG()(rows) for rows in scaled])
    torch.testing.assert_close((weights.unsqueeze(1) @ scaled).squeeze(1), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_tasks", SIZES)
@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
def test_aligned_mtl_equals_torchjd(num_tasks, scale):
    jacobian = oracle_jacobians(num_tasks)
    weights, _ = solve("aligned_mtl", jacobian, scale=scale)
    aggregate = AlignedMTL(scale_mode=scale)
    for rows, row_weights in zip(jacobian, weights, strict=True):
        found, expected = row_weights @ rows, aggregate(rows)
        assert (found - expected).norm() <= RELATIVE * expected.norm()


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_cagrad_equals_torchjd(num_tasks):
    jacobian = cone_jacobians(num_tasks)[:50]
    _, diagnostics = solve("cagrad", jacobian, c=0.4)
    units = jacobian / largest_squares(jacobian).sqrt()[:, None, None]
    weigh = CAGradWeighting(c=0.4, norm_eps=1e-12)
    for rows, task_weights in zip(units, diagnostics["task_weight"], strict=True):
        gramian = rows @ rows.T
        mean_norm = gramian.mean().sqrt()
        ours = 1 / num_tasks + 0.4 * mean_norm * task_weights / (task_weights @ gramian @ task_weights).sqrt()
        torch.testing.assert_close(ours @ rows, weigh(gramian) @ rows, rtol=0, atol=2e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("num_tasks", SIZES)
def test_fairgrad_meets_the_conditions_of_fairness(num_tasks, alpha):
    """Gw = w^(-1/α), G over its norm, on gradients with a common descent direction."""
    jacobian = cone_jacobians(num_tasks)
    weights, diagnostics = solve("fairgrad", jacobian, alpha=alpha)
    assert not diagnostics["missed_solves"].any()
    size = (jacobian @ jacobian.mT).square().sum((1, 2)).sqrt()[:, None]
    products = (jacobian @ (weights.unsqueeze(1) @ jacobian).mT).squeeze(-1) / size
    torch.testing.assert_close(products * weights ** (1 / alpha), torch.ones_like(products), rtol=0, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_fairgrad_maximises_the_utility(num_tasks, alpha):
    """Against a conic solver: the direction d of length 1 with the largest Σ (g_iᵀd)^(1 - α)/(1 - α)."""
    jacobian = cone_jacobians(num_tasks)[::5]
    jacobian = jacobian / jacobian.norm(dim=-1).amax(-1)[:, None, None]
    weights, _ = solve("fairgrad", jacobian, alpha=alpha)
    direction = (weights.unsqueeze(1) @ jacobian).squeeze(1)
    direction /= direction.norm(dim=-1, keepdim=True)
    variable = cvxpy.Variable(jacobian.shape[-1])
    for rows, found in zip(jacobian.numpy(), direction.numpy(), strict=True):
        utility = cvxpy.sum(cvxpy.power(rows @ variable, 1 - alpha)) / (1 - alpha)
        problem = cvxpy.Problem(cvxpy.Maximize(utility), [cvxpy.norm(variable) <= 1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the last digits, which the comparison does not need
            expected = problem.solve(solver=cvxpy.CLARABEL)
        reached = ((rows @ found) ** (1 - alpha)).sum() / (1 - alpha)
        assert reached >= expected - 1e-4 * abs(expected)


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_fairgrad_with_alpha_one_is_nashmtl(num_tasks):
    jacobian = cone_jacobians(num_tasks)
    fair, _ = solve("fairgrad", jacobian, alpha=1.0)
    bargained, _ = solve("nashmtl", jacobian)
    torch.testing.assert_close(fair, bargained, rtol=1e-4, atol=0)


def test_fairgrad_leaves_out_a_zero_gradient():
    jacobian = cone_jacobians(3)[:50]
    shared_out, _ = solve("fairgrad", jacobian)
    weights, _ = solve("fairgrad", torch.cat((jacobian, torch.zeros_like(jacobian[:, :1])), 1))
    assert not weights[:, -1].any()
    torch.testing.assert_close(weights[:, :-1], shared_out, rtol=1e-6, atol=0)
