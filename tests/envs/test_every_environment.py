"""What every environment must do, over the files in configs/env: a new one gets these tests for free."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtrl_conic.envs.vector import VectorEnv, unstored_tasks
from mtrl_conic.runs.checkpoint import to_numpy, to_plain
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.paths import choices

# What must be given, or keeps the tests short. Goals are drawn in the order of a benchmark: its first tasks cost least.
SETTINGS = {
    "mt10": ["env.tasks=[push-v3,reach-v3]"],
    "mt1": None,  # the class of mt10
    "mt25": None,
    "mt50": None,
    "gym": ["env.tasks={light: Pendulum-v1, heavy: Pendulum-v1}", "env.task_kwargs={heavy: {g: 15}}"],
    "own": ["env._target_=environments_of_ones_own.Lights"],
}
NAMES = [name for name in choices("env") if SETTINGS.get(name, []) is not None]


@pytest.fixture(scope="module", params=NAMES)
def environments(request):
    arguments = [f"env={request.param}", "combiner=ls", "device=cpu", *SETTINGS.get(request.param, [])]
    return compose_config(arguments).make_environments()


@pytest.fixture(scope="module")
def spec(environments):
    return environments.setup()


def actions_for(spec, steps):
    shape = (steps, 2, len(spec.tasks), 1, spec.action_size)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def played(envs, actions):
    """The steps, in copies of the shared memory."""
    return [type(step)(*(array.copy() for array in step)) for step in map(envs.step, actions)]


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        for name, left, right in zip(one._fields, one, other, strict=True):
            np.testing.assert_array_equal(left, right, err_msg=name)


def test_the_spec_keeps_what_was_announced(environments, spec):
    for name in ("tasks", "observation_size", "action_size", "horizon", "num_goals"):
        assert getattr(spec, name) == getattr(environments, name), name


def test_words_for_reports(environments):
    assert environments.title("here")
    assert environments.file_name("here").startswith("here")
    assert all(fact and "\n" not in fact for fact in environments.facts())


def test_a_goal_is_the_same_start_again_and_in_another_environment(spec):
    for task in range(len(spec.tasks)):
        first, second = spec.make(task), spec.make(task)
        start = first.reset(1).copy()
        first.step(np.ones(spec.action_size, np.float32))
        other = first.reset(0).copy()
        assert start.shape == (spec.observation_size,)
        assert np.isfinite(start).all()
        assert not np.array_equal(start, other)
        np.testing.assert_array_equal(first.reset(1), start)
        np.testing.assert_array_equal(second.reset(1), start)
        first.close()
        second.close()


def test_steps_are_finite_and_actions_matter(spec):
    for task in range(len(spec.tasks)):
        env, ends = spec.make(task), []
        for push in (-1.0, 1.0):
            env.reset(0)
            steps = [env.step(np.full(spec.action_size, push, np.float32)) for _ in range(5)]
            assert all(np.isfinite(step.observation).all() and np.isfinite(step.reward) for step in steps)
            assert all(type(flag) is bool for step in steps for flag in (step.terminated, step.success, step.truncated))
            ends.append(steps[-1].observation.copy())
        assert not np.array_equal(*ends)
        env.close()


def test_a_state_goes_on_bit_for_bit_in_other_environments(spec, tmp_path):
    """As a checkpoint stores it, and in an episode that is under way."""
    actions = actions_for(spec, 16)
    with VectorEnv(spec, [3, 5], workers=0) as envs:
        envs.reset()
        played(envs, actions[:8])
        state = envs.get_state()
        expected = played(envs, actions[8:])
    assert unstored_tasks(state) == []
    torch.save(to_plain(state), tmp_path / "state.pt")
    with VectorEnv(spec, [3, 5], workers=0) as envs:
        envs.set_state(to_numpy(torch.load(tmp_path / "state.pt", weights_only=True)))
        assert_equal(played(envs, actions[8:]), expected)


def test_a_seed_is_the_same_alone_and_in_a_worker(spec):
    actions = actions_for(spec, 3)
    with VectorEnv(spec, [3, 5], workers=0) as both, VectorEnv(spec, [5], workers=1) as alone:
        first, second = both.reset()[1].copy(), alone.reset()[0].copy()
        np.testing.assert_array_equal(first, second)
        for one, other in zip(played(both, actions), played(alone, actions[:, 1:]), strict=True):
            np.testing.assert_array_equal(one.observation[1], other.observation[0])
            np.testing.assert_array_equal(one.reward[1], other.reward[0])
