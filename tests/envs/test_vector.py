"""Episodes, goals, states and arguments of the vector; its processes are in test_vector_processes.py."""

import numpy as np
import pytest
from vector_specs import ScriptSpec

from mtrl_conic.envs.toy import ToySpec
from mtrl_conic.envs.vector import VectorEnv, VectorStep

TOY = ToySpec(horizon=20, terminating=("damped",))


def random_actions(vector, steps, seed=0):
    generator = np.random.default_rng(seed)
    size = (steps, *vector.shape, vector.spec.action_size)
    return generator.uniform(-1, 1, size).astype(np.float32)


def record(vector, actions):
    """All fields of all steps, stacked."""
    steps = [VectorStep(*(field.copy() for field in vector.step(action))) for action in actions]
    return VectorStep(*(np.stack(field) for field in zip(*steps, strict=True)))


def assert_equal(first, second):
    for name, a, b in zip(VectorStep._fields, first, second, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=name)


def by_hand(spec, seed, task, env, actions):
    """The first observation and the fields of the steps of one environment, as plainly as possible."""
    single = spec.make(task)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(task, env)))
    first = single.reset(int(generator.integers(spec.num_goals)))
    rows, rewards, success = [], [], False
    for action in actions:
        result = single.step(action)
        rewards.append(result.reward)
        success = success or result.success
        truncated = len(rewards) == spec.horizon and not result.terminated
        following, total, any_success = result.observation, sum(rewards), success
        if result.terminated or truncated:
            following = single.reset(int(generator.integers(spec.num_goals)))
            rewards, success = [], False
        transition = following, result.observation, result.reward, result.terminated, truncated
        rows.append((*transition, any_success, total, np.hstack(transition)))
    return first, [np.array(field) for field in zip(*rows, strict=True)]


def test_shapes_and_types():
    with VectorEnv(TOY, seeds=[0, 1], num_envs_per_task=4, workers=0) as vector:
        assert vector.shape == (2, 3, 4)
        observation = vector.reset()
        assert (observation.shape, observation.dtype) == ((2, 3, 4, 6), np.float32)
        step = vector.step(np.zeros((2, 3, 4, 2), np.float32))
    assert step.observation.shape == step.next_observation.shape == (2, 3, 4, 6)
    assert all(field.shape == (2, 3, 4) for field in step[2:-1])
    assert step.transition.shape == (2, 3, 4, 2 * 6 + 3)
    types = [np.float32, np.float32, np.float32, np.bool_, np.bool_, np.bool_, np.float64, np.float32]
    assert [field.dtype for field in step] == types


@pytest.mark.parametrize("spec", [TOY, ScriptSpec()], ids=["toy", "script"])
def test_transitions_are_those_of_single_environments(spec):
    seeds = [3, 8]
    with VectorEnv(spec, seeds, num_envs_per_task=2, workers=2) as vector:
        first = vector.reset().copy()
        actions = random_actions(vector, 70)
        steps = record(vector, actions)
    for s, k, n in np.ndindex(vector.shape):
        expected_first, expected = by_hand(spec, seeds[s], k, n, actions[:, s, k, n])
        np.testing.assert_array_equal(first[s, k, n], expected_first.astype(np.float32))
        for field, wanted in zip(steps, expected, strict=True):
            np.testing.assert_array_equal(field[:, s, k, n], wanted.astype(field.dtype))


def test_episode_ends():
    with VectorEnv(ScriptSpec(), seeds=[0], workers=0, goals="in_turn") as vector:
        vector.reset()
        steps = record(vector, np.zeros((10, 1, 3, 1, 1), np.float32))
    long, short, last = range(3)
    at = {name: getattr(steps, name)[:, 0, :, 0] for name in VectorStep._fields}
    assert np.flatnonzero(at["truncated"][:, long]).tolist() == [4, 9]
    assert np.flatnonzero(at["terminated"][:, short]).tolist() == [2, 5, 8]
    # Terminated at the horizon itself: not truncated.
    assert np.flatnonzero(at["terminated"][:, last]).tolist() == [4, 9]
    assert not at["truncated"][:, [short, last]].any()
    assert not at["terminated"][:, long].any()
    assert at["next_observation"][4, long].tolist() == [0, 5]
    assert at["observation"][4, long].tolist() == [1, 0]
    # Success held at step 2 only, and is kept to the end of the episode.
    assert at["success"][:, long].tolist() == [False, True, True, True, True] * 2
    assert at["episode_return"][:, short].tolist() == [1, 3, 6] * 3 + [1]


def test_environments_rest_when_their_episodes_are_played():
    with VectorEnv(ScriptSpec(), seeds=[0], num_envs_per_task=2, workers=2, goals="in_turn") as vector:
        vector.reset(episodes=3)
        steps = record(vector, np.ones((14, 1, 3, 2, 1), np.float32))
        at = {name: getattr(steps, name)[:, 0, 0] for name in VectorStep._fields}  # of the task with five steps
        assert [np.flatnonzero(at["truncated"][:, n]).tolist() for n in range(2)] == [[4, 9], [4]]
        for n, end in ((0, 10), (1, 5)):
            assert at["observation"][end:, n].tolist() == [[2 - n, 5]] * (14 - end)
            assert at["next_observation"][end:, n].tolist() == [[2 - n, 5]] * (14 - end)
            for name in ("reward", "terminated", "truncated", "success", "episode_return"):
                assert not at[name][end:, n].any(), name
            assert not at["transition"][end:, n, -3:].any()
        vector.reset()  # without end again
        assert record(vector, np.ones((14, 1, 3, 2, 1), np.float32)).truncated[:, 0, 0].sum() == 4
    with VectorEnv(ScriptSpec(), seeds=[0], workers=0) as vector, pytest.raises(ValueError, match="in_turn"):
        vector.reset(episodes=3)


def test_goals_in_turn_are_dealt_out_and_start_again_after_reset():
    with VectorEnv(ScriptSpec(), seeds=[0], num_envs_per_task=2, workers=0, goals="in_turn") as vector:
        for _ in range(2):
            assert vector.reset()[0, :, :, 0].tolist() == [[0, 1]] * 3
            steps = record(vector, np.zeros((30, 1, 3, 2, 1), np.float32))
            goals = [steps.next_observation[steps.truncated[:, 0, 0, n], 0, 0, n, 0].tolist() for n in range(2)]
            assert goals == [[0, 2] * 3, [1, 3] * 3]


def test_random_goals_cover_all_and_differ_between_environments():
    with VectorEnv(ToySpec(horizon=1), seeds=[0, 1], num_envs_per_task=2, workers=0) as vector:
        vector.reset()
        goals = record(vector, random_actions(vector, 200)).observation[..., 4]
    streams = goals.reshape(200, -1).T
    assert all(len(np.unique(stream)) == 10 for stream in streams)
    assert len(np.unique(streams, axis=0)) == len(streams)


def test_a_seed_is_the_same_alone_and_among_others():
    with VectorEnv(TOY, seeds=[0, 1, 2], workers=2) as three, VectorEnv(TOY, seeds=[1], workers=0) as one:
        np.testing.assert_array_equal(three.reset()[1:2], one.reset())
        actions = random_actions(three, 50)
        among = record(three, actions)
        assert_equal([field[:, 1:2] for field in among], record(one, actions[:, 1:2]))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_workers_changes_nothing(workers):
    with (
        VectorEnv(TOY, [0, 5], 2, workers=workers) as vector,
        VectorEnv(TOY, [0, 5], 2, workers=0) as local,
    ):
        for _ in range(2):  # a second reset goes on in the streams
            np.testing.assert_array_equal(vector.reset(), local.reset())
            actions = random_actions(vector, 50)
            assert_equal(record(vector, actions), record(local, actions))


@pytest.mark.parametrize("goals", ["random", "in_turn"])
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0)])
def test_state_continues_with_another_number_of_workers(goals, before, after):
    with (
        VectorEnv(TOY, [0, 5], 2, workers=before, goals=goals) as first,
        VectorEnv(TOY, [0, 5], 2, workers=after, goals=goals) as second,
    ):
        first.reset()
        actions = random_actions(first, 90)
        record(first, actions[:37])  # in mid-episode
        state = first.get_state()
        expected = record(first, actions[37:])
        second.set_state(state)
        assert_equal(expected, record(second, actions[37:]))
        first.set_state(state)  # also back in time
        assert_equal(expected, record(first, actions[37:]))


@pytest.mark.parametrize("workers", [0, 2])
def test_state_holds_the_observation_to_act_on(workers):
    with VectorEnv(TOY, [0], workers=workers) as first, VectorEnv(TOY, [0], workers=0) as second:
        start = first.reset().copy()
        np.testing.assert_array_equal(second.set_state(first.get_state()), start)
        for action in random_actions(first, 25):
            observation = first.step(action).observation
            np.testing.assert_array_equal(second.set_state(first.get_state()), observation)
        again = second.get_state()
        np.testing.assert_array_equal(first.set_state(again), observation)


def test_state_is_independent_of_later_steps():
    with VectorEnv(TOY, [0], workers=0) as vector:
        vector.reset()
        state = vector.get_state()
        kept = [env["observation"].copy() for env in state["envs"]]
        record(vector, random_actions(vector, 5))
        for env, observation in zip(state["envs"], kept, strict=True):
            np.testing.assert_array_equal(env["observation"], observation)


def test_state_holds_only_what_a_checkpoint_may():
    def check(value):
        if isinstance(value, dict):
            check(list(value))
            check(list(value.values()))
        elif isinstance(value, (list, tuple)):
            for item in value:
                check(item)
        elif isinstance(value, np.ndarray):
            assert value.dtype != object
        else:
            assert type(value) in (str, int, float, bool, type(None))

    with VectorEnv(TOY, np.arange(2), workers=1) as vector:
        vector.reset()
        record(vector, random_actions(vector, 3))
        check(vector.get_state())


@pytest.mark.parametrize(
    ("spec", "seeds", "number", "message"),
    [
        (ToySpec(tasks=("direct",)), [0], 1, "tasks"),
        (TOY, [1], 1, r"seeds \[0\], not \[1\]"),
        (TOY, [0], 2, "num_envs_per_task 1, not 2"),
    ],
)
def test_a_state_of_other_environments_is_refused(spec, seeds, number, message):
    with VectorEnv(TOY, [0], workers=0) as vector, VectorEnv(spec, seeds, number, workers=0) as other:
        vector.reset()
        with pytest.raises(ValueError, match=message):
            other.set_state(vector.get_state())


def test_calls_out_of_order_are_refused():
    action = np.zeros((1, 3, 1, 2), np.float32)
    vector = VectorEnv(TOY, [0], workers=0)
    for call in (vector.receive, vector.get_state, lambda: vector.send(action)):
        with pytest.raises(RuntimeError, match="reset or set_state first"):
            call()
    vector.reset()
    with pytest.raises(RuntimeError, match="call send first"):
        vector.receive()
    vector.send(action)
    for call in (vector.reset, vector.get_state, lambda: vector.send(action)):
        with pytest.raises(RuntimeError, match="call receive first"):
            call()
    vector.receive()
    vector.close()
    vector.close()
    with pytest.raises(RuntimeError, match="closed"):
        vector.reset()


def test_an_action_of_another_shape_is_refused():
    with VectorEnv(TOY, [0], workers=0) as vector:
        vector.reset()
        with pytest.raises(ValueError, match=r"\(1, 3, 1, 2\), not \(3, 2\)"):
            vector.send(np.zeros((3, 2), np.float32))
        vector.step(np.zeros((1, 3, 1, 2), np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 4}, "at most the number of environments, 3, not 4"),
        ({"workers": -1}, "workers must be an integer of at least 0, not -1"),
        ({"workers": 1.0}, "workers .* not 1.0"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [0, -2]}, "each seed .* not -2"),
        ({"seeds": [True]}, "each seed .* not True"),
        ({"num_envs_per_task": 0}, "num_envs_per_task .* not 0"),
        ({"goals": "sorted"}, "not 'sorted'"),
        ({"timeout": 0}, "timeout .* not 0"),
        ({"timeout": float("nan")}, "timeout .* not nan"),
        ({"spec": ScriptSpec(tasks=())}, "no tasks"),
    ],
)
def test_wrong_arguments_are_refused_before_any_process_starts(monkeypatch, arguments, message):
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(ValueError, match=message):
        VectorEnv(**{"spec": TOY, "seeds": [0], "workers": 1, **arguments})
