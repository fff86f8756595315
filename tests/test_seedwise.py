"""Seeds beside each other compute what each would alone, to the last bit, on the CPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

from mtrl_conic.agents.protocol import Transition
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.system import seedwise

SEEDS = [3, 0, 5]
# Rows, inputs and outputs: of one row, of heads, of odd sizes, and of `experiment=fast` while it acts and learns.
SHAPES = [(1, 64, 64), (80, 64, 1), (12, 7, 8), (33, 77, 55), (80, 256, 4), (80, 49, 256), (1250, 256, 256)]


def numbers(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def each_equals_alone(function, *tensors):
    """The function gives every seed what it gives a copy of its own."""
    together = function(*tensors)
    for seed in range(len(tensors[0])):
        alone = function(*(tensor[seed : seed + 1].clone() for tensor in tensors))
        assert torch.equal(together[seed], alone[0])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(shape, dtype, threads):
    """Forward, to the inputs and to the weights, of one matrix and of several for each seed."""
    torch.set_num_threads(threads)
    rows, inputs, outputs = shape
    for batch in ((), (3,)):
        x = numbers(3, *batch, rows, inputs, dtype=dtype)
        weight, bias = numbers(3, *batch, outputs, inputs, dtype=dtype), numbers(3, *batch, outputs, dtype=dtype)
        delta = numbers(3, *batch, rows, outputs, dtype=dtype)
        each_equals_alone(lambda x, weight, bias: seedwise.add_matmul(bias, x, weight.mT), x, weight, bias)
        each_equals_alone(lambda x, weight: seedwise.matmul(x, weight.mT), x, weight)
        each_equals_alone(seedwise.matmul, delta, weight)
        each_equals_alone(lambda delta, x: seedwise.matmul(delta.mT, x), delta, x)
        expected = delta.mT @ x
        torch.testing.assert_close(seedwise.matmul(delta.mT, x, out=torch.empty_like(expected)), expected)


def test_the_seeds_axis_may_lie_anywhere():
    """Inside the experts' axis, and with rows that are pieces of longer ones."""
    x, weight = numbers(4, 3, 5, 7), numbers(3, 4, 9, 7)
    together = seedwise.matmul(x.movedim(0, 1), weight.mT)
    long = numbers(3, 5, 31)
    pieces = seedwise.matmul(long[..., 3:10], weight[:, 0].mT)
    for seed in range(3):
        rows = slice(seed, seed + 1)
        alone = seedwise.matmul(x[:, rows].clone().movedim(0, 1), weight[rows].clone().mT)
        assert torch.equal(together[seed], alone[0])
        alone = seedwise.matmul(long[rows].clone()[..., 3:10], weight[rows, 0].clone().mT)
        assert torch.equal(pieces[seed], alone[0])


@pytest.mark.parametrize("shape", [(3,), (10,), (3, 5, 7), (70001,)], ids=str)
def test_what_rounds_by_the_size_of_a_tensor(shape):
    torch.set_num_threads(2)
    x = numbers(5, *shape)
    each_equals_alone(lambda x: seedwise.by_seed(F.softplus, x), x)
    each_equals_alone(lambda x: seedwise.by_seed(lambda each: each.abs() ** 0.3, x), x)
    each_equals_alone(seedwise.mean_of_rows, x)
    each_equals_alone(lambda x: seedwise.sum_over(x, -1), x)


def test_seeds_lie_apart():
    """In memory; what they hold is theirs alone."""
    for made in (seedwise.zeros((3, 2, 5), "cpu", torch.float32), seedwise.empty((3, 10), "cpu", torch.float64)):
        assert all(row.data_ptr() % 64 == 0 for row in made)
        assert made[0].is_contiguous()
    assert seedwise.zeros((1, 2, 5), "cpu", torch.float32).is_contiguous()
    assert torch.equal(seedwise.copy(numbers(3, 5)), numbers(3, 5))


def agent_of(seeds, combiner, agent, *settings):
    config = compose_config(
        ["env=toy", f"agent={agent}", f"combiner={combiner}", "device=cpu", f"seeds={seeds}", *settings]
    )
    made = config.make_agent()
    made.setup(config.setting())
    return made, config.setting()


def play(agent, setting, rows, steps):
    """Actions, and all that the agent's policy is made of."""
    played = []
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        shape = (len(SEEDS), setting.num_tasks, setting.num_envs_per_task)
        seen, reached = torch.randn(2, *shape, setting.observation_size, generator=draw)[:, rows]
        reward = torch.randn(shape, generator=draw)[rows]
        action = agent.explore(seen)
        agent.observe(Transition(seen, action, reward, reached, torch.zeros_like(reward), torch.zeros_like(reward)))
        for _ in range(min(agent.updates_due(), 4)):
            agent.update()
        played += [action.clone(), agent.exploit(seen)]
    return played + tree_leaves(agent.policy_state(agent.state_dict()))


FAST = ["env.num_envs_per_task=8", "agent.rollout_steps=6", "agent.minibatches=2", "agent.epochs=2"]
SMALL = [
    "agent.network.hidden_sizes=[12]",
    "agent.warmup_steps=4",
    "agent.batch_size_per_task=5",
    "agent.capacity_per_task=40",
]


@pytest.mark.parametrize("combiner", ["ls", "conicgrad", "pcgrad"])
@pytest.mark.parametrize(("agent", "settings"), [("mtmhppo", FAST), ("mtmhsac", SMALL)])
def test_a_seed_among_others(agent, settings, combiner):
    """With the networks of `experiment=fast`, and with sizes that no register divides."""
    together, setting = agent_of(SEEDS, combiner, agent, *settings)
    found = play(together, setting, slice(None), 8)
    for row, seed in enumerate(SEEDS):
        alone, setting = agent_of([seed], combiner, agent, *settings)
        for one, other in zip(found, play(alone, setting, slice(row, row + 1), 8), strict=True):
            assert torch.equal(one[row], other[0])


def test_what_is_the_same_for_all_seeds_may_be_expanded():
    left = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(0)).expand(3, 5, 7)
    right = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(1))
    found = seedwise.matmul(left, right)
    for seed in range(3):
        assert torch.equal(found[seed], seedwise.matmul(left[:1], right[seed : seed + 1].clone())[0])
