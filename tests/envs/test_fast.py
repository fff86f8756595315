import gc
import pickle
import weakref

import numpy as np
import pytest
from metaworld.policies import ENV_POLICY_MAP
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from mtrl_conic.envs.fast import env as fast_env
from mtrl_conic.envs.fast import rewards
from mtrl_conic.envs.fast.rebind import fast_class
from mtrl_conic.envs.metaworld import (
    MetaWorldSpec,
    all_tasks,
    benchmark_tasks,
    draw_goals,
    make_spec,
)
from mtrl_conic.envs.shipped import task_class

pytestmark = pytest.mark.filterwarnings("ignore:Constant.s. may be too high")

MOVING = ("door-open-v3", "drawer-close-v3", "peg-insert-side-v3", "plate-slide-v3")  # their resets move bodies
OTHERS = [task for task in all_tasks() if task not in MOVING]


def random_actions(task, seed):
    generator = np.random.default_rng(seed)
    return lambda observation: generator.uniform(-1.2, 1.2, 4)  # beyond the bounds too: both must clip


def scripted_actions(task, seed):
    policy, generator = ENV_POLICY_MAP[task](), np.random.default_rng(seed)
    return lambda observation: np.clip(policy.get_action(observation) + generator.normal(0, 0.1, 4), -1, 1)


def play(shipped, fast, goal, act, steps):
    """Feed both the same float32 bits; of each an array [steps + 1, 43], an `EnvStep` per row."""
    first = shipped.reset(goal), 0.0, False, False, False
    rows = [np.hstack(first)], [np.hstack((fast.reset(goal), first[1:]))]
    observation = first[0]
    for _ in range(steps):
        action = act(observation).astype(np.float32)
        taken = shipped.step(action), fast.step(action)
        observation = taken[0].observation
        for row, step in zip(rows, taken, strict=True):
            row.append(np.hstack(step))
    return np.array(rows[0]), np.array(rows[1])


def compare(shipped, fast, goal, act, steps=500):
    """Observation, reward, termination, success and truncation must agree at every step."""
    theirs, ours = play(shipped, fast, goal, act, steps)
    np.testing.assert_allclose(ours[:, :39], theirs[:, :39], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours[:, 39], theirs[:, 39], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ours[:, 40:], theirs[:, 40:])


def compare_all(task, reward_version, goals, drawn):
    shipped, fast = (MetaWorldSpec((task,), (drawn,), reward_version, fast).make(0) for fast in (False, True))
    for goal in goals:
        compare(shipped, fast, goal, random_actions(task, goal))
        compare(shipped, fast, goal, scripted_actions(task, goal))


@pytest.fixture(scope="module")
def mt10():
    return make_spec(benchmark_tasks("mt10"), goal_seed=1)


@pytest.mark.parametrize("task", benchmark_tasks("mt10"))
def test_the_fast_path_equals_the_shipped_class(mt10, task):
    """The older rewards in every third task; in all: the test below."""
    place = mt10.tasks.index(task)
    for reward_version, goals in (("v2", (31,)), ("v1", (17,)))[: 2 if place % 3 == 0 else 1]:
        compare_all(task, reward_version, goals, mt10.goals[place])


@pytest.mark.slow
@pytest.mark.parametrize("task", all_tasks())
@pytest.mark.parametrize("reward_version", ["v2", "v1"])
def test_the_fast_path_equals_the_shipped_class_for_every_task(task, reward_version):
    goals = (2, 23, 49) if task in benchmark_tasks("mt10") else (2,)
    compare_all(task, reward_version, goals, draw_goals((task,), 1)[0])


def test_a_reset_kept_from_before_equals_the_first_one():
    spec = make_spec(("push-v3",), 1)
    shipped, fast = MetaWorldSpec(spec.tasks, spec.goals, fast=False).make(0), spec.make(0)
    for goal in (0, 1, 0, 0, 1):
        compare(shipped, fast, goal, random_actions("push-v3", goal), steps=20)


def test_touching_the_object_is_noticed_as_in_the_shipped_class(mt10):
    task = mt10.tasks.index("pick-place-v3")
    shipped, fast = (MetaWorldSpec(mt10.tasks, mt10.goals, fast=fast).make(task) for fast in (False, True))
    act, observation, touched = scripted_actions("pick-place-v3", 0), shipped.reset(0), []
    fast.reset(0)
    for _ in range(150):
        action = act(observation).astype(np.float32)
        observation = shipped.step(action).observation
        fast.step(action)
        touched.append((shipped.env.touching_main_object, fast.env.touching_main_object))
    assert all(theirs == ours for theirs, ours in touched)
    assert {ours for _, ours in touched} == {False, True}


def test_kept_resets_cannot_be_changed_from_outside():
    env = make_spec(("reach-v3",), 1).make(0)
    first = env.reset(0).copy()
    env.reset(0)[:] = 0
    env.step(np.ones(4, dtype=np.float32)).observation[:] = 0
    np.testing.assert_array_equal(env.reset(0), first)


def episode(env, goal, between=lambda: None):
    """Observations, rewards and successes of thirty steps and of ten more from a state in their midst."""
    act, rows = random_actions("", goal), [np.hstack((env.reset(goal), 0, 0))]
    for number in range(30):
        between()
        if number == 15:
            state = env.get_state()
        step = env.step(act(None).astype(np.float32))
        rows.append(np.hstack((step.observation, step.reward, step.success)))
    between()
    env.set_state(state)
    for _ in range(10):
        between()
        step = env.step(act(None).astype(np.float32))
        rows.append(np.hstack((step.observation, step.reward, step.success)))
    return np.array(rows)


@pytest.mark.parametrize("task", [*MOVING, *(pytest.param(task, marks=pytest.mark.slow) for task in OTHERS)])
def test_environments_that_share_a_model_play_as_each_would_alone(task):
    spec = MetaWorldSpec((task,), draw_goals((task,), 1, 8))
    alone = episode(spec.make(0), 2)
    first, second = spec.make(0), spec.make(0)
    assert first.model is second.model
    second.reset(5)
    goals = iter([5, 7] * 21)

    def other_moves():
        second.step(np.ones(4, dtype=np.float32))
        second.reset(next(goals))

    np.testing.assert_array_equal(episode(first, 2, other_moves), alone)


def test_a_shared_model_goes_with_the_last_of_its_environments():
    spec = make_spec(("reach-v3",), 1)
    first, second = spec.make(0), spec.make(0)
    gone = weakref.ref(first.env.fast_shared)
    del first
    gc.collect()
    assert gone() is second.env.fast_shared
    del second
    gc.collect()
    assert gone() is None


def simulations(monkeypatch):
    """The numbers of the goals that are simulated from now on, one by one."""
    goals, simulated = [], fast_env.FastTaskEnv._simulated
    monkeypatch.setattr(
        fast_env.FastTaskEnv, "_simulated", lambda env, goal: goals.append(goal) or simulated(env, goal)
    )
    return goals


def assert_plays_as(first, second, goal, task, steps=500):
    """Observations, rewards and flags of a whole episode to the last bit, with the other one at another place."""
    for act in (random_actions(task, goal), scripted_actions(task, goal)):
        one, other = play(first, second, goal, act, steps)
        np.testing.assert_array_equal(other, one)


@pytest.mark.parametrize(
    "task",
    [
        "reach-v3",
        "push-v3",
        "pick-place-v3",
        "door-open-v3",
        "drawer-open-v3",
        "peg-insert-side-v3",
        "window-open-v3",
        "basketball-v3",
        "stick-pull-v3",
    ],
)
def test_a_reset_kept_by_another_environment_equals_the_simulated_one(task, monkeypatch):
    goals = draw_goals((task,), 1)
    shipped = MetaWorldSpec((task,), goals, fast=False).make(0)
    alone = MetaWorldSpec((task,), goals).make(0)
    wanted = {goal: alone.reset(goal) for goal in (0, 7)}
    del alone._resets  # the environments that follow simulate for themselves: the table let go of it
    simulated = simulations(monkeypatch)
    first, second = (MetaWorldSpec((task,), goals).make(0) for _ in range(2))
    first.reset(0)
    assert simulated == [0]
    first.step(np.ones(4, dtype=np.float32))
    second.reset(7)  # is itself at another goal, in mid-episode
    second.step(np.ones(4, dtype=np.float32))
    np.testing.assert_array_equal(second.reset(0), wanted[0])
    np.testing.assert_array_equal(second.reset(0), shipped.reset(0))
    assert_plays_as(first, second, 0, task)
    assert_plays_as(second, first, 7, task, steps=60)
    assert_plays_as(alone_again(task, goals, simulated), second, 0, task, steps=60)
    compare(shipped, second, 0, random_actions(task, 0), steps=60)
    third = MetaWorldSpec((task,), goals).make(0)  # never simulated anything
    assert_plays_as(second, third, 7, task, steps=60)
    assert simulated == [0, 7, 0]


def alone_again(task, goals, simulated):
    """An environment that shares with nobody and has simulated goal 0."""
    env = MetaWorldSpec((task,), goals).make(0)
    env._resets = fast_env._Resets()
    env.reset(0)
    assert simulated[-1] == 0
    return env


def test_only_environments_of_one_task_reward_and_goals_share_their_resets():
    goals, others = draw_goals(("reach-v3",), 1), draw_goals(("reach-v3",), 2)
    first, second = (MetaWorldSpec(("reach-v3",), drawn).make(0) for drawn in (goals, tuple(map(np.copy, goals))))
    assert first._resets is second._resets
    for spec in (
        MetaWorldSpec(("reach-v3",), others),
        MetaWorldSpec(("reach-v3",), goals, "v1"),
        MetaWorldSpec(("push-v3",), goals),
    ):
        assert spec.make(0)._resets is not first._resets


def test_kept_resets_go_with_the_last_environment():
    env = make_spec(("reach-v3",), 3).make(0)
    env.reset(0)
    kept, before = weakref.ref(env._resets), len(fast_env._kept)
    del env
    gc.collect()
    assert kept() is None
    assert len(fast_env._kept) < before


def test_what_one_environment_does_with_a_kept_reset_the_others_do_not_see():
    spec = make_spec(("pick-place-v3",), 1)
    first, second = spec.make(0), spec.make(0)
    wanted = first.reset(0).copy()
    state = pickle.dumps(first._resets[0])
    first.reset(0)[:] = 0
    for env in (first, second):
        for value in vars(env.env).values():
            kept = [entry for entry in _arrays(env._resets[0]) if isinstance(value, np.ndarray)]
            assert not any(np.shares_memory(value, entry) for entry in kept)
        for _ in range(20):
            env.step(np.ones(4, dtype=np.float32)).observation[:] = 0
        env.env.obj_init_pos[:] = 7
        np.testing.assert_array_equal(second.reset(0), wanted)
    assert pickle.dumps(first._resets[0]) == state


def _arrays(tree):
    """All arrays of nested dicts and tuples."""
    if isinstance(tree, np.ndarray):
        return [tree]
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple) else ()
    return [array for part in inner for array in _arrays(part)]


def test_the_package_is_left_as_it_was():
    shipped = task_class("push-v3")
    before = dict(vars(shipped))
    fast = fast_class(shipped)
    assert dict(vars(shipped)) == before
    assert shipped.compute_reward.__globals__["reward_utils"] is reward_utils
    assert fast.compute_reward.__globals__["reward_utils"] is rewards
    assert np.linalg.norm is not rewards.norm


@pytest.mark.parametrize("sigmoid", ["long_tail", "gaussian"])
@pytest.mark.parametrize("margin", [0, 0.05, 2.0])
def test_tolerance_equals_the_packages(sigmoid, margin):
    for x in np.linspace(-3, 3, 121):
        arguments = {"bounds": (-0.5, 0.75), "margin": margin, "sigmoid": sigmoid}
        expected = reward_utils.tolerance(x, **arguments)
        assert rewards.tolerance(x, **arguments) == pytest.approx(expected, rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("arguments", [{"bounds": (1, 0)}, {"margin": -1.0}, {"margin": 1.0, "sigmoid": "cubic"}])
def test_tolerance_refuses_what_the_package_refuses(arguments):
    for function in (rewards.tolerance, reward_utils.tolerance):
        with pytest.raises(ValueError, match=r".+"):
            function(2.0, **arguments)


def test_hamacher_product_equals_the_packages_with_its_type():
    for a in (0.0, 0.3, 1.0, np.float32(0.7)):
        for b in (0.0, 0.6, 1.0, np.float32(0.1)):
            ours, theirs = rewards.hamacher_product(a, b), reward_utils.hamacher_product(a, b)
            assert (type(ours), ours) == (type(theirs), theirs)
    with pytest.raises(ValueError, match=r"1\.5"):
        rewards.hamacher_product(1.5, 0.5)


def test_rect_prism_tolerance_equals_the_packages():
    generator = np.random.default_rng(0)
    zero, one = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.0, 2.0])
    for point in generator.uniform(-1.2, 2.2, (300, 3)):
        expected = reward_utils.rect_prism_tolerance(point, zero, one)
        assert rewards.rect_prism_tolerance(point, zero, one) == pytest.approx(expected, rel=1e-14)


def test_quaternion_equals_scipys_with_its_sign():
    rotations = Rotation.random(500, rng=np.random.default_rng(0)).as_matrix()
    half_turns = [np.diag(d).astype(float) for d in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1])]
    for matrix in [*rotations, *half_turns]:
        expected = Rotation.from_matrix(matrix).as_quat()
        np.testing.assert_allclose(rewards.quaternion(matrix), expected, rtol=0, atol=4e-16)


@pytest.mark.parametrize(
    "x",
    [np.array([3.0, -4.0, 1e-3]), np.float64(-2.5), np.arange(3), np.ones(3, dtype=np.float32), np.eye(2)],
    ids=["vector", "number", "integers", "float32", "matrix"],
)
def test_norm_equals_numpys_with_its_type(x):
    ours, theirs = rewards.norm(x), np.linalg.norm(x)
    assert (type(ours), ours) == (type(theirs), theirs)


@pytest.mark.parametrize("x", [np.float32(1.5), np.float32(0.25), np.float64(-3.0), np.array([-2.0, 0.5])])
def test_clip_equals_numpys_with_its_type(x):
    ours, theirs = rewards.clip(x, -1, 1), np.clip(x, -1, 1)
    assert type(ours) is type(theirs)
    np.testing.assert_array_equal(ours, theirs)
