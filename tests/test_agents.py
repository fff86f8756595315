"""What holds for every agent in configs/agent, whatever it is: a new one needs no test of its own for this.

An on-policy one of ones own, `on_policy.TinyOnPolicy`, stands for those that are not in the package.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import TOY, train_here
from torch.utils._pytree import tree_leaves

from mtrl_conic.agents.learner import Learner
from mtrl_conic.agents.protocol import Transition
from mtrl_conic.combiners import LS, Combiner
from mtrl_conic.policies.actors import Actors, read_weights, stored_config
from mtrl_conic.policies.policy import load_policy
from mtrl_conic.runs.checkpoint import Checkpoints
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.paths import choices
from mtrl_conic.settings.schema import TrainConfig

N, O, A = 2, 6, 2
NUM_TASKS = (1, 3)
# Makes an agent small; of these settings it is given those that it has.
SMALL = {
    "agent.network.hidden_sizes": "[8]",
    "agent.warmup_steps": "8",
    "agent.batch_size_per_task": "4",
    "agent.capacity_per_task": "40",
    "agent.rollout_steps": "8",
    "agent.critic_network.hidden_sizes": "[8]",
    "agent.epochs": "2",
    "agent.minibatches": "2",
    "agent.network.width": "8",
    "agent.network.encoder_sizes": "[8]",
    "agent.network.encoding_size": "4",
    "agent.critic_network.width": "8",
    "agent.network.gating_sizes": "[8]",
    "agent.value_bins": "11",
    "agent.updates_per_step": "1",
}
# An agent whose tasks share nothing has nothing to combine.
COMBINER = {"stl": "ls"}
OWN = [str(Path(__file__).parent / "own")]
AGENTS = [*choices("agent"), "fixed_goal_sac", "normalised_sac", "tiny_on_policy"]


class Mean(Combiner):
    """LS by way of the Jacobian."""

    def weights(self, gramian, losses):
        return torch.full_like(losses, 1 / losses.shape[-1])


class Only(LS):
    """The gradient of one task's loss alone, in a pass of its own."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def weights(self, gramian, losses):
        return torch.nn.functional.one_hot(torch.tensor(self.task), losses.shape[-1]).expand_as(losses)


def small(name):
    settings = compose_config(["env=toy", f"agent={name}", f"combiner={COMBINER.get(name, 'conicgrad')}"], OWN).agent

    def has(key):
        found = settings
        for part in key.split(".")[1:]:
            found = found.get(part) if isinstance(found, dict) else None
        return found is not None

    return [f"agent={name}", *(f"{key}={value}" for key, value in SMALL.items() if has(key))]


class Case(NamedTuple):
    """An agent's settings, and how many tasks it is to learn."""

    config: TrainConfig
    num_tasks: int

    @property
    def setting(self):
        return replace(self.config.setting(), seeds=[0, 3, 5], num_tasks=self.num_tasks)

    def make(self, make_combiner=None, dtype=torch.float64, **other):
        agent = self.config.make_agent()
        make_combiner = make_combiner or self.config.make_combiner
        agent.setup(replace(self.setting, make_combiner=make_combiner, dtype=dtype, **other))
        return agent

    def drive(self, agent, steps, rows=slice(None), start=0, change=None):
        """As the training loop does; gives the actions."""
        actions = []
        for step in range(start, start + steps):
            generator = torch.Generator().manual_seed(1000 + step)
            observation = torch.randn(3, self.num_tasks, N, O, generator=generator)[rows]
            action = agent.explore(observation)
            answer = transition(step, self.num_tasks, observation, action.clone(), rows)
            if change is not None:
                change(step, answer)
            if agent.overlaps:
                update(agent)
            agent.observe(answer)
            if not agent.overlaps:
                update(agent)
            actions.append(action.clone())
        return actions


@pytest.fixture(scope="module", params=AGENTS)
def config(request):
    combiner = COMBINER.get(request.param, "conicgrad")
    arguments = ["env=toy", "env.num_envs_per_task=2", f"combiner={combiner}", "device=cpu"]
    return compose_config([*arguments, *small(request.param)], OWN)


@pytest.fixture(scope="module", params=NUM_TASKS, ids="K={}".format)
def case(config, request):
    return Case(config, request.param)


def transition(step, num_tasks, observation, action, rows=slice(None)):
    """What a vector of three seeds would answer, of the seeds in `rows`; the same at the same step."""
    generator = torch.Generator().manual_seed(step)
    reached = torch.randn(3, num_tasks, N, O, generator=generator)[rows]
    reward = torch.randn(3, num_tasks, N, generator=generator)[rows]
    ended = torch.rand(2, 3, num_tasks, N, generator=generator)[:, rows] < 0.1
    return Transition(observation, action, reward, reached, *ended.to(reward))


def weights(agent):
    """The tensors [S, ...] that its policy is made of."""
    return tree_leaves(agent.policy_state(agent.state_dict()))


def update(agent):
    for _ in range(agent.updates_due()):
        agent.update()


@pytest.fixture
def passes(monkeypatch):
    """The gradients of each pass, by network."""
    seen = {}
    fill = Learner._fill_gradients

    def filled(learner, losses, detached):
        learner.gradients.flat.zero_()
        fill(learner, losses, detached)
        jacobian, size = learner.gradients.jacobian, learner.gradients.scope_size or learner.layout.size
        rows = None if jacobian is None else jacobian.clone()
        seen.setdefault(learner.name, []).append((rows, learner.gradients.flat[:, :size].clone()))

    monkeypatch.setattr(Learner, "_fill_gradients", filled)
    return seen


def until_an_update(case, make_combiner, passes, network):
    """The first pass of that network, in single steps from the start."""
    agent, step = case.make(make_combiner), 0
    passes.clear()
    while network not in passes:
        case.drive(agent, 1, start=step)
        step += 1
        assert step < 100
    return passes[network][0]


def alone(network, task, mean):
    return lambda name: Only(task) if name == network else mean()


def test_one_backward_pass_equals_one_per_task(case, passes):
    """The Jacobian's rows are the gradients of passes in which the other tasks' losses do not count.

    Where there is no Jacobian, as tasks share nothing, the gradient is their mean.
    """
    mean, tasks = Mean if case.config.make_combiner().requires != "losses" else LS, range(case.num_tasks)
    for network in case.config.make_agent().networks:
        jacobian, whole = until_an_update(case, lambda _: mean(), passes, network)
        rows = [until_an_update(case, alone(network, task, mean), passes, network)[1] for task in tasks]
        assert all(row.any() for row in rows)
        found, expected = (whole, sum(rows) / len(tasks)) if jacobian is None else (jacobian, torch.stack(rows, 1))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_checkpoint_continues_to_the_last_bit(case, tmp_path):
    """Also in the middle of whatever the agent collects."""
    agent = case.make(dtype=torch.float32)
    for cut in (3, 21):  # before the first update, and with a memory that begins anew
        case.drive(agent, cut, start=100 * cut)
        Checkpoints(tmp_path / str(cut)).save(cut, {"agent": agent.state_dict()}, agent.memory)
        again = case.make(dtype=torch.float32)
        state, _ = Checkpoints(tmp_path / str(cut)).load(again.memory)
        again.load_state_dict(state["agent"])
        both = (case.drive(copy.deepcopy(each), 6, start=7) for each in (agent, again))
        for one, other in zip(*both, strict=True):
            assert torch.equal(one, other)


def test_a_seed_learns_the_same_alone_and_among_others(case):
    """To the last bit: its actions, and all that its policy is made of."""
    together, first = case.make(dtype=torch.float32), weights(case.make(dtype=torch.float32))
    actions = case.drive(together, 24)
    observation = torch.randn(3, case.num_tasks, N, O, generator=torch.Generator().manual_seed(1))
    greedy = together.exploit(observation)
    for row, seed in ((0, 0), (2, 5)):
        alone = case.make(dtype=torch.float32, seeds=[seed])
        for one, other in zip(actions, case.drive(alone, 24, slice(row, row + 1)), strict=True):
            assert torch.equal(one[row], other[0])
        for one, other, before in zip(weights(together), weights(alone), first, strict=True):
            assert torch.equal(one[row], other[0])
            assert not torch.equal(one[row], before[row])
        assert torch.equal(greedy[row], alone.exploit(observation[row : row + 1])[0])


def test_a_seed_that_diverges_stops_alone(case):
    def spoil(step, answer):
        if step == 9:
            answer.reward[1] = torch.nan

    agent, without = case.make(), case.make()
    case.drive(agent, 24, change=spoil)
    case.drive(without, 24)
    assert agent.health.halted.tolist() == [0, 1, 0]
    (halt,) = agent.health.halts("abcdefghij").values()
    assert halt.network in agent.networks
    assert 0 <= agent.steps_since(halt.updates) <= 48
    for one, other in zip(
        *(tree_leaves(each.policy_state(each.state_dict())) for each in (agent, without)), strict=True
    ):
        torch.testing.assert_close(one[[0, 2]], other[[0, 2]], rtol=1e-9, atol=1e-12)
        assert torch.isfinite(one).all()


def test_the_policy_acts_as_the_agent(case):
    agent = case.make(dtype=torch.float32)
    case.drive(agent, 12)
    policy = case.config.make_agent().policy(case.setting, copy.deepcopy(agent.policy_state(agent.state_dict())))
    observation = torch.randn(3, case.num_tasks, N, O)
    assert torch.equal(policy(observation), agent.exploit(observation))
    chosen = [task % case.num_tasks for task in (2, 0, 2, 1)]
    torch.testing.assert_close(policy(observation[:, chosen], chosen), policy(observation)[:, chosen])
    drawn = policy(observation, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (3, case.num_tasks, N, A)
    assert drawn.abs().max() <= 1
    assert not torch.equal(drawn, policy(observation))
    other = replace(case.setting, observation_size=O + 1)
    with pytest.raises((ValueError, LookupError)):
        case.config.make_agent().policy(other, agent.policy_state(agent.state_dict()))


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_is_evaluated_and_used(name, tmp_path):
    from mtrl_conic.evaluate import main

    plain = [each for each in TOY if not each.startswith(("agent.", "warmup", "batch", "capacity"))]
    short = ["combiner=ls", "seeds=[3,5]", "steps_per_task=100"]
    run = train_here(*plain, *small(name), *short, f"run_dir={tmp_path}/run", config_dirs=OWN)
    assert main([f"run={run}", "episodes=1", "workers=0"]) == 0
    config = stored_config(run)
    for checkpoint in ("best", "last"):
        actors = Actors(config, read_weights(run, checkpoint, config.make_agent()), config.seeds)
        policy, row = load_policy(run, checkpoint, seed=5), torch.zeros(2, 3, 1, O)
        np.testing.assert_allclose(policy(np.zeros(O), 1), actors.act(row)[1, 1, 0], rtol=0, atol=1e-6)


def test_what_an_agent_says_of_its_size(config):
    agent, setting = config.make_agent(), config.setting()
    assert all(needed >= 0 for needed in agent.needs(setting).values())
    assert agent.work(setting) >= 0
    agent.check(setting)
