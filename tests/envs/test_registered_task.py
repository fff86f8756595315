"""The tasks as gymnasium environments: the official bits, the checker, arguments."""

import pickle
import subprocess
import sys
import warnings

import gymnasium
import metaworld  # noqa: F401  # registers the official ones
import numpy as np
import pytest
from bits import assert_same
from gymnasium.utils.env_checker import check_env
from metaworld.policies import ENV_POLICY_MAP
from metaworld.types import Task

import mtrl_conic
from mtrl_conic.envs.fast.rebind import exact_class
from mtrl_conic.envs.metaworld import all_tasks, draw_goals
from mtrl_conic.envs.registered.registration import TASKS, VECTORS, register
from mtrl_conic.envs.shipped import task_class

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's, about the official spaces


def make(task="reach-v3", **options):
    return gymnasium.make(f"mtrl_conic/{task}", **options)


def official_task(task, goal, visible=True):
    data = {"rand_vec": goal, "env_cls": task_class(task), "partially_observable": not visible}
    return Task(env_name=task, data=pickle.dumps(data))


def actions(task, seed):
    """A scripted policy with noise and, in between, random actions that are out of bounds; of both float types."""
    policy, generator = ENV_POLICY_MAP[task](), np.random.default_rng(seed)

    def act(observation, number):
        if number % 100 < 70:
            action = np.clip(policy.get_action(observation) + generator.normal(0, 0.1, 4), -1, 1)
        else:
            action = generator.uniform(-1.2, 1.2, 4)
        return action.astype(np.float32 if number % 2 else np.float64)

    return act


def play(ours, theirs, task, steps, seed=0):
    """Both take the same actions from a reset on."""
    results = ours.reset(), theirs.reset()
    assert_same(*results, where="reset")
    act = actions(task, seed)
    for number in range(steps):
        action = act(results[1][0], number)
        results = ours.step(action), theirs.step(action)
        assert_same(*results, where=f"step {number} of {task}")


def pair(task, version="v2"):
    official = task_class(task)
    return [kind(reward_function_version=version) for kind in (exact_class(official), official)]


def play_goals(task, version, goals, steps):
    drawn, envs = draw_goals((task,), 3, 8)[0], pair(task, version)
    for goal in goals:
        for env in envs:
            env.set_task(official_task(task, drawn[goal]))
        play(*envs, task, steps, goal)


@pytest.mark.parametrize("task", ["door-open-v3", "hammer-v3", "peg-insert-side-v3", "pick-place-v3", "stick-pull-v3"])
def test_the_exact_class_returns_the_official_bits(task):
    play_goals(task, "v2", (0,), 120)


@pytest.mark.slow
@pytest.mark.parametrize("task", all_tasks())
@pytest.mark.parametrize(("version", "goals"), [("v2", (0, 7, 0)), ("v1", (3,))])
def test_the_exact_class_returns_the_official_bits_for_every_task(task, version, goals):
    play_goals(task, version, goals, 500)


def test_the_environment_equals_the_official_one():
    """Seeded at the reset as that is when it is made; so are the goals of the episodes."""
    theirs = gymnasium.make("Meta-World/MT1", env_name="reach-v3", seed=5, max_episode_steps=12)
    ours = make(goal_seed=5, max_episode_steps=12)
    assert_same(ours.reset(seed=5), theirs.reset())
    for seed in range(2):
        for _ in range(12):
            action = ours.action_space.sample() * (1 + seed)
            results = ours.step(action), theirs.step(action)
            results[1][4].pop("episode", None)  # of the wrapper for statistics
            assert_same(*results)
        assert results[0][3]
        assert_same(ours.reset(), theirs.reset())


def test_a_reset_kept_from_before_equals_the_first_one():
    drawn, envs = draw_goals(("push-v3",), 3, 2)[0], pair("push-v3")
    for goal in (0, 1, 0, 0, 1):
        for env in envs:
            env.set_task(official_task("push-v3", drawn[goal]))
        play(*envs, "push-v3", 20, goal)


def test_a_reset_kept_from_before_leaves_what_is_not_of_the_episode():
    env = pair("reach-v3")[0]
    env.set_task(official_task("reach-v3", draw_goals(("reach-v3",), 3, 1)[0][0]))
    env.seed(1)
    env.reset()
    env._np_random_seed = 2  # as gymnasium notes it
    env.note = "mine"
    env.reset()[0][:] = 0
    assert (env.np_random_seed, env.note) == (2, "mine")
    assert env.reset()[0].any()


def test_a_hidden_goal_is_hidden():
    envs, goal = pair("reach-v3"), draw_goals(("reach-v3",), 3, 1)[0][0]
    for visible in (False, True):
        for env in envs:
            env.set_task(official_task("reach-v3", goal, visible))
        play(*envs, "reach-v3", 3)
        assert envs[0].reset()[0][-3:].any() == visible


def test_the_exact_class_refuses_what_the_official_one_refuses():
    env = pair("reach-v3")[0]
    with pytest.raises(RuntimeError, match="set_task before step"):
        env.step(np.zeros(4))
    with pytest.raises(RuntimeError, match="set_task before reset"):
        env.reset()
    env.set_task(official_task("reach-v3", draw_goals(("reach-v3",), 3, 1)[0][0]))
    env.reset()
    with pytest.raises(ValueError, match="4 entries, not 3"):
        env.step(np.zeros(3))
    env.curr_path_length = env.max_path_length
    with pytest.raises(ValueError, match="call reset"):
        env.step(np.zeros(4))


def check(task):
    env = make(task).unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    known = ["infinity. This is probably too"]  # an object may be anywhere, as in the official space
    if (env.observation_space.low == env.observation_space.high).any():
        known.append("maximum and minimum values are equal")  # all goals of the task are at one height
    said = {str(warning.message) for warning in caught}
    assert all(any(words in line for words in known) for line in said), said


@pytest.mark.parametrize("task", ["pick-place-v3", "assembly-v3"])
def test_gymnasiums_checker_passes(task):
    check(task)


@pytest.mark.slow
@pytest.mark.parametrize("task", all_tasks())
def test_gymnasiums_checker_passes_for_every_task_and_goal(task):
    check(task)
    env = make(task, goal_seed=1)
    for goal in range(50):
        assert env.observation_space.contains(env.reset(options={"goal": goal})[0]), goal


def test_goals_and_seeds():
    env = make("push-v3", goal_seed=2)
    drawn = draw_goals(("push-v3",), 2)[0]
    seen = {tuple(env.reset(options={"goal": goal})[0][-3:]) for goal in (0, 1, 49)}
    assert len(seen) == 3
    assert tuple(drawn[49][-3:-1]) in {goal[:2] for goal in seen}
    first = [env.reset(seed=seed)[0][-3:].tolist() for seed in (1, 2, 1)]
    assert first[0] == first[2] != first[1]
    env.reset(seed=1)
    later = [env.reset()[0][-3:].tolist() for _ in range(4)]
    env.reset(seed=1)
    assert later == [env.reset()[0][-3:].tolist() for _ in range(4)]


@pytest.mark.parametrize("goal", [50, -1, 1.0, True, "0"])
def test_a_goal_that_is_none_is_named(goal):
    with pytest.raises(ValueError, match=r"options\['goal'\] must be .* 0 to 49, not"):
        make().reset(options={"goal": goal})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goal_seed": -1}, "goal_seed must be .* at least 0, not -1"),
        ({"goal_seed": 2**32}, f"goal_seed must be at most {2**32 - 1}, not {2**32}"),
        ({"reward_function_version": "v3"}, "reward_function_version must be one of v1, v2, not 'v3'"),
        ({"terminate_on_success": 1}, "terminate_on_success must be true or false, not 1"),
    ],
)
def test_a_wrong_argument_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)


def test_numbers_of_numpy_are_taken():
    first, second = (make(goal_seed=seed).reset(options={"goal": np.int64(2)})[0] for seed in (3, np.int64(3)))
    np.testing.assert_array_equal(first, second)


def test_an_option_that_there_is_not_is_named():
    with pytest.raises(ValueError, match=r"options must be {'goal': number} or left out, there is no 'gaol'"):
        make().reset(options={"gaol": 3})


def test_an_episode_ends_at_the_limit_or_with_success():
    policy = ENV_POLICY_MAP["reach-v3"]()
    for ends in (False, True):
        env = make(terminate_on_success=ends, max_episode_steps=80)
        observation, _ = env.reset(seed=0)
        terminated = truncated = False
        while not (terminated or truncated):
            action = np.clip(policy.get_action(observation), -1, 1).astype(np.float32)
            observation, _, terminated, truncated, info = env.step(action)
        assert (terminated, truncated) == (ends, not ends)
        assert info["success"] == 1.0


def test_stable_baselines_trains_on_it():
    import stable_baselines3

    env = make(max_episode_steps=20)
    model = stable_baselines3.PPO("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=1, device="cpu", seed=0)
    model.learn(64)
    action, _ = model.predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(action)


def test_the_names_are_the_packages():
    assert sorted(all_tasks()) == sorted(TASKS)
    registered = {name for name in gymnasium.registry if name.startswith("mtrl_conic/")}
    assert registered == {f"mtrl_conic/{name}" for name in (*TASKS, *VECTORS)}
    for name in VECTORS:
        assert f"Meta-World/{name}" in gymnasium.registry
    before = dict(gymnasium.registry)
    register()
    assert dict(gymnasium.registry) == before


def test_the_import_registers_and_brings_neither_torch_nor_metaworld():
    program = (
        "import sys, mtrl_conic, gymnasium\n"
        "assert 'mtrl_conic/MT10' in gymnasium.registry\n"
        "assert not {'metaworld', 'mujoco', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (["python", "-m", "mtrl_conic.train", "--help"], True),
        (["python", "-W", "ignore", "-mmtrl_conic.report", "-m"], True),
        (["python", "-m", "mine.train", "mtrl_conic"], False),
        (["python", "-m", "mtrl_conic_tools"], False),
    ],
)
def test_our_own_commands_do_not_wait_for_gymnasium(monkeypatch, words, own):
    module = next(index for index, word in enumerate(words) if "m" in word and word.startswith("-m"))
    rest = words[module + 1 if words[module] != "-m" else module + 2 :]
    monkeypatch.setattr(sys, "orig_argv", words)
    monkeypatch.setattr(sys, "argv", ["-m", *rest])  # as it is while Python looks for the module
    assert mtrl_conic._on_the_way_to_a_command() == own


def test_other_programs_are_not_our_commands(monkeypatch):
    for words, own in ((["/bin/mtrl-conic", "train"], True), (["mine.py"], False), ([""], False)):
        monkeypatch.setattr(sys, "argv", words)
        assert mtrl_conic._on_the_way_to_a_command() == own
