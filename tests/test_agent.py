"""The agent: independence of seeds, K = 1, masked updates, learning."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._pytree import tree_leaves

from mtrl_conic.agents.protocol import Setting
from mtrl_conic.agents.replay import Batch
from mtrl_conic.agents.sac import MultiTaskSAC
from mtrl_conic.combiners import FAMO, LS, Combiner, ConicGrad, NashMTL
from mtrl_conic.networks.multi_head import MultiHeadMLP
from mtrl_conic.settings.compose import CONFIG_DIR, compose_config

K, B, O, A = 3, 8, 4, 2
COMBINERS = sorted(path.stem for path in (CONFIG_DIR / "combiner").glob("*.yaml"))


def make(seeds=(0,), combiner=LS, num_tasks=K, dtype=torch.float64, **settings):
    network = MultiHeadMLP(settings.pop("hidden_sizes", [16, 16]))
    agent = MultiTaskSAC(network, warmup_steps=0, capacity_per_task=10, **settings)
    agent.setup(Setting(list(seeds), num_tasks, O, A, make_combiner=lambda _: combiner(), dtype=dtype))
    return agent


def batch_of(num_seeds, num_tasks=K, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(num_seeds, num_tasks, B, *shape, generator=generator, dtype=dtype)  # noqa: E731
    return Batch(draw(O), draw(A).tanh(), draw(), draw(O), torch.zeros(num_seeds, num_tasks, B, dtype=dtype))


def row(batch, index):
    return Batch(*(tensor[index : index + 1] for tensor in batch))


@pytest.mark.parametrize("updates", [25, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_seed_learns_the_same_alone_and_among_others(combiner, updates):
    """Its whole state, in double precision: ten seeds, and tasks enough to show what is averaged over both."""
    make_combiner = compose_config(["env=toy", f"combiner={combiner}"]).make_combiner
    settings = {"num_tasks": 10, "hidden_sizes": [8], "learning_rate": 1e-3}
    together, alone = make(range(10), make_combiner, **settings), make((3,), make_combiner, **settings)
    for number in range(updates):
        batch = batch_of(10, 10, seed=number % 7)
        together.learn(batch)
        alone.learn(row(batch, 3))
    for one, other in zip(state_of(together, 3), state_of(alone, 0), strict=True):
        assert largest_difference(one, other) <= 1e-9 * max(float(other.abs().max()), 1e-6)


def largest_difference(one, other):
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


class LooksBack(LS):
    """LS that keeps the losses it is shown."""

    looks_back = True

    def weights(self, gramian, losses):
        self.before = losses.clone()
        return super().weights(gramian, losses)

    def after_step(self, losses):
        self.after = losses.clone()


def test_losses_after_the_step_are_those_of_the_same_batch_and_noise():
    """Without a step they are the losses before it, to the last bit; with one the critics' have fallen."""
    still, moving = (make((0, 1), LooksBack, learning_rate=rate) for rate in (1e-30, 1e-2))
    for agent in (still, moving):
        agent.learn(batch_of(2))
    for learner in (still.critic, still.actor):
        assert torch.equal(learner.combiner.before, learner.combiner.after)
    assert (moving.critic.combiner.after < moving.critic.combiner.before).all()
    assert not torch.equal(moving.actor.combiner.after, moving.actor.combiner.before)


def test_famo_learns_from_the_fall_of_the_losses():
    agent = make((0,), FAMO, learning_rate=1e-2)
    agent.learn(batch_of(1))
    logits = agent.critic.combiner.state["logits"]
    assert logits.abs().max() > 0.02  # one Adam step of 0.025
    assert (logits.max() > 0) & (logits.min() < 0)


@pytest.mark.parametrize("scope", ["shared", "all"])
def test_nashmtl_between_solves_equals_the_same_weights_on_a_jacobian(scope):
    """The pass without a Jacobian weighs the trunk by the kept weights and treats the heads as the other pass does."""
    agent = make((0, 1), lambda: NashMTL(update_every=2), gradient_scope=scope, max_grad_norm=1e9)
    agent.learn(batch_of(2, seed=0))
    kept = agent.critic.combiner.state["weights"].clone()
    twin = copy.deepcopy(agent)
    batch = batch_of(2, seed=1)
    agent.learn(batch)
    assert torch.equal(agent.critic.combiner.state["weights"], kept)
    for learner in (twin.critic, twin.actor):
        weights = learner.combiner.state["weights"].clone()
        learner.combiner = _Fixed(weights)
    twin.learn(batch)
    assert not agent.critic.gradients.keep_tasks
    assert twin.critic.gradients.keep_tasks
    torch.testing.assert_close(agent.critic.gradients.flat, twin.critic.gradients.flat, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(agent.critic.params, twin.critic.params, rtol=1e-7, atol=1e-9)
    agent.learn(batch_of(2, seed=2))
    assert agent.critic.gradients.keep_tasks
    assert not torch.equal(agent.critic.combiner.state["weights"], kept)


class _Fixed(Combiner):
    """The weights it is given, by way of a Jacobian."""

    def __init__(self, weights):
        super().__init__()
        self.fixed = weights

    def weights(self, gramian, losses):
        return self.fixed


def test_seeds_differ():
    agent = make((0, 1))
    assert not torch.equal(agent.actor.params[0], agent.actor.params[1])
    observation = batch_of(1).observation.expand(2, -1, -1, -1)
    assert not torch.equal(*agent.random_actions(observation))


def test_one_task_with_conicgrad_is_plain_sac():
    plain, conic = (make((0,), combiner, num_tasks=1, gradient_scope="all") for combiner in (LS, ConicGrad))
    for number in range(5):
        for agent in (plain, conic):
            agent.learn(batch_of(1, 1, seed=number))
    torch.testing.assert_close(plain.actor.params, conic.actor.params, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(plain.critic.params, conic.critic.params, rtol=1e-7, atol=1e-9)


def test_a_truncated_episode_and_a_terminated_one_differ():
    first, second = make(), make()
    batch = batch_of(1)
    first.learn(batch)
    second.learn(batch._replace(terminated=torch.ones_like(batch.terminated)))
    assert not torch.equal(first.critic.params, second.critic.params)


def state_of(agent, row):
    """All that one seed consists of: parameters, moments, combiners' memories, temperatures."""
    state = agent.state_dict()
    del state["streams"], state["health"], state["actor"]["diagnostics"], state["critic"]["diagnostics"]
    tensors = [leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    return [tensor[row : row + 1].clone() for tensor in tensors if tensor.dtype != torch.uint8]  # no random streams


def injured(kind):
    """A batch of three seeds of which the second's is bad for task 2."""
    batch = batch_of(3, seed=1)
    if kind == "loss":
        batch.reward[1, 2, 0] = float("nan")
    else:  # the loss is just below what a number can be, the norm of its gradient beyond
        batch.reward[1, 2] = 3e153
        batch.observation[1, 2] *= 100
    return batch


@pytest.mark.parametrize(
    ("combiner", "kind"),
    [*((name, "loss") for name in COMBINERS), *((name, "gradient") for name in ("ls", "conicgrad", "graddrop"))],
)
def test_a_seed_that_diverges_stops_alone(combiner, kind):
    """It keeps its last finite state; the others go on as they do without it."""
    make_combiner = compose_config(["env=toy", f"combiner={combiner}"]).make_combiner
    together, without = make((0, 3, 7), make_combiner), make((0, 7), make_combiner)
    others = lambda batch: Batch(*(tensor[[0, 2]] for tensor in batch))  # noqa: E731
    for batch in (batch_of(3, seed=0), injured(kind), batch_of(3, seed=2), batch_of(3, seed=3)):
        before = state_of(together, 1)
        together.learn(batch)
        without.learn(others(batch))
        if together.health.halted[1]:
            assert all(torch.equal(*pair) for pair in zip(before, state_of(together, 1), strict=True))
    assert together.health.halted.tolist() == [0, 1, 0]
    assert together.health.masked_updates.tolist() == [0, 3, 0]
    (halt,) = together.health.halts("abc").values()
    assert halt == ("critic", "the loss of c" if kind == "loss" else "the gradient", 3)
    for row, same in ((0, 0), (2, 1)):
        for one, other in zip(state_of(together, row), state_of(without, same), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_gradient_is_clipped_over_the_network_and_a_seed():
    agent = make((0, 1), max_grad_norm=0.01)
    agent.learn(batch_of(2))
    norms = agent.critic.gradients.flat.norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, 0.01))


def test_actions_are_in_range_and_deterministic_when_asked():
    agent = make()
    observation = batch_of(1).observation
    assert torch.equal(agent.exploit(observation), agent.exploit(observation))
    assert not torch.equal(agent.explore(observation), agent.explore(observation))
    random = agent.random_actions(observation.expand(-1, -1, 8, -1))
    assert random.abs().max() <= 1
    assert random.min() < -0.5 < 0.5 < random.max()


def test_state_round_trip_continues_to_the_last_bit():
    agent = make((0, 1), ConicGrad)
    agent.learn(batch_of(2))
    other = make((0, 1), ConicGrad)
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    for number in (1, 2):
        for one in (agent, other):
            one.learn(batch_of(2, seed=number))
    assert torch.equal(agent.critic.params, other.critic.params)
    assert torch.equal(agent.explore(batch_of(2).observation), other.explore(batch_of(2).observation))


def test_targets_follow_slowly():
    agent = make(tau=0.1)
    old = agent.target_params.clone()
    agent.learn(batch_of(1))
    torch.testing.assert_close(agent.target_params, old + 0.1 * (agent.critic.params - old))
