"""What holds for every agent in configs/agent, whatever it is: a new one needs no test of its own for this.

An on-policy one of ones own, `on_policy.TinyOnPolicy`, stands for those that are not in the package.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

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

K, N, O, A = 3, 2, 6, 2
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
}
# An agent whose tasks share nothing has nothing to combine.
COMBINER = {"stl": "ls"}
OWN = [str(Path(__file__).parent / "own")]
AGENTS = [*choices("agent"), "tiny_on_policy"]


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


@pytest.fixture(scope="module", params=AGENTS)
def config(request):
    combiner = COMBINER.get(request.param, "conicgrad")
    arguments = ["env=toy", "env.num_envs_per_task=2", f"combiner={combiner}", "device=cpu"]
    return compose_config([*arguments, *small(request.param)], OWN)


def make(config, seeds=(0, 3, 5), make_combiner=None, dtype=torch.float64):
    agent = config.make_agent()
    make_combiner = make_combiner or config.make_combiner
    agent.setup(replace(config.setting(), seeds=list(seeds), make_combiner=make_combiner, dtype=dtype))
    return agent


def transition(step, observation, action, rows=slice(None)):
    """What a vector of three seeds would answer, of the seeds in `rows`; the same at the same step."""
    generator = torch.Generator().manual_seed(step)
    reached = torch.randn(3, K, N, O, generator=generator)[rows]
    reward = torch.randn(3, K, N, generator=generator)[rows]
    ended = torch.rand(2, 3, K, N, generator=generator)[:, rows] < 0.1
    return Transition(observation, action, reward, reached, *ended.to(reward))


def weights(agent):
    """The tensors [S, ...] that its policy is made of."""
    return tree_leaves(agent.policy_state(agent.state_dict()))


def update(agent):
    for _ in range(agent.updates_due()):
        agent.update()


def drive(agent, steps, rows=slice(None), start=0, change=None):
    """As the training loop does; gives the actions."""
    actions = []
    for step in range(start, start + steps):
        observation = torch.randn(3, K, N, O, generator=torch.Generator().manual_seed(1000 + step))[rows]
        action = agent.explore(observation)
        answer = transition(step, observation, action.clone(), rows)
        if change is not None:
            change(step, answer)
        if agent.overlaps:
            update(agent)
        agent.observe(answer)
        if not agent.overlaps:
            update(agent)
        actions.append(action.clone())
    return actions


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


def until_an_update(config, make_combiner, passes, network):
    """The first pass of that network, in single steps from the start."""
    agent, step = make(config, make_combiner=make_combiner), 0
    passes.clear()
    while network not in passes:
        drive(agent, 1, start=step)
        step += 1
        assert step < 100
    return passes[network][0]


def alone(network, task, mean):
    return lambda name: Only(task) if name == network else mean()


def test_one_backward_pass_equals_one_per_task(config, passes):
    """The Jacobian's rows are the gradients of passes in which the other tasks' losses do not count.

    Where there is no Jacobian, as tasks share nothing, the gradient is their mean.
    """
    mean = Mean if config.make_combiner().requires != "losses" else LS
    for network in config.make_agent().networks:
        jacobian, whole = until_an_update(config, lambda _: mean(), passes, network)
        rows = [until_an_update(config, alone(network, task, mean), passes, network)[1] for task in range(K)]
        assert all(row.any() for row in rows)
        found, expected = (whole, sum(rows) / K) if jacobian is None else (jacobian, torch.stack(rows, 1))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_checkpoint_continues_to_the_last_bit(config, tmp_path):
    """Also in the middle of whatever the agent collects."""
    agent = make(config, dtype=torch.float32)
    for cut in (3, 11, 18):
        drive(agent, cut, start=100 * cut)
        Checkpoints(tmp_path / str(cut)).save(cut, {"agent": agent.state_dict()}, agent.memory)
        again = make(config, dtype=torch.float32)
        state, _ = Checkpoints(tmp_path / str(cut)).load(again.memory)
        again.load_state_dict(state["agent"])
        for one, other in zip(*(drive(copy.deepcopy(each), 12, start=7) for each in (agent, again)), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_seed_learns_the_same_alone_and_among_others(config, dtype):
    """To the last bit: its actions, and all that its policy is made of."""
    together = make(config, dtype=dtype)
    actions = drive(together, 24)
    for row, seed in enumerate((0, 3, 5)):
        alone = make(config, [seed], dtype=dtype)
        for one, other in zip(actions, drive(alone, 24, slice(row, row + 1)), strict=True):
            assert torch.equal(one[row], other[0])
        for one, other, first in zip(
            weights(together), weights(alone), weights(make(config, dtype=dtype)), strict=True
        ):
            assert torch.equal(one[row], other[0])
            assert not torch.equal(one[row], first[row])
        observation = torch.randn(3, K, N, O, generator=torch.Generator().manual_seed(1))
        greedy = together.exploit(observation)
        assert torch.equal(greedy[row], alone.exploit(observation[row : row + 1])[0])


def test_a_seed_that_diverges_stops_alone(config):
    def spoil(step, answer):
        if step == 9:
            answer.reward[1] = torch.nan

    agent, without = make(config), make(config)
    drive(agent, 40, change=spoil)
    drive(without, 40)
    assert agent.health.halted.tolist() == [0, 1, 0]
    (halt,) = agent.health.halts("abc").values()
    assert halt.network in agent.networks
    assert 0 <= agent.steps_since(halt.updates) <= 80
    for one, other in zip(
        *(tree_leaves(each.policy_state(each.state_dict())) for each in (agent, without)), strict=True
    ):
        torch.testing.assert_close(one[[0, 2]], other[[0, 2]], rtol=1e-9, atol=1e-12)
        assert torch.isfinite(one).all()


def test_the_policy_acts_as_the_agent(config):
    agent = make(config, dtype=torch.float32)
    drive(agent, 12)
    setting = replace(config.setting(), seeds=[0, 3, 5])
    policy = config.make_agent().policy(setting, copy.deepcopy(agent.policy_state(agent.state_dict())))
    observation = torch.randn(3, K, N, O)
    assert torch.equal(policy(observation), agent.exploit(observation))
    chosen = [2, 0, 2, 1]
    torch.testing.assert_close(policy(observation[:, chosen], chosen), policy(observation)[:, chosen])
    drawn = policy(observation, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (3, K, N, A)
    assert drawn.abs().max() <= 1
    assert not torch.equal(drawn, policy(observation))
    with pytest.raises((ValueError, LookupError)):
        config.make_agent().policy(replace(setting, observation_size=O + 1), agent.policy_state(agent.state_dict()))


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
        policy, row = load_policy(run, checkpoint, seed=5), torch.zeros(2, K, 1, O)
        np.testing.assert_allclose(policy(np.zeros(O), 1), actors.act(row)[1, 1, 0], rtol=0, atol=1e-6)


def test_what_an_agent_says_of_its_size(config):
    agent, setting = config.make_agent(), config.setting()
    assert all(needed >= 0 for needed in agent.needs(setting).values())
    assert agent.work(setting) >= 0
    agent.check(setting)
