"""PCGrad against the procedure of its paper, on the gradients themselves."""

import numpy as np
import pytest
import torch
from hard_matrices import hard_jacobians, make, oracle_jacobians


def reference(jacobian, orders):
    """Algorithm 1 of arXiv 2001.06782 for one seed: J [K, P], orders [K, K − 1]."""
    projected = []
    for gradient, order in zip(jacobian, orders, strict=True):
        for j in order:
            inner = gradient @ jacobian[j]
            if inner < 0:
                gradient = gradient - inner / (jacobian[j] @ jacobian[j]) * jacobian[j]
        projected.append(gradient)
    return sum(projected) / len(projected)


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
@pytest.mark.parametrize("name", ["random", "conflicting", "opposite", "duplicated", "zero row", "badly scaled"])
def test_equals_projections_of_gradients(num_tasks, name):
    jacobian = hard_jacobians(num_tasks)[name].double().unsqueeze(0)
    combiner, twin = make("pcgrad", [3], num_tasks), make("pcgrad", [3], num_tasks)
    for _ in range(3):
        direction = combiner.direction(jacobian, torch.ones(1, num_tasks))
        expected = reference(jacobian[0], twin._orders()[0])
        scale = jacobian.abs().max().item()
        torch.testing.assert_close(direction[0], expected, rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize(("num_tasks", "draws"), [(2, 14), (3, 14), (10, 10), (50, 2)])
def test_equals_projections_on_a_thousand_jacobians(num_tasks, draws):
    jacobian = oracle_jacobians(num_tasks, draws)
    seeds = range(len(jacobian))
    combiner, twin = make("pcgrad", seeds, num_tasks), make("pcgrad", seeds, num_tasks)
    directions = combiner.direction(jacobian, torch.ones(jacobian.shape[:2]))
    for rows, orders, found in zip(jacobian.numpy(), twin._orders().tolist(), directions.numpy(), strict=True):
        expected = reference(rows, orders)
        assert np.abs(found - expected).max() <= 1e-9 * np.abs(rows).max()


def test_orders_are_the_others_and_change():
    combiner = make("pcgrad", [0, 1], 5)
    first, second = combiner._orders(), combiner._orders()
    for i in range(5):
        assert first[0, i].sort().values.tolist() == [j for j in range(5) if j != i]
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_without_conflict_it_is_the_mean():
    jacobian = torch.rand(2, 4, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(make("pcgrad", [0, 1], 4).direction(jacobian, torch.ones(2, 4)), jacobian.mean(1))
