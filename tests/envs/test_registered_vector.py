"""The registered vector beside the official one: every bit of every mode, and what it refuses."""

import gymnasium
import metaworld
import numpy as np
import pytest
from bits import assert_same
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from metaworld.evaluation import evaluation
from metaworld.policies import ENV_POLICY_MAP

import mtrl_conic  # noqa: F401  # registers ours
from mtrl_conic.envs.metaworld import draw_goals
from mtrl_conic.envs.registered.task import official_tasks
from mtrl_conic.envs.registered.vector import GymnasiumVector
from mtrl_conic.envs.registered.worker import BenchmarkSpec
from mtrl_conic.envs.shared import WorkerError
from mtrl_conic.envs.shipped import task_class

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's, about the official spaces

# The `info` of hammer-v3 has a bool of numpy's and an int, that of the others floats of both kinds.
NAMES = ("hammer-v3", "reach-v3", "drawer-close-v3")
COUNT = len(NAMES)


@pytest.fixture(scope="module")
def goals():
    return draw_goals(NAMES, 3, 2)


def ours(goals, mode=AutoresetMode.SAME_STEP, workers=2, **options):
    return GymnasiumVector(BenchmarkSpec(NAMES, goals, 4, COUNT, options), workers, mode, timeout=60.0)


def theirs(goals, mode=AutoresetMode.SAME_STEP, **options):
    def build(index):
        task = NAMES[index]
        made, tasks = task_class(task), official_tasks(task, goals[index])
        return metaworld._init_each_env(made, tasks, seed=4, env_id=index, num_tasks=COUNT, **options)

    return SyncVectorEnv([lambda index=index: build(index) for index in range(COUNT)], autoreset_mode=mode)


def without_times(result):
    """The statistics of an episode hold the seconds that it took."""
    for infos in (result[-1], result[-1].get("final_info", {})):
        if "episode" in infos:
            infos["episode"].pop("t")
    return result


def play(vectors, steps, mode=AutoresetMode.SAME_STEP):
    """Step all vectors with the same actions, of both float types, and compare them with the last one."""
    generator, shape = np.random.default_rng(0), vectors[-1].action_space.shape
    for vector in vectors:
        vector.call("toggle_sample_tasks_on_reset", True)  # "pseudorandom" waits for it
    results = [vector.reset() for vector in vectors]
    for result in results[:-1]:
        assert_same(result, results[-1])
    ended = 0
    for number in range(steps):
        action = generator.uniform(-1.1, 1.1, shape).astype(np.float32 if number % 2 else np.float64)
        results = [without_times(vector.step(action)) for vector in vectors]
        for result in results[:-1]:
            assert_same(result, results[-1], f"step {number}")
        over = results[-1][2] | results[-1][3]
        ended += over.sum()
        if mode == AutoresetMode.DISABLED and over.any():
            results = [vector.reset(options={"reset_mask": over.copy()}) for vector in vectors]
            for result in results[:-1]:
                assert_same(result, results[-1])
    return ended


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        (AutoresetMode.SAME_STEP, {"use_one_hot": True}),
        pytest.param(
            AutoresetMode.NEXT_STEP,
            {"recurrent_info_in_obs": True, "task_select": "pseudorandom"},
            marks=pytest.mark.slow,
        ),
        (AutoresetMode.DISABLED, {"reward_normalization_method": "exponential", "reward_function_version": "v1"}),
    ],
)
def test_every_mode_equals_the_official_one(goals, mode, options):
    options = {"max_episode_steps": 7, **options}
    official = theirs(goals, mode, **options)
    vector = ours(goals, mode, **options)
    for name in ("observation_space", "single_observation_space", "action_space", "single_action_space", "metadata"):
        assert getattr(vector, name) == getattr(official, name), name
    assert play([vector, official], 18, mode) >= 2 * COUNT
    vector.close()


class Scripted:
    """An agent for Meta-World's own evaluation."""

    def __init__(self):
        self.policies = [ENV_POLICY_MAP[task]() for task in NAMES]

    def eval_action(self, observations):
        actions = [policy.get_action(row) for policy, row in zip(self.policies, observations, strict=True)]
        return np.clip(np.array(actions, dtype=np.float32), -1, 1)

    def reset(self, env_mask):
        pass


def test_meta_worlds_own_evaluation_gives_the_same_result(goals):
    options = {"max_episode_steps": 50}
    with_ours = ours(goals, **options)
    results = [evaluation(Scripted(), envs, num_episodes=2) for envs in (with_ours, theirs(goals, **options))]
    assert_same(*results)
    assert 0 < results[0][0] <= 1
    with_ours.close()


@pytest.fixture(scope="module")
def shared(goals):
    with_two = ours(goals, max_episode_steps=5)
    yield with_two
    with_two.close()


def test_methods_and_attributes_of_the_environments(shared):
    shared.reset()
    assert shared.get_attr("task_name") == tuple(task_class(task).__name__ for task in NAMES)
    shared.set_attr("terminate_on_success", [True, False, True])
    assert shared.get_attr("terminate_on_success") == (True, False, True)
    shared.call("toggle_terminate_on_success", False)
    assert shared.get_attr("terminate_on_success") == (False,) * COUNT
    assert len({generator.bit_generator.state["state"]["state"] for generator in shared.np_random}) == 1
    (first, checkpoint), *_ = shared.call("get_checkpoint")
    assert first == f"{task_class(NAMES[0])}_0"
    assert len(checkpoint["tasks"]) == 2
    shared.call("load_checkpoint", shared.call("get_checkpoint"))


def test_results_are_the_callers(shared):
    first, _ = shared.reset()
    before = first.copy()
    shared.step(np.ones((COUNT, 4)))
    np.testing.assert_array_equal(first, before)


def test_what_cannot_be_used_is_refused_and_the_vector_goes_on(shared):
    with pytest.raises(ValueError, match=r"\(3, 4\), not \(2, 4\)"):
        shared.step(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="one per environment, 3, not 2"):
        shared.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="reset_mask"):
        shared.reset(options={"reset_mask": np.zeros(3, dtype=bool)})
    with pytest.raises(ValueError, match="one per environment, 3, not 1"):
        shared.set_attr("note", [1])
    with pytest.raises(ValueError, match="'step'"):
        shared.call("step", 0)
    with pytest.raises(NoAsyncCallError, match="no step is under way"):
        shared.step_wait()
    shared.reset_async()
    with pytest.raises(AlreadyPendingCallError, match="reset is under way"):
        shared.step_async(np.zeros((COUNT, 4)))
    shared.reset_wait()
    assert shared.step(np.zeros((COUNT, 4)))[1].shape == (COUNT,)


def test_a_failure_names_the_task_and_ends_the_workers(goals):
    vector = ours(goals, AutoresetMode.DISABLED, max_episode_steps=500)
    processes = [worker.process for worker in vector._pool.processes]
    vector.reset()
    vector.set_attr("curr_path_length", [0, 500, 0])
    with pytest.raises(WorkerError, match=r"task 'reach-v3': step failed: ValueError: the episode is over"):
        vector.step(np.zeros((COUNT, 4)))
    assert all(process.poll() is not None for process in processes)
    with pytest.raises(ClosedEnvironmentError):
        vector.reset()
    vector.close()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"vector_strategy": "thread"}, ValueError, "vector_strategy must be one of sync, async, not 'thread'"),
        ({"autoreset_mode": "never"}, ValueError, "never"),
        ({"seed": -1}, ValueError, "seed must be .* at least 0, not -1"),
        ({"num_envs": 3}, ValueError, "num_envs must be left out or 10, the tasks of MT10, not 3"),
        ({"num_goals": 0}, ValueError, "num_goals .* not 0"),
        ({"num_tasks": 9}, ValueError, "num_tasks must be .* at least 10, not 9"),
        ({"workers": 2}, ValueError, "workers=2 needs vector_strategy='async'"),
        ({"workers": 11, "vector_strategy": "async"}, ValueError, "at most .* 10, not 11"),
        ({"workers": 0, "vector_strategy": "async"}, ValueError, "workers .* not 0"),
        ({"timeout": 0}, ValueError, "timeout .* not 0"),
        ({"one_hot": True}, TypeError, "one_hot"),
    ],
)
def test_a_wrong_argument_is_named(options, error, words):
    with pytest.raises(error, match=words):
        gymnasium.make_vec("mtrl_conic/MT10", **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MT10", "MT25", "MT50"])
def test_the_registered_vector_equals_the_official_one(name):
    options = {"seed": 4, "max_episode_steps": 150, "use_one_hot": True}
    official = gymnasium.make_vec(f"Meta-World/{name}", **options)
    vectors = [gymnasium.make_vec(f"mtrl_conic/{name}", vector_strategy=way, **options) for way in ("sync", "async")]
    for vector in vectors:
        assert vector.observation_space == official.observation_space
    assert play([*vectors, official], 320) == 2 * official.num_envs
    for vector in (*vectors, official):
        vector.close()
