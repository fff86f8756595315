import pickle
import subprocess
import sys

import metaworld
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT50_V3

from mtrl_conic.envs import metaworld as tasks_module
from mtrl_conic.envs.metaworld import (
    MetaWorld,
    MetaWorldSpec,
    all_tasks,
    benchmark_tasks,
    draw_goals,
    make_spec,
)
from mtrl_conic.envs.vector import VectorEnv

MT10_NAMES = (
    *("reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close", "button-press-topdown"),
    *("peg-insert-side", "window-open", "window-close"),
)
MT10 = tuple(f"{name}-v3" for name in MT10_NAMES)


@pytest.fixture(scope="module")
def spec():
    return make_spec(MT10, goal_seed=5)


def actions(seed, steps):
    """[steps, 4], held for a while so that the hand gets somewhere."""
    held = np.random.default_rng(seed).uniform(-1, 1, (steps // 10 + 1, 4))
    return np.repeat(held, 10, axis=0)[:steps].astype(np.float32)


def package_goals(benchmark):
    goals = {}
    for task in benchmark.train_tasks:
        goals.setdefault(task.env_name, []).append(pickle.loads(task.data)["rand_vec"])
    return goals


def play(env, episode):
    """Steps as one array [T, 41]: observation, reward, success; the rewards must be plain floats."""
    rows = []
    for action in episode:
        step = env.step(action)
        assert type(step.reward) is float
        assert step.terminated is False
        assert type(step.success) is bool
        rows.append(np.concatenate((step.observation, [step.reward, step.success])))
    return np.array(rows)


def test_benchmarks_are_the_packages_in_its_order():
    assert benchmark_tasks("mt10") == MT10
    assert len(benchmark_tasks("mt25")) == 25
    assert benchmark_tasks("mt50") == tuple(MT50_V3)
    assert all_tasks() == tuple(ALL_V3_ENVIRONMENTS)
    with pytest.raises(ValueError, match="'mt11'"):
        benchmark_tasks("mt11")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tasks": ("reach-v2",)}, "reach-v2"),
        ({"tasks": ()}, "no tasks"),
        ({"tasks": ("reach-v3", "reach-v3")}, "reach-v3"),
        ({"tasks": ("reach-v3",), "reward_version": "v3"}, "'v3'"),
    ],
)
def test_a_wrong_value_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        make_spec(**arguments)


def test_importing_the_module_loads_neither_metaworld_nor_torch():
    program = f"import sys, {tasks_module.__name__}\nassert not {{'metaworld', 'mujoco', 'torch'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("task", ["push-v3", "peg-insert-side-v3", "window-close-v3", "lever-pull-v3"])
def test_goals_are_those_of_the_packages_mt1(task):
    (goals,) = draw_goals((task,), 3)
    np.testing.assert_array_equal(goals, package_goals(metaworld.MT1(task, seed=3))[task])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["MT10", "MT50"])
def test_goals_are_those_of_the_packages_benchmark(name):
    theirs = package_goals(getattr(metaworld, name)(seed=11))
    ours = draw_goals(benchmark_tasks(name.lower()), 11)
    for task, goals in zip(benchmark_tasks(name.lower()), ours, strict=True):
        np.testing.assert_array_equal(goals, theirs[task], err_msg=task)


def test_a_subset_has_the_goals_of_the_whole_benchmark(spec):
    part = MetaWorld("mt10", tasks=["door-open-v3", "push-v3"], goal_seed=5).setup()
    assert part.tasks == ("door-open-v3", "push-v3")
    for task, goals in zip(part.tasks, part.goals, strict=True):
        np.testing.assert_array_equal(goals, spec.goals[MT10.index(task)])
    assert not np.array_equal(part.goals[1], make_spec(["push-v3"], goal_seed=5).goals[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"benchmark": "mt11"}, "benchmark must be one of mt1, mt10, mt25, mt50, not 'mt11'"),
        ({"benchmark": "mt10", "task": "push-v3"}, "task must be left out with mt10"),
        ({"benchmark": "mt1", "tasks": ["push-v3"]}, "tasks must be left out with mt1"),
        ({"benchmark": "mt1", "task": 3}, "task must be a Meta-World V3 task, not 3"),
        ({"benchmark": "mt10", "tasks": ["rech-v3"]}, "tasks must be of mt10, not 'rech-v3'; the closest are reach-v3"),
        ({"benchmark": "mt10", "reward_version": "v3"}, "reward_version must be one of v1, v2, not 'v3'"),
        ({"benchmark": "mt10", "num_goals": 51}, "num_goals must be at most 50, not 51"),
        ({"benchmark": "mt10", "episode_length": 0}, "episode_length must be a whole number of at least 1, not 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(ValueError, match=message):
        MetaWorld(**settings)


def test_titles_tell_a_part_from_the_whole():
    assert MetaWorld("mt10").title("mt10") == "MT10, Meta-World V3, reward v2, goal seed 0"
    assert MetaWorld("mt10", tasks=MT10[:2]).title("mt10").startswith("MT10, reach-v3, push-v3, Meta-World V3")
    assert MetaWorld("mt10", tasks=MT10[:5]).title("mt10").startswith("MT10, 5 tasks, Meta-World V3")
    assert MetaWorld("mt10", tasks=MT10[:5]).file_name("mt10") == "mt10_5_tasks_v2_goals0"
    assert MetaWorld("mt1", task="push-v3", goal_seed=2).file_name("mt1") == "mt1_push-v3_v2_goals2"


def test_fewer_goals_and_shorter_episodes_are_named():
    fixed = MetaWorld("mt10", num_goals=1, episode_length=150)
    assert fixed.title("mt10") == "MT10, Meta-World V3, reward v2, goal seed 0, 1 goal, 150 steps"
    assert fixed.file_name("mt10") == "mt10_v2_goals0_1_goal_150_steps"
    assert "one goal per task (goal seed 0), in training and evaluation" in fixed.facts()
    assert "episodes of 150 steps" in fixed.facts()


@pytest.mark.parametrize("fast", [False, True])
def test_a_fixed_goal_is_the_first_one_in_training_and_evaluation(spec, fast):
    fixed = MetaWorld("mt10", tasks=["push-v3"], goal_seed=5, fast=fast, num_goals=1, episode_length=3).setup()
    np.testing.assert_array_equal(fixed.goals[0], spec.goals[MT10.index("push-v3")][:1])
    first = fixed.make(0).reset(0).astype(np.float32)
    for goals in ("random", "in_turn"):
        with VectorEnv(fixed, seeds=[0], num_envs_per_task=2, workers=0, goals=goals) as vector:
            starts = [vector.reset().copy()]
            for number in range(6):
                step = vector.step(np.full((1, 1, 2, 4), 0.3, dtype=np.float32))
                assert step.truncated.all() == (number in (2, 5))
                if step.truncated.all():
                    starts.append(step.observation.copy())
        for start in starts:
            np.testing.assert_array_equal(start, np.broadcast_to(first, (1, 1, 2, 39)))


def test_drawing_goals_leaves_numpys_stream_alone_and_depends_on_the_seed():
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.RandomState(0).uniform()
    first, second = draw_goals(("reach-v3",), 0)[0], draw_goals(("reach-v3",), 1)[0]
    assert np.random.uniform() == expected  # noqa: NPY002
    assert not np.array_equal(first, second)


def test_spec_is_picklable_and_builds_the_same_environment(spec):
    copy = pickle.loads(pickle.dumps(spec))
    assert (copy.tasks, copy.horizon, copy.num_goals) == (MT10, 500, 50)
    assert (copy.observation_size, copy.action_size) == (39, 4)
    first, second = spec.make(0), copy.make(0)
    np.testing.assert_array_equal(first.reset(7), second.reset(7))
    with pytest.raises(ValueError, match="goal 50"):
        first.reset(50)


@pytest.mark.parametrize("task", ["button-press-topdown-v3", "pick-place-v3"])
def test_shipped_adapter_is_the_packages_environment_for_a_whole_episode(task):
    benchmark = metaworld.MT1(task, seed=2)
    package = ALL_V3_ENVIRONMENTS[task](reward_function_version="v2")
    package.set_task(benchmark.train_tasks[4])
    env = make_spec((task,), 2, fast=False).make(0)
    np.testing.assert_array_equal(env.reset(4), package.reset()[0])
    episode = actions(0, 500)
    for row, action in zip(play(env, episode), episode, strict=True):
        observation, reward, _, _, info = package.step(action)
        np.testing.assert_array_equal(row, np.concatenate((observation, [reward, info["success"]])))
    env.step(episode[0])  # the time limit is the vector's


@pytest.mark.parametrize("fast", [False, True])
def test_a_reset_forgets_what_went_before(spec, fast):
    spec = MetaWorldSpec(spec.tasks, spec.goals, fast=fast)
    for task in (2, 5, 7):
        used, fresh = spec.make(task), spec.make(task)
        for goal in (1, 9, 1):
            used.reset(goal)
            play(used, actions(goal, 40))
        late = spec.make(task)  # on the fast path, its model is a copy of a used one
        first = fresh.reset(3)
        expected = play(fresh, actions(3, 40))
        for env in (used, late):
            np.testing.assert_array_equal(env.reset(3), first)
            np.testing.assert_array_equal(play(env, actions(3, 40)), expected)


def rest_of_the_run(env):
    """What follows a saved state: the episode's last steps, its reset and the first steps of the next one."""
    return play(env, actions(1, 60)), env.reset(6), play(env, actions(2, 30))


def replay(path):
    """Run in a fresh process: continue every saved state in an environment that has been elsewhere."""
    with open(path, "rb") as file:
        spec, saved = pickle.load(file)
    for (task, fast), (state, expected) in saved.items():
        env = MetaWorldSpec(spec.tasks, spec.goals, spec.reward_version, fast).make(task)
        env.reset(9)
        play(env, actions(3, 5))
        env.set_state(state)
        for ours, theirs in zip(rest_of_the_run(env), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{spec.tasks[task]}, fast={fast}")
        env.close()


def plain(state):
    """Whether a state holds only what a checkpoint may hold."""
    if isinstance(state, dict):
        return all(type(key) is str and plain(value) for key, value in state.items())
    if isinstance(state, list | tuple):
        return all(plain(value) for value in state)
    if type(state) is np.ndarray:
        return state.dtype.kind in "fib"
    return type(state) in (str, int, float, bool, type(None))


@pytest.mark.parametrize("reward_version", ["v2", pytest.param("v1", marks=pytest.mark.slow)])
def test_a_state_continues_to_the_last_bit_in_a_fresh_process(spec, reward_version, tmp_path):
    spec, saved = MetaWorldSpec(spec.tasks, spec.goals, reward_version), {}
    for task in range(len(MT10)):
        for fast in (False, True):
            env = MetaWorldSpec(spec.tasks, spec.goals, reward_version, fast).make(task)
            env.reset(4)
            play(env, actions(0, 37))
            state = env.get_state()
            assert plain(state), MT10[task]
            saved[task, fast] = state, rest_of_the_run(env)
            env.close()
    path = tmp_path / "states.pickle"
    path.write_bytes(pickle.dumps((spec, saved)))
    subprocess.run([sys.executable, "-W", "ignore", __file__, str(path)], check=True)


def test_a_state_of_the_shipped_class_continues_on_the_fast_path(spec):
    shipped, fast = (MetaWorldSpec(spec.tasks, spec.goals, fast=fast).make(1) for fast in (False, True))
    shipped.reset(0)
    play(shipped, actions(0, 37))
    fast.set_state(shipped.get_state())
    np.testing.assert_allclose(play(fast, actions(1, 60)), play(shipped, actions(1, 60)), rtol=1e-6, atol=1e-12)


if __name__ == "__main__":
    replay(sys.argv[1])
