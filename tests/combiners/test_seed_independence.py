"""A seed alone and among ten stays the same to the last bit, update after update."""

import pytest
import torch
from hard_matrices import METHODS, make
from test_properties import VARIANTS, one_update

from mtrl_conic.system.seedwise import matmul

SEEDS, ALONE = range(10), slice(3, 4)
UPDATES = {9: 20, 10: 20, 50: 8}
# The share of a common gradient, and columns per task: with fewer than 1 gradients are dependent and cancel somewhere.
REGIMES = [(0.0, 4.0), (0.0, 0.4), (0.3, 4.0), (3.0, 4.0)]


def sequence(num_tasks):
    """Jacobians [10, K, P] and losses [10, K]."""
    generator = torch.Generator().manual_seed(num_tasks)
    for update in range(UPDATES[num_tasks]):
        share, width = REGIMES[update % len(REGIMES)]
        size = int(width * num_tasks)
        own = torch.randn(len(SEEDS), num_tasks, size, generator=generator, dtype=torch.float64)
        common = torch.randn(len(SEEDS), 1, size, generator=generator, dtype=torch.float64)
        losses = torch.rand(len(SEEDS), num_tasks, generator=generator, dtype=torch.float64) + 0.5
        yield own + share * common, losses


def step(combiner, jacobian, gramian, losses):
    """An update by the Gramian where one is enough: the products that make it are the library's.

    Weights by themselves say little where gradients nearly cancel: those of an exact solution are shown as a direction.
    """
    if combiner.requires == "gramian" and combiner.needs_jacobian():
        weights = combiner.weights(gramian, losses)
        return matmul(weights.unsqueeze(1), jacobian).squeeze(1) if getattr(combiner, "exact", False) else weights
    return one_update(combiner, jacobian.clone(), losses)


@pytest.mark.parametrize("num_tasks", UPDATES)
@pytest.mark.parametrize(("method", "settings"), [*((name, {}) for name in METHODS), *VARIANTS])
def test_alone_and_among_others(method, settings, num_tasks):
    together = make(method, SEEDS, num_tasks, **settings)
    alone = make(method, SEEDS[ALONE], num_tasks, **settings)
    for update, (jacobian, losses) in enumerate(sequence(num_tasks)):
        gramian = jacobian @ jacobian.mT
        found = step(together, jacobian, gramian, losses)[ALONE]
        expected = step(alone, *(each[ALONE].clone() for each in (jacobian, gramian, losses)))
        assert torch.equal(found, expected), update
        assert together.state.keys() == alone.state.keys()
        for name, tensor in alone.state.items():
            assert torch.equal(together.state[name][ALONE], tensor), (update, name)
