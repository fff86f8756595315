"""Solves where gradients differ by many orders of magnitude, nearly cancel or do not touch each other."""

import numpy as np
import pytest
import torch
from hard_matrices import make
from scipy.optimize import nnls

SIZES = (2, 3, 10, 50)
RATIOS = (1.0, 1e6, 1e7, 1e8)
KINDS = ("huge", "huge and against the rest", "tiny and against the rest", "huge, the rest nearly cancels", "spread")


def extreme_jacobians(num_tasks, ratio, gap, kind, draws=4):
    """Jacobians [draws, K, P] of float32 numbers in float64; `gap` is how near gradients come to be parallel."""
    generator = torch.Generator().manual_seed(num_tasks)
    size = 2 * num_tasks + 3
    noise = torch.randn(draws, num_tasks, size, generator=generator, dtype=torch.float64)
    common = torch.randn(draws, 1, size, generator=generator, dtype=torch.float64)
    jacobian = noise.clone()
    if kind == "spread":
        jacobian *= torch.logspace(0, np.log10(ratio), num_tasks).double().unsqueeze(1)
    elif "against" in kind:
        jacobian = gap * noise - common
        jacobian[:, 0] = common[:, 0] * (ratio if kind.startswith("huge") else 1 / ratio)
    else:
        if "cancels" in kind:
            jacobian = noise - noise[:, 1:].mean(1, keepdim=True) + gap * common
        jacobian[:, 0] = ratio * noise[:, 0]
    return jacobian.float().double()


def least_square(rows):
    """min ‖Σ w_i g_i‖² on the simplex, by non-negative least squares on unit gradients."""
    norms = np.linalg.norm(rows, axis=1)
    prices = norms.min() / norms
    system = np.vstack([(rows / norms[:, None]).T, prices])
    values, _ = nnls(system, np.eye(len(system))[-1], maxiter=100 * len(rows))
    return np.square(values / (prices @ values) @ (rows / norms[:, None])).sum() * norms.min() ** 2


@pytest.mark.parametrize("num_tasks", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lamda", [None, 0.6])
def test_the_shortest_vector_of_very_unequal_gradients(num_tasks, kind, lamda):
    for ratio in RATIOS:
        for gap in (1e-2, 1e-4, 1e-6):
            jacobian = extreme_jacobians(num_tasks, ratio, gap, kind)
            combiner = make("mgda" if lamda is None else "sdmgrad", range(4), num_tasks)
            weights = combiner.weights(jacobian @ jacobian.mT, torch.ones(4, num_tasks))
            if lamda is not None:
                weights = combiner.diagnostics["task_weight"]
                jacobian = jacobian + lamda * jacobian.mean(1, keepdim=True)
            found = (weights.unsqueeze(1) @ jacobian).square().sum((1, 2))
            expected = torch.tensor([least_square(rows) for rows in jacobian.numpy()])
            terms = (weights * jacobian.norm(dim=-1)).sum(-1).square()
            assert (found - expected <= 1e-4 * torch.maximum(expected, 1e-9 * terms)).all(), (ratio, gap)
            assert not combiner.diagnostics["missed_solves"].any(), (ratio, gap)


@pytest.mark.parametrize("num_tasks", SIZES)
def test_upgrad_leaves_gradients_without_conflict_alone(num_tasks):
    """Orthonormal ones are on the border: both the multiplier and what it multiplies are 0."""
    gramian = torch.eye(num_tasks, dtype=torch.float64).unsqueeze(0)
    combiner = make("upgrad", [0], num_tasks)
    weights = combiner.weights(gramian, torch.ones(1, num_tasks))
    torch.testing.assert_close(weights * num_tasks, torch.ones_like(weights), rtol=0, atol=1e-4)
    assert not combiner.diagnostics["missed_solves"].any()


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_upgrad_counts_what_it_misses(num_tasks, kind):
    """Where no miss is counted, each projection is within 1e-4 of its gradient's length of the nearest vector."""
    for ratio in RATIOS:
        for gap in (1e-2, 1e-4, 1e-6):
            jacobian = extreme_jacobians(num_tasks, ratio, gap, kind)
            combiner = make("upgrad", range(4), num_tasks)
            weights = combiner.weights(jacobian @ jacobian.mT, torch.ones(4, num_tasks))
            direction = (weights.unsqueeze(1) @ jacobian).squeeze(1).numpy()
            residual = combiner.diagnostics["residual"]
            assert torch.equal(combiner.diagnostics["missed_solves"], (residual > 1e-4).double())
            for rows, found in zip(jacobian[residual <= 1e-4].numpy(), direction[residual <= 1e-4], strict=True):
                norms = np.linalg.norm(rows, axis=1)
                units = rows / norms[:, None]
                projected = [unit + nnls(units.T, -unit, maxiter=10_000)[0] @ units for unit in units]
                error = np.linalg.norm(found - norms @ np.array(projected) / num_tasks)
                assert error <= 1e-4 * norms.mean(), (ratio, gap)
