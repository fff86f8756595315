import numpy as np
import pytest

from mtrl_conic.envs.toy import ToySpec


def towards_goal(observation, task):
    """A good action: at most a full push along both axes, reversed for the mirrored task."""
    push = np.clip((observation[4:] - observation[:2]) / 0.1, -1, 1)
    return (-push if task == "mirrored" else push).astype(np.float32)


def play(env, task, goal, steps):
    observation, taken = env.reset(goal), []
    for _ in range(steps):
        taken.append(env.step(towards_goal(observation, task)))
        observation = taken[-1].observation
    return taken


@pytest.mark.parametrize("task", ToySpec().tasks)
def test_every_goal_is_reached_by_the_greedy_policy(task):
    spec = ToySpec()
    env = spec.make(spec.tasks.index(task))
    for goal in range(spec.num_goals):
        steps = play(env, task, goal, spec.horizon)
        assert steps[-1].success
        assert not steps[0].success
        assert not any(step.terminated for step in steps)


@pytest.mark.parametrize("task", ToySpec().tasks)
def test_reward_tells_good_actions_from_bad_ones(task):
    env = ToySpec(tasks=(task,)).make(0)
    away = -towards_goal(env.reset(3), task)
    assert 0 <= env.step(away).reward < 2.5
    assert all(2.5 < step.reward <= 5 for step in play(env, task, 3, 5))


def test_reward_depends_on_the_way_made():
    env = ToySpec().make(0)
    goal = env.reset(0)[4:]
    assert env.step(np.zeros(2, np.float32)).reward == 2.5
    action = (goal / np.abs(goal).max()).astype(np.float32)
    way = 0.1 * np.hypot(*action)
    np.testing.assert_allclose(env.step(action).reward, 2.5 + 2.5 * way / (0.1 * np.sqrt(2)), rtol=1e-5)


def test_random_actions_rarely_succeed():
    generator, env, reached = np.random.default_rng(0), ToySpec().make(0), 0
    for episode in range(100):
        env.reset(episode % 10)
        actions = generator.uniform(-1, 1, (50, 2)).astype(np.float32)
        reached += any(env.step(action).success for action in actions)
    assert reached < 20


def test_tasks_answer_the_same_action_differently():
    spec, push = ToySpec(), np.array([1.0, -0.5], np.float32)
    direct, mirrored, damped = (spec.make(task).step(push).observation[:2] for task in range(3))
    np.testing.assert_allclose(direct, [0.1, -0.05])
    np.testing.assert_array_equal(mirrored, -direct)
    np.testing.assert_allclose(damped, direct / 2)


def test_walls_stop_the_point():
    env = ToySpec().make(2)
    for _ in range(60):
        observation = env.step(np.array([5.0, -5.0], np.float32)).observation
    np.testing.assert_array_equal(observation[:4], [1, -1, 0, 0])


def test_a_terminating_task_ends_with_success():
    spec = ToySpec(terminating=("damped",))
    steps = play(spec.make(2), "damped", 0, 30)
    assert any(step.terminated for step in steps)
    assert [step.terminated for step in steps] == [step.success for step in steps]


def test_state_continues_bit_for_bit_in_another_environment():
    spec, actions = ToySpec(), np.random.default_rng(1).uniform(-1, 1, (20, 2)).astype(np.float32)
    first, second = spec.make(2), spec.make(2)
    first.reset(4)
    for action in actions[:10]:
        first.step(action)
    second.set_state(first.get_state())
    for action in actions[10:]:
        expected, got = first.step(action), second.step(action)
        np.testing.assert_array_equal(expected.observation, got.observation)
        assert expected[1:] == got[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ("direct", "sideways")}, "'sideways' is unknown"),
        ({"terminating": ("up",)}, "'up' is unknown"),
        ({"tasks": ()}, "at least one"),
        ({"tasks": ("direct", "direct")}, "distinct"),
        ({"horizon": 0}, "horizon must be at least 1, not 0"),
        ({"num_goals": -1}, "num_goals must be at least 1, not -1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ToySpec(**arguments)
