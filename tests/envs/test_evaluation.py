"""Evaluations count the same episodes, however many are played at the same time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import TOY
from vector_specs import ScriptEnv, ScriptSpec

from mtrl_conic.envs import metaworld
from mtrl_conic.envs.base import EnvStep
from mtrl_conic.envs.evaluation import EvalConfig, evaluate
from mtrl_conic.envs.toy import ToySpec
from mtrl_conic.envs.vector import VectorEnv
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.parts import make_spec
from mtrl_conic.training.vectors import evaluation_vector, training_vector
from mtrl_conic.video.recording import Tape


def towards_the_goal(observation):
    """A policy of the toy environment that reaches some goals, each row computed by itself."""
    return (3 * observation[..., 4:6] - 2.5 * observation[..., :2]).clamp(-0.4, 0.4)


def first_goal_late(observation):
    """A policy of the scripted environments by goal and step: each episode's return is another."""
    return 0.5 * observation[..., :1] + observation[..., 1:] / 8


def evaluated(spec, act, seeds, at_a_time, episodes, workers=0, watch=None, **how):
    watching = {} if watch is None else {"watch": watch}
    with VectorEnv(spec, seeds, at_a_time, workers=workers, goals="in_turn", **how) as envs:
        return evaluate(act, envs, episodes, **watching)


@pytest.mark.parametrize("episodes", [1, 13])  # fewer than at a time, more than there are goals
@pytest.mark.parametrize(("at_a_time", "workers"), [(2, 0), (3, 2), (5, 0)])
@pytest.mark.parametrize(
    ("spec", "act"),
    [(ScriptSpec(), first_goal_late), (ToySpec(terminating=("mirrored",)), towards_the_goal)],
    ids=["script", "toy"],
)
def test_how_many_at_a_time_changes_nothing(spec, act, at_a_time, workers, episodes):
    one = evaluated(spec, act, [0, 7], 1, episodes)
    many = evaluated(spec, act, [0, 7], at_a_time, episodes, workers)
    assert many.episodes == episodes
    np.testing.assert_array_equal(many.success_rate, one.success_rate)
    np.testing.assert_allclose(many.episode_return, one.episode_return, rtol=1e-14)  # added up in another order


def test_every_goal_is_played_once():
    """The scripted environments' observations hold the goal: returns are sums over the goals played."""
    result = evaluated(ScriptSpec(), lambda observation: 10.0 ** observation[..., :1], [0], 3, 4)
    steps = {"long": 5, "short": 3, "last": 5}
    wanted = [sum(count * 10**goal + count * (count + 1) / 2 for goal in range(4)) / 4 for count in steps.values()]
    np.testing.assert_allclose(result.episode_return[0], wanted)


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_episodes_that_end_with_success_succeed_as_often(at_a_time):
    """Their returns are those up to there: of the scripted ones, two steps."""
    spec = ToySpec(terminating=("mirrored",))
    whole = evaluated(spec, towards_the_goal, [0, 7], at_a_time, 13)
    ended = evaluated(spec, towards_the_goal, [0, 7], at_a_time, 13, terminate_on_success=True)
    assert 0 < whole.success_rate.mean() < 1
    np.testing.assert_array_equal(ended.success_rate, whole.success_rate)
    assert (ended.episode_return != whole.episode_return).any()
    result = evaluated(ScriptSpec(), first_goal_late, [0], at_a_time, 4, terminate_on_success=True)
    assert (result.success_rate == 1).all()
    np.testing.assert_allclose(result.episode_return, 2 * 0.5 * 1.5 + 1 / 8 + 3)


@pytest.mark.parametrize("terminate_on_success", [False, True])
def test_what_has_been_played_is_not_simulated_any_more(monkeypatch, terminate_on_success):
    """Seven episodes by three environments: three, two and two, of which some end long before others."""
    steps, own = [], ScriptEnv.step

    def noted(env, action):
        steps.append(env.spec.tasks[1] if env.end == 3 else "others")
        return own(env, action)

    monkeypatch.setattr(ScriptEnv, "step", noted)
    evaluated(ScriptSpec(), first_goal_late, [0], 3, 7, terminate_on_success=terminate_on_success)
    each = {"short": 2, "others": 2} if terminate_on_success else {"short": 3, "others": 5}
    assert {name: steps.count(name) for name in each} == {"short": 7 * each["short"], "others": 14 * each["others"]}


def test_meta_world_episodes_do_not_depend_on_those_before():
    spec = metaworld.make_spec(["push-v3", "drawer-close-v3"])
    weights = torch.randn(39, 4, generator=torch.Generator().manual_seed(1)) / 3

    def act(observation):  # a sum over a row does not depend on how many rows there are
        return (observation.unsqueeze(-1) * weights).sum(-2).tanh()

    one, many = (evaluated(spec, act, [0], at_a_time, 3, workers=2) for at_a_time in (1, 3))
    np.testing.assert_array_equal(many.success_rate, one.success_rate)
    np.testing.assert_allclose(many.episode_return, one.episode_return, rtol=1e-14)


@pytest.mark.parametrize("at_a_time", [1, 2, 4])
def test_a_tape_holds_the_actions_of_the_goals_asked_for(at_a_time):
    spec = ScriptSpec()
    tape = Tape((1, 3, at_a_time), [1, 2])
    evaluated(spec, first_goal_late, [0], at_a_time, 4, watch=tape.watch)
    for task, length in enumerate((5, 3, 5)):
        kept = tape.episodes(task)
        assert {goal: actions[:, 0].tolist() for goal, actions in kept.items()} == {
            goal: [0.5 * goal + step / 8 for step in range(length)] for goal in (1, 2)
        }


@pytest.mark.parametrize(
    ("episodes", "parallel", "environments"),
    [(5, 10, 5), (10, 10, 10), (50, 10, 10), (12, 10, 6), (11, 10, 6), (21, 10, 7), (7, 1, 1), (3, 2, 2), (1, 10, 1)],
)
def test_environments_of_an_evaluation(episodes, parallel, environments):
    assert EvalConfig(1000, episodes, 50, parallel).num_envs_per_task == environments
    assert EvalConfig(1000, 50, episodes, parallel).num_envs_per_task == environments


def test_runs_evaluate_in_parallel_and_those_of_before_do_not():
    assert compose_config([*TOY, "combiner=ls"]).eval.parallel == 10
    assert EvalConfig(1000, 5, 50).num_envs_per_task == 1


@pytest.mark.parametrize("ends", [False, True])
def test_the_setting_is_that_of_the_evaluations_alone(ends):
    config = compose_config([*TOY, "combiner=ls", f"eval.terminate_on_success={ends}"])
    spec = make_spec(config.make_environments(), 0)
    for make, expected in ((evaluation_vector, ends), (training_vector, False)):
        with make(config, spec) as envs:
            assert envs._assignments[0].terminate_on_success == expected


def test_an_environment_that_ends_at_once_is_counted_no_more_than_others():
    class Impatient(ScriptSpec):
        def make(self, task):
            env = super().make(task)
            env.step = lambda action: EnvStep(np.array(env.state, float), 1.0, True, task == 0)
            return env

    result = evaluated(Impatient(), first_goal_late, [0], 3, 7)
    assert result.success_rate.tolist() == [[1, 0, 0]]
    assert result.episode_return.tolist() == [[1, 1, 1]]
