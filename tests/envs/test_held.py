"""Actions that are held for several steps of their environment, in one step of the vector."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from vector_specs import ScriptSpec

from mtrl_conic.envs.base import EnvStep
from mtrl_conic.envs.evaluation import evaluate
from mtrl_conic.envs.toy import ToySpec
from mtrl_conic.envs.vector import VectorEnv, VectorStep
from mtrl_conic.video.frames import _of_steps
from mtrl_conic.video.recording import Tape

LONG, SHORT, LAST = range(3)  # of a `ScriptSpec`: rewards 1, 2, ... plus the action, success at step 2 only


def played(envs, actions):
    """All fields [T, ...] of the steps for actions [T, S, K, N, A]."""
    steps = [VectorStep(*(field.copy() for field in envs.step(action))) for action in actions]
    return VectorStep(*(np.stack(field) for field in zip(*steps, strict=True)))


def script(repeat, decisions, action=0.0, workers=0):
    """The fields [T, K] of a `ScriptSpec`, whose episodes have at most 5 steps."""
    with VectorEnv(ScriptSpec(), [0], workers=workers, goals="in_turn", action_repeat=repeat) as envs:
        envs.reset()
        steps = played(envs, np.full((decisions, *envs.shape, 1), action, np.float32))
    return VectorStep(*(field[:, 0, :, 0] for field in steps))


@pytest.mark.parametrize("workers", [0, 2])
def test_rewards_are_summed_and_the_last_observation_is_the_true_one(workers):
    steps = script(2, 3, action=0.5, workers=workers)
    assert steps.reward[:, LONG].tolist() == [1 + 2 + 2 * 0.5, 3 + 4 + 2 * 0.5, 5 + 0.5]
    assert steps.episode_return[:, LONG].tolist() == [4, 12, 17.5]
    assert steps.next_observation[:, LONG].tolist() == [[0, 2], [0, 4], [0, 5]]
    assert steps.observation[:, LONG].tolist() == [[0, 2], [0, 4], [1, 0]]


def test_success_counts_at_any_step_of_the_decision():
    assert script(3, 2).success[:, LONG].tolist() == [True, True]  # at the second of three steps
    assert script(2, 2).success[:, LONG].tolist() == [True, True]
    assert script(1, 3).success[:, LONG].tolist() == [False, True, True]


def test_the_time_limit_counts_the_environments_steps():
    """5 is no multiple of 2 or 3: the last decision is shorter."""
    for repeat, ended in ((2, [2, 5]), (3, [1, 3, 5]), (5, [0, 1, 2, 3, 4, 5]), (9, [0, 1, 2, 3, 4, 5])):
        steps = script(repeat, 6)
        assert np.flatnonzero(steps.truncated[:, LONG]).tolist() == ended
        assert steps.episode_return[ended, LONG].tolist() == [15] * len(ended)
        assert steps.next_observation[ended, LONG, 1].tolist() == [5] * len(ended)
        assert not steps.terminated[:, LONG].any()


def test_a_decision_ends_with_its_episode():
    steps = script(2, 4)
    assert np.flatnonzero(steps.terminated[:, SHORT]).tolist() == [1, 3]  # at step 3, the first of the second two
    assert steps.reward[:, SHORT].tolist() == [3, 3, 3, 3]
    assert steps.next_observation[:2, SHORT].tolist() == [[0, 2], [0, 3]]
    assert steps.observation[:2, SHORT].tolist() == [[0, 2], [1, 0]]
    # Terminated at the horizon itself: not truncated.
    assert np.flatnonzero(steps.terminated[:, LAST]).tolist() == [2]
    assert not steps.truncated[:, [SHORT, LAST]].any()


@dataclass(frozen=True)
class Stops(ScriptSpec):
    """Breaks its episodes off by itself, at step 3."""

    def make(self, task):
        env = super().make(task)
        step = env.step
        env.step = lambda action: replace_truncated(step(action))
        return env


def replace_truncated(step: EnvStep) -> EnvStep:
    return step._replace(truncated=step.observation[1] == 3, terminated=False)


def test_a_decision_ends_where_the_environment_breaks_off():
    with VectorEnv(Stops(), [0], workers=0, action_repeat=4) as envs:
        envs.reset()
        step = envs.step(np.zeros((*envs.shape, 1), np.float32))
    assert step.truncated.all()
    assert (step.reward == 1 + 2 + 3).all()


def test_it_is_the_same_action_for_so_many_single_steps():
    spec = ToySpec(horizon=20)
    drawn = np.random.default_rng(0).uniform(-1, 1, (30, 2, 3, 2, 2)).astype(np.float32)
    settings = {"spec": spec, "seeds": [3, 8], "num_envs_per_task": 2, "workers": 0}
    with VectorEnv(**settings, action_repeat=4) as held, VectorEnv(**settings) as single:
        np.testing.assert_array_equal(held.reset(), single.reset())
        decisions, steps = played(held, drawn), played(single, np.repeat(drawn, 4, 0))
    for name in ("observation", "next_observation", "truncated", "success", "episode_return"):
        np.testing.assert_array_equal(getattr(decisions, name), getattr(steps, name)[3::4], err_msg=name)
    summed = steps.reward.reshape(30, 4, *steps.reward.shape[1:]).sum(1)
    np.testing.assert_allclose(decisions.reward, summed, rtol=1e-6)
    assert decisions.truncated.any()


def test_a_state_between_decisions_goes_on_to_the_last_bit():
    spec = ToySpec(horizon=20, terminating=("damped",))
    actions = np.random.default_rng(1).uniform(-1, 1, (40, 1, 3, 2, 2)).astype(np.float32)
    settings = {"spec": spec, "seeds": [5], "num_envs_per_task": 2, "action_repeat": 5}
    with VectorEnv(**settings, workers=0) as whole, VectorEnv(**settings, workers=1) as other:
        whole.reset()
        played(whole, actions[:6])  # two decisions into an episode of four
        state = whole.get_state()
        assert {env["step"] for env in state["envs"]} == {10}
        np.testing.assert_array_equal(other.set_state(state), whole.set_state(state))
        for one, two in zip(played(whole, actions[6:]), played(other, actions[6:]), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("repeat", [0, -2, 1.5, True])
def test_a_repeat_that_is_no_number_of_steps_is_refused(repeat):
    with pytest.raises(ValueError, match=f"action_repeat must be an integer of at least 1, not {repeat}"):
        VectorEnv(ToySpec(), [0], workers=0, action_repeat=repeat)


def test_evaluations_count_the_environments_steps_and_any_success():
    with VectorEnv(ScriptSpec(), [0], workers=0, goals="in_turn", action_repeat=3) as envs:
        result = evaluate(lambda observation: observation[..., :1] * 0, envs, episodes=2)
    assert result.success_rate[0].tolist() == [1, 1, 1]
    assert result.episode_return[0].tolist() == [15, 6, 15]


@pytest.mark.parametrize("repeat", [1, 2, 3])
def test_a_video_shows_every_step_of_the_episode_counted(repeat):
    spec, tape = ScriptSpec(), Tape((1, 3, 1), [1])
    with VectorEnv(spec, [0], workers=0, goals="in_turn", action_repeat=repeat) as envs:
        evaluate(lambda observation: observation[..., 1:] / 8, envs, episodes=2, watch=tape.watch)
        result = evaluate(lambda observation: observation[..., 1:] / 8, envs, episodes=2)
    for task, length in ((LONG, 5), (SHORT, 3), (LAST, 5)):
        env = replace(spec).make(task)
        actions = _of_steps(env, 1, tape.episodes(task)[1], repeat)
        assert len(actions) == length
        env.reset(1)
        assert sum(env.step(action).reward for action in actions) == result.episode_return[0, task]
