"""ConicGrad with weights=exact: the best direction for the worst task in the cone, against a conic solver."""

import itertools
import math

import cvxpy
import numpy as np
import pytest
import torch
from conftest import run_command
from hard_matrices import cone_jacobians, hard_jacobians, make, oracle_jacobians
from test_conicgrad import check_promises, scaled
from test_conicgrad_schedule import MOVING

from mtrl_conic.combiners.conicgrad import ConicGrad
from mtrl_conic.settings.compose import compose_config

SIZES = (2, 3, 10, 50)
AGREES = 1e-5  # of the optimum, or of ‖g_0‖ times the norm of the shortest gradient where it is less
TURNED_BACK = [[10.0, 0.0], [-1.0, 0.0]]


def exact(jacobian, c, **settings):
    """The direction [S, P] and the combiner that gave it."""
    combiner = make("conicgrad_exact", range(len(jacobian)), jacobian.shape[1], c=c, **settings)
    return combiner.direction(jacobian, torch.ones(jacobian.shape[:2])), combiner


def worst(jacobian, direction):
    """min_i g_iᵀd / ‖g_0‖ [S] over the gradients that are not 0."""
    inner = (jacobian @ direction.unsqueeze(-1)).squeeze(-1) / jacobian.mean(1).norm(dim=-1, keepdim=True)
    return torch.where(jacobian.norm(dim=-1) > 0, inner, torch.inf).amin(-1)


def shortest(jacobian):
    norms = jacobian.norm(dim=-1)
    return torch.where(norms > 0, norms, torch.inf).amin(-1)


def best_by_clarabel(jacobian, c):
    """max_d min_i g_iᵀd subject to ‖d‖ ≤ 1 and g_0ᵀd ≥ c‖g_0‖ [S], in coordinates of the span of the gradients.

    These d are the convex hull of those of length 1 in the cone. Clarabel sees unit gradients, and the optimum in
    units of the shortest one.
    """
    num_tasks, size = jacobian.shape[1], min(jacobian.shape[1:])
    direction, value = cvxpy.Variable(size), cvxpy.Variable()
    units, prices, mean = cvxpy.Parameter((num_tasks, size)), cvxpy.Parameter(num_tasks), cvxpy.Parameter(size)
    limits = [units @ direction >= cvxpy.multiply(prices, value), cvxpy.norm(direction) <= 1, mean @ direction >= c]
    problem = cvxpy.Problem(cvxpy.Maximize(value), limits)
    found = []
    for rows, unit in zip(jacobian.numpy(), shortest(jacobian).numpy(), strict=True):
        rows = np.linalg.qr(rows.T, mode="r").T
        norms, mean.value = np.linalg.norm(rows, axis=1), rows.mean(0) / np.linalg.norm(rows.mean(0))
        there = norms > 1e-9 * norms.max()
        units.value = np.where(there[:, None], rows / np.where(there, norms, 1)[:, None], mean.value)
        prices.value = np.where(there, unit / np.where(there, norms, 1), 0)
        found.append(problem.solve(solver=cvxpy.CLARABEL) * unit)
    return torch.tensor(found, dtype=torch.float64)


def check_against_clarabel(jacobian, c):
    """The direction against the optimum over the convex hull; returns the largest difference where they are equal.

    They are where the optimum is not negative or the gradients are independent. Elsewhere the hull can have a better
    vector than the cone's surface has.
    """
    jacobian = jacobian[jacobian.mean(1).norm(dim=-1) > 1e-3 * shortest(jacobian)]
    direction, combiner = exact(jacobian, c)
    check_promises(jacobian, direction, c)
    best, found = best_by_clarabel(jacobian, c), worst(jacobian, direction)
    scale = torch.maximum(best.abs(), shortest(jacobian))
    missing = (best - found) / scale
    units = jacobian / jacobian.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    independent = torch.linalg.matrix_rank(units, rtol=1e-6) == jacobian.shape[1]
    equal = independent | (best >= -1e-7 * scale)
    assert equal.double().mean() > 0.8
    assert (missing >= -AGREES).all(), "nothing in the cone is better than the hull's best"
    assert (missing[equal] <= AGREES).all()
    residual, missed = combiner.diagnostics["residual"], combiner.diagnostics["missed_solves"]
    assert ((residual - missing).abs() <= 2 * AGREES * (1 + missing)).all(), "the residual says what is missing"
    assert torch.equal(missed, (residual > 1e-4).double())
    assert not missed[equal].any()
    return missing[equal].abs().max().item()


def unequal_jacobians(num_tasks, draws=25):
    """Jacobians [draws, K, 2K + 3] with norms over six orders of magnitude."""
    generator = torch.Generator().manual_seed(num_tasks)
    jacobian = torch.randn(draws, num_tasks, 2 * num_tasks + 3, generator=generator, dtype=torch.float64)
    return jacobian * 10 ** (6 * torch.rand(draws, num_tasks, 1, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("c", [0.25, 0.75])
@pytest.mark.parametrize("num_tasks", SIZES)
def test_it_is_the_best_in_the_cone(num_tasks, c):
    check_against_clarabel(torch.cat((oracle_jacobians(num_tasks)[::12], cone_jacobians(num_tasks)[::12])), c)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("c", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("num_tasks", SIZES)
def test_it_is_the_best_in_the_cone_of_many(num_tasks, c):
    """2,350 Gramians over all sizes, in two or three cones each."""
    kinds = [oracle_jacobians(num_tasks), cone_jacobians(num_tasks)]
    if c < 0.9:  # norms that differ this much in a narrow cone can take more iterations than there are
        kinds.append(unequal_jacobians(num_tasks, 100))
    error = check_against_clarabel(torch.cat(kinds), c)
    print(f"K = {num_tasks}, c = {c}: largest difference {error:.1e}")


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_it_is_the_best_for_gradients_of_unequal_norms(num_tasks):
    check_against_clarabel(unequal_jacobians(num_tasks), 0.5)


def test_where_the_iteration_loses_the_optimum():
    """Turning d* into the cone: the weights that are optimal for d* are not those that are optimal in the cone."""
    jacobian = torch.tensor([[[-4.0, 8, -9], [4, -9, 9], [1, 1, -5]]], dtype=torch.float64)
    mean, c = jacobian[0].mean(0), 0.75
    positive = c**2 * mean.dot(mean) * torch.eye(3, dtype=torch.float64) + torch.outer(mean, mean)
    gramian = jacobian @ torch.linalg.inv(positive) @ jacobian.mT  # half its square form in ω is Eq 9
    optimum = make("mgda", num_tasks=3).weights(gramian, torch.ones(1, 3))
    iteration = make("conicgrad", num_tasks=3, c=c, gamma=0, weights_lr=1e-9)
    iteration.state["logits"].copy_(optimum.log())
    followed = iteration.direction(jacobian, torch.ones(1, 3))
    direction, _ = exact(jacobian, c)
    inner = [(jacobian @ d.unsqueeze(-1)).flatten() for d in (followed, direction)]
    torch.testing.assert_close(inner[0], torch.tensor([7.67, -6.82, 5.65]).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(inner[1], torch.tensor([0.56, 0.56, 5.38]).double(), rtol=0, atol=0.005)
    torch.testing.assert_close(direction.norm(), followed.norm())
    torch.testing.assert_close(torch.cosine_similarity(direction, jacobian.mean(1)).item(), 0.75)


def test_a_task_that_turns_its_back_on_the_cone():
    """In the line of two opposite gradients only ±g_0/‖g_0‖ have length 1, and the hull's best is c times it."""
    jacobian = torch.tensor([TURNED_BACK], dtype=torch.float64)
    direction, combiner = exact(jacobian, 0.75)
    torch.testing.assert_close(direction, jacobian.mean(1))
    assert abs(best_by_clarabel(jacobian, 0.75).item() + 0.75) < 1e-6
    torch.testing.assert_close(combiner.diagnostics["residual"].item(), 0.25, rtol=1e-5, atol=0)
    assert combiner.state["missed_solves"].item() == 1


def dependent_jacobians(num_tasks, rank, draws=100, seed=0):
    """Jacobians [draws, K, rank]: more gradients than dimensions, so that some g_ω can point against g_0."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(draws, num_tasks, rank, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("c", [0.25, 0.75])
@pytest.mark.parametrize(("num_tasks", "rank"), [(2, 1), (3, 1), (3, 2), (10, 2), (10, 3), (50, 5)])
def test_never_worse_than_the_mean_and_the_iteration(num_tasks, rank, c):
    """Where the optimum is negative and the problem not convex, at every update of a sequence."""
    both = [make(name, range(50), num_tasks, c=c) for name in ("conicgrad_exact", "conicgrad")]
    negative = 0
    for update in range(8):
        jacobian = dependent_jacobians(num_tasks, rank, 50, seed=update // 4)
        direction, followed = (combiner.direction(jacobian, torch.ones(50, num_tasks)) for combiner in both)
        check_promises(jacobian, direction, c)
        found = worst(jacobian, direction)
        scale = torch.maximum(found.abs(), shortest(jacobian))
        for other in (jacobian.mean(1), followed):
            assert (found >= worst(jacobian, other) - 2e-6 * scale).all()
        negative += int((found < 0).sum())
    assert negative > 80


@pytest.mark.parametrize("num_tasks", [3, 10])
def test_near_the_best_in_the_plane_where_it_is_not_convex(num_tasks):
    """In the plane the best of the cone is found by looking everywhere."""
    jacobian, c = dependent_jacobians(num_tasks, 2), 0.5
    direction, _ = exact(jacobian, c)
    mean = jacobian.mean(1)
    angle = torch.linspace(-math.acos(c), math.acos(c), 10_001, dtype=torch.float64)
    unit = mean / mean.norm(dim=-1, keepdim=True)
    normal = torch.stack((-unit[:, 1], unit[:, 0]), -1)
    everywhere = angle.cos()[:, None] * unit[:, None] + angle.sin()[:, None] * normal[:, None]
    best = (everywhere @ jacobian.mT).amin(-1).amax(-1)
    missing = (best - worst(jacobian, direction)) / torch.maximum(best.abs(), shortest(jacobian))
    assert (missing >= -2e-3).all()
    assert (missing <= 2e-3).double().mean() > 0.7
    assert missing.mean() < 0.1


def test_the_shortest_vector_of_the_hull_where_it_is_in_the_cone():
    """Without the cone the best direction of a length is MGDA's."""
    jacobian = cone_jacobians(3)
    direction, _ = exact(jacobian, 0.2)
    shortest_vector = make("mgda", range(250), 3).direction(jacobian, torch.ones(250, 3))
    inside = torch.cosine_similarity(shortest_vector, jacobian.mean(1), eps=1e-30) > 0.201
    assert inside.sum() > 100
    cosine = torch.cosine_similarity(shortest_vector, direction, eps=1e-30)[inside]
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_a_wider_cone_is_never_worse(num_tasks):
    jacobian = oracle_jacobians(num_tasks)[::5]
    jacobian = jacobian[jacobian.mean(1).norm(dim=-1) > 1e-3 * shortest(jacobian)]
    unit, values = shortest(jacobian), [worst(jacobian, exact(jacobian, c)[0]) for c in (1, 0.9, 0.6, 0.3, 0.1)]
    for narrow, wide in itertools.pairwise(values):
        assert (wide >= narrow - 1e-4 * torch.maximum(unit, narrow.abs())).all()
    assert (values[-1] > values[0] + 1e-2 * unit).double().mean() > 0.2


@pytest.mark.parametrize("c", [0.01, 0.25, 0.75, 0.99, 1.0])
@pytest.mark.parametrize("num_tasks", [1, 2, 3, 10, pytest.param(50, marks=pytest.mark.slow)])
def test_cone_and_norm_on_hard_jacobians(num_tasks, c):
    draws = [jacobian for seed in range(4) for jacobian in hard_jacobians(num_tasks, seed=seed).values()]
    batch = scaled(torch.stack(draws))
    direction, combiner = exact(batch, c)
    check_promises(batch, direction, c)
    assert all(tensor.isfinite().all() for tensor in (*combiner.state.values(), *combiner.diagnostics.values()))


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_c_one_gives_the_mean_gradient(num_tasks):
    for name, jacobian in hard_jacobians(num_tasks).items():
        batch = jacobian.double().unsqueeze(0)
        mean = batch.mean(1)
        difference = (exact(batch, 1)[0] - mean).norm()
        assert difference <= 1e-6 * mean.norm() + 1e-12 * jacobian.abs().max(), name


@pytest.mark.parametrize("size", [0.0, 1e-9])
def test_a_negligible_gradient_is_left_out(size):
    """A task without gradient shortens g_0 and has no say in the direction."""
    jacobian = cone_jacobians(3)[:50]
    scale = jacobian.norm(dim=-1).amax(-1)[:, None, None]
    noise = torch.randn(50, 1, jacobian.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction, combiner = exact(torch.cat((jacobian, size * scale * noise), 1), 0.5)
    torch.testing.assert_close(direction, 0.75 * exact(jacobian, 0.5)[0], rtol=1e-4, atol=1e-6 * scale.max().item())
    assert not combiner.diagnostics["task_weight"][:, -1].any()


@pytest.mark.parametrize("schedule", MOVING)
def test_the_best_in_a_cone_that_moves(schedule):
    jacobian = cone_jacobians(4)[::25]
    combiner = make("conicgrad_exact", range(10), 4, **MOVING[schedule])
    for _ in range(6):
        direction = combiner.direction(jacobian, torch.ones(10, 4))
    present = combiner.diagnostics["cone_cosine"]
    for row, c in enumerate(present.tolist()):
        expected, _ = exact(jacobian[row : row + 1], c)
        scale = expected.norm().item()
        torch.testing.assert_close(direction[row : row + 1] / scale, expected / scale, rtol=0, atol=1e-5)


def test_the_optimal_weights_are_shown():
    """At the optimum the tasks that have a weight are the worst ones, equally."""
    jacobian = cone_jacobians(3)
    direction, combiner = exact(jacobian, 0.5)
    task_weights = combiner.diagnostics["task_weight"]
    torch.testing.assert_close(task_weights.sum(-1), torch.ones(250, dtype=torch.float64))
    inner = (jacobian @ direction.unsqueeze(-1)).squeeze(-1)
    above = (inner - inner.amin(-1, keepdim=True)) / (inner.abs().amax(-1, keepdim=True))
    assert above[task_weights > 1e-3].max() < 1e-3


def test_it_needs_the_cone():
    with pytest.raises(ValueError, match="enforce_cone must be true with weights=exact"):
        ConicGrad(weights="exact", enforce_cone=False)


def test_settings():
    config = compose_config(["env=toy", "combiner=conicgrad", "combiner.weights=exact"])
    chosen, named = config.make_combiner(), compose_config(["env=toy", "combiner=conicgrad_exact"]).make_combiner()
    for combiner in (chosen, named):
        assert isinstance(combiner, ConicGrad)
        combiner.setup([0], 3)
        assert combiner.direction(torch.eye(3).unsqueeze(0), torch.ones(1, 3)).isfinite().all()
        assert "residual" in combiner.diagnostics
    assert vars(chosen)["c"] == vars(named)["c"]


def test_settings_on_the_command_line(tmp_path):
    process = run_command("env=toy", "combiner=conicgrad", "combiner.weights=best", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.splitlines() == ["error: combiner.weights must be one of adam, exact, not 'best'"]
    assert not list(tmp_path.iterdir())
