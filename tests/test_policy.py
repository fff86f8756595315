"""`load_policy`: the agent's actions, clear errors, and the lines that the README shows."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOY, train_here
from omegaconf import OmegaConf

import mtrl_conic
from mtrl_conic.agents.losses import squashed_gaussian
from mtrl_conic.policies.actors import Actors, Weights, read_weights, stored_config
from mtrl_conic.policies.policy import Policy
from mtrl_conic.runs.checkpoint import read_file, write_file
from mtrl_conic.runs.lock import lock
from mtrl_conic.settings.compose import compose_config

README = Path(__file__).parents[1] / "README.md"
TASKS = ("direct", "mirrored", "damped")
SEEDS = [4, 2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy") / "run"
    return train_here(*TOY, "combiner=ls", "seeds=[4,2]", "steps_per_task=200", f"run_dir={folder}")


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "moved"))


def agent_of(config, state=None):
    config.agent["capacity_per_task"] = 10
    agent = config.make_agent()
    agent.setup(config.setting())
    if state is not None:
        agent.load_state_dict(state)
    return agent


@pytest.fixture(scope="module")
def last_agent(run):
    return agent_of(stored_config(run), read_file(run / "checkpoints" / "step_200.pt")["agent"])


def observations(rows):
    return np.random.default_rng(0).normal(size=(rows, 6))  # float64, as environments give them


def wanted(agent, row):
    """The agent's actions [K, 5, A] of one seed on the five observations."""
    observation = torch.tensor(observations(5), dtype=torch.float32).expand(len(SEEDS), 3, 5, 6)
    return agent.exploit(observation)[row].numpy()


@pytest.mark.parametrize("seed", SEEDS)
def test_actions_are_the_agents(run, last_agent, seed):
    policy = mtrl_conic.load_policy(run, checkpoint="last", seed=seed)
    actions, rows = wanted(last_agent, SEEDS.index(seed)), observations(5)
    assert policy.tasks == TASKS
    assert policy.step == 200
    for number, task in enumerate(TASKS):
        close = {"rtol": 0, "atol": 1e-6}
        np.testing.assert_allclose(policy(rows, task), actions[number], **close)
        np.testing.assert_allclose(policy(rows, np.int64(number)), actions[number], **close)
        np.testing.assert_allclose(policy(rows[0], task), actions[number, 0], **close)
    mixed = policy(rows, ["damped", 0, "mirrored", 2, "direct"])
    np.testing.assert_allclose(mixed, actions[[2, 0, 1, 2, 0], range(5)], **close)
    assert np.abs(actions[0] - actions[1]).max() > 1e-3  # the tasks' heads differ


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("task_id_input", [False, True])
def test_actors_act_as_the_agent_to_the_last_bit(layer_norm, task_id_input):
    network = ["agent.hidden_sizes=[16,8]", f"agent.layer_norm={layer_norm}", f"agent.task_id_input={task_id_input}"]
    config = compose_config([*TOY, "combiner=ls", "seeds=[1,2,3]", *network])
    agent = agent_of(config)
    actors = Actors(config, Weights("best.pt", 0, agent.policy_state(agent.state_dict()), ()), config.seeds)
    observation = torch.randn(3, 3, 1, 6)
    assert torch.equal(actors.act(observation), agent.exploit(observation))


def test_shape_type_and_range(run):
    policy = mtrl_conic.load_policy(run)
    for observation, shape in ((observations(1)[0], (2,)), (observations(1), (1, 2)), (1e6 * observations(7), (7, 2))):
        action = policy(observation, "damped")
        assert action.shape == shape
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1
    assert policy([0.0] * 6, 0).shape == (2,)


def test_sampled_actions(run, last_agent):
    policy = mtrl_conic.load_policy(run, checkpoint="last")
    rows = observations(5)
    mean = policy(rows, "direct")
    drawn = policy(rows, "direct", deterministic=False)
    assert np.abs(drawn - mean).max() > 1e-3
    assert np.abs(policy(rows, "direct", deterministic=False) - drawn).max() > 1e-3
    assert np.array_equal(policy(rows, "direct"), mean)
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(7))
    policy.generator.manual_seed(7)
    inputs = torch.tensor(rows, dtype=torch.float32).expand(2, 3, 5, 6)
    outputs = last_agent.actor_net(last_agent.actor.views, last_agent.inputs(inputs)).detach()
    expected = squashed_gaussian(outputs[0, 0], noise)[0]
    np.testing.assert_allclose(policy(rows, "direct", deterministic=False), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("observation", "task", "words"),
    [
        (np.zeros(6), "mirored", ["'mirored'", "'mirrored'"]),
        (np.zeros(6), 3, ["no task 3", "0 to 2"]),
        (np.zeros(6), -1, ["no task -1"]),
        (np.zeros(5), "direct", ["[6]", "[5]"]),
        (np.zeros(9), "direct", ["[9]", "use_one_hot=False"]),
        (np.zeros((2, 3, 6)), "direct", ["[2, 3, 6]"]),
        (np.float64(0), "direct", ["[]"]),
        (np.zeros((3, 6)), ["direct", "damped"], ["2 tasks", "[3, 6]"]),
        (np.zeros(6), ["direct"], ["1 tasks"]),
    ],
)
def test_calls_that_make_no_sense(run, observation, task, words):
    policy = mtrl_conic.load_policy(run)
    with pytest.raises(ValueError, match=r"task|observation") as error:
        policy(observation, task)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"checkpoint": "newest"}, ["checkpoint=newest", "best, last"]),
        ({"seed": 3}, ["seed 3", "4, 2"]),
        ({"device": "tpu"}, ["device=tpu"]),
        ({"run": "nowhere"}, ["run=nowhere", "config.yaml"]),
    ],
)
def test_what_cannot_be_loaded(run, arguments, words):
    with pytest.raises(ValueError, match=r"\w") as error:
        mtrl_conic.load_policy(**{"run": run, **arguments})
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_no_checkpoint(copy):
    (copy / "checkpoints" / "best.pt").unlink()
    with pytest.raises(ValueError, match=r"no .*best\.pt"):
        mtrl_conic.load_policy(copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ValueError, match="no usable checkpoint"):
        mtrl_conic.load_policy(copy, checkpoint="last")


def test_damaged_checkpoints(copy):
    best, newest = copy / "checkpoints" / "best.pt", copy / "checkpoints" / "step_200.pt"
    for path in (best, newest):
        path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"best\.pt is damaged"):
        mtrl_conic.load_policy(copy)
    with pytest.warns(UserWarning, match=r"step_200\.pt is damaged"):
        assert mtrl_conic.load_policy(copy, checkpoint="last").step == 100
    for path in (copy / "checkpoints").glob("step_*.pt"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no usable checkpoint"):
        mtrl_conic.load_policy(copy, checkpoint="last")


def test_weights_of_another_run(copy):
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("- 16", "- 17"))
    with pytest.raises(ValueError, match=r"best\.pt does not fit"):
        mtrl_conic.load_policy(copy)


def test_neither_combiner_nor_device_of_the_run_is_needed(copy):
    config = OmegaConf.load(copy / "config.yaml")
    config.combiner = {"_target_": "gone.Mine"}
    config.device = "cuda:7"
    OmegaConf.save(config, copy / "config.yaml")
    assert mtrl_conic.load_policy(copy).tasks == TASKS


def test_a_locked_run_can_be_read(copy):
    import os

    descriptor = lock(copy)
    try:
        assert mtrl_conic.load_policy(copy, checkpoint="last").step == 200
    finally:
        os.close(descriptor)


def test_a_training_may_drop_the_checkpoint_that_is_about_to_be_read(copy, monkeypatch):
    folder = copy / "checkpoints"

    def read_too_late(path):
        if path.name == "step_200.pt":
            state = read_file(path)
            path.unlink()
            write_file(folder / "step_300.pt", {**state, "step": 300})
        return read_file(path)

    monkeypatch.setattr("mtrl_conic.policies.actors.read_file", read_too_late)
    assert read_weights(copy, "last", stored_config(copy).make_agent()).step == 300


def test_best_and_last_are_different_weights(run):
    """The success rate stays at 0, so the first evaluation remains the best."""
    best, last = (read_weights(run, name, stored_config(run).make_agent()) for name in ("best", "last"))
    state = read_file(run / "checkpoints" / "best.pt")
    assert best.step == state["step"]
    assert torch.equal(best.state["params"], state["policy"]["params"])
    newest = read_file(run / "checkpoints" / "step_200.pt")
    assert torch.equal(last.state["params"], newest["agent"]["actor"]["params"])


def test_the_lines_of_the_readme(tmp_path, monkeypatch):
    """On the MT10 networks of `experiment=smoke`, not trained."""
    config = compose_config(["experiment=smoke", "combiner=ls", "device=cpu"])
    (tmp_path / "runs" / "x" / "checkpoints").mkdir(parents=True)
    OmegaConf.save(OmegaConf.structured(config), tmp_path / "runs" / "x" / "config.yaml")
    agent = agent_of(config)
    weights = {"policy": agent.policy_state(agent.state_dict()), "step": 1000, "success_rate": 0.0}
    write_file(tmp_path / "runs" / "x" / "checkpoints" / "best.pt", weights)
    (lines,) = re.findall(r"```python\n(.*?load_policy.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium's, of Meta-World's observation spaces
        exec(lines, namespace)
    observation, policy = namespace["observation"], namespace["policy"]
    assert observation.shape == (39,)
    assert namespace["truncated"]  # a whole episode
    expected = agent.exploit(torch.tensor(observation, dtype=torch.float32).expand(1, 10, 1, 39))
    number = policy.tasks.index("push-v3")
    np.testing.assert_allclose(policy(observation, "push-v3"), expected[0, number, 0], rtol=0, atol=1e-6)


def test_a_vector_of_the_package():
    """Of two tasks, as the package takes a second per task to draw its goals."""
    import gymnasium
    import metaworld  # noqa: F401 registers the environments

    config = compose_config(["experiment=smoke", "combiner=ls", "device=cpu"])
    agent = agent_of(config)
    policy = Policy(Actors(config, Weights("best.pt", 0, agent.policy_state(agent.state_dict()), ()), [0]))
    tasks = ["window-close-v3", "push-v3"]
    numbers = [policy.tasks.index(task) for task in tasks]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        envs = gymnasium.make_vec("Meta-World/custom-mt-envs", vector_strategy="sync", envs_list=tasks)
        observation, _ = envs.reset(seed=0)
        for _ in range(3):
            action = policy(observation, tasks)
            inputs = torch.tensor(observation, dtype=torch.float32).expand(1, 10, 2, 39)
            expected = agent.exploit(inputs)[0, numbers, range(2)]
            np.testing.assert_allclose(action, expected, rtol=0, atol=1e-6)
            observation = envs.step(action)[0]
        envs.close()
