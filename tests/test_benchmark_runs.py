"""The benchmark on runs of any agent and experiment: what is measured, and of what, not how long it takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import environment, wait_for
from test_agents import OWN
from torch.utils.flop_counter import FlopCounterMode

from mtrl_conic.benchmark import command, loop
from mtrl_conic.benchmark.__main__ import main
from mtrl_conic.benchmark.learning import LearningAgent
from mtrl_conic.benchmark.options import parse
from mtrl_conic.benchmark.timing import ProcessError, in_turns
from mtrl_conic.benchmark.updates import PRODUCTS, matrix_products, measure
from mtrl_conic.benchmark.vectors import RandomSteps, reset_warm
from mtrl_conic.envs.toy import ToyEnv, ToySpec
from mtrl_conic.envs.vector import VectorEnv
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.training.trainer import Trainer

TOY = ["env=toy", "combiner=ls", "device=cpu", "threads=1"]
SIZES = (3, 6, 2)
SAC = ["network=residual", "agent.network.width=8", "warmup_steps=20", "batch_size_per_task=4"]
PPO = [
    *("agent=mtmhppo", "network=residual", "critic_network=residual", "agent.popart=null", "agent.rollout_steps=8"),
    *("agent.network.width=8", "agent.critic_network.width=8", "agent.minibatches=2", "agent.epochs=1"),
]
BRC = ["agent=brc", *SAC[1:], "agent.critic_network.width=16", "agent.value_bins=11"]
# BRC's targets move the distribution of each row, of 2 seeds and 3 tasks, by a product with a matrix of its own.
BRC_TARGETS = 2 * 11 * 11 * (2 * 3 * 4)
STL = ["agent=stl", "agent.network.hidden_sizes=[8]", *SAC[2:]]
PACO = ["agent=paco", "agent.network.hidden_sizes=[8]", "agent.network.parameter_sets=2", *SAC[2:]]
# Each task mixes its weights and biases of two sets in every pass; back, shares and sets get a product each.
_LAYERS = [(6 + 2, 8), (8, 1)], [(6, 8), (8, 4)]  # inputs and outputs of the critics' and of the actor's layers
_NUMBERS = [sum((inputs + 1) * outputs for inputs, outputs in layers) for layers in _LAYERS]  # in a set
_PASSES = (2 * (3 + 1 + 1), 2 + 1 + 1)  # of two critics, and of the actor
PACO_MIXING = 2 * (2 * 3 * 2) * (_PASSES[0] * _NUMBERS[0] + _PASSES[1] * _NUMBERS[1])  # of seeds, tasks and sets


def flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        (SAC, 0),
        ([*SAC, "agent.num_critics=3", "agent.task_id_input=false"], 0),
        ([*SAC, "critic_network=residual", "agent.critic_network.width=16"], 0),
        (PPO, 0),
        ([*PPO, "env.num_envs_per_task=2"], 0),
        (BRC, BRC_TARGETS),
        (STL, 0),
        (PACO, PACO_MIXING),
    ],
)
def test_the_products_of_an_update_are_all_that_it_multiplies(settings, more):
    """Counted by torch, with networks whose matrices are all of one kind and a method that multiplies nothing."""
    config = compose_config([*TOY, "seeds=[0,1]", *settings])
    one = LearningAgent(config, SIZES)
    one.ready()
    products = one.agent.products(one.setting)
    assert flops(one.update) == flops(matrix_products(products, 2, "cpu")) + more


def test_an_update_follows_only_when_it_is_due():
    """The minibatches of a rollout are used up once each, and the next rollout is filled before the next update."""
    one = LearningAgent(compose_config([*TOY, *PPO]), SIZES)
    taken = []
    take, fill = one.agent.batches.take, one.agent.batches.fill
    one.agent.batches.take = lambda: taken.append("take") or take()
    one.agent.batches.fill = lambda *fields: taken.append("fill") or fill(*fields)
    for _ in range(5):
        one.ready()
        one.update()
    assert taken == ["fill", "take", "take", "fill", "take", "take", "fill", "take"]


def test_agents_can_fill_one_memory():
    config = compose_config([*TOY, *SAC])
    first = LearningAgent(config, SIZES)
    first.ready()
    second = LearningAgent(config, SIZES, first.agent.memory)
    second.ready()
    assert second.agent.memory is first.agent.memory
    assert len(first.agent.memory) == 21  # the random steps, and one more
    assert second.update()["loss/critic"].isfinite().all()


def test_an_agent_that_lists_no_products_is_measured_without_them():
    config = compose_config([*TOY, "agent=tiny_on_policy", "agent.network.hidden_sizes=[8]"], OWN)
    assert set(measure({"ls": config}, SIZES, parse(["updates", "rounds=1"]))) == {"ls"}


def test_agents_beside_their_own_products(tmp_path, capsys):
    path = tmp_path / "speed.json"
    arguments = ["env=toy", "agents=mtmhsac,stl", "rounds=1", f"json={path}"]
    assert main(["agents", *arguments]) == 0
    (row,) = json.loads(path.read_text())["agents"]
    assert row["milliseconds"].keys() == row["products"].keys() == {"mtmhsac", "stl"}
    assert min(*row["milliseconds"].values(), *row["products"].values()) > 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-2:]] == ["mtmhsac", "stl"]


def test_updates_of_an_experiment(tmp_path, capsys):
    path = tmp_path / "speed.json"
    arguments = ["experiment=smoke", "env=toy", "combiners=ls,conicgrad", "rounds=1", f"json={path}"]
    assert main(["updates", *arguments]) == 0
    (row,) = json.loads(path.read_text())["updates"]
    assert set(row["milliseconds"]) == {"ls", "conicgrad", PRODUCTS}
    assert {"experiment": "smoke", "env": "toy", "threads": 1}.items() <= row.items()
    assert "16 rows per task" in capsys.readouterr().out


def test_an_experiment_chooses_what_is_not_given():
    options = parse(["updates", "experiment=brc"])
    assert (options.env, options.combiner, options.matmul_precision) == ("mt10", "ls", "high")
    options = parse(["loop", "experiment=fast", "env=mt50", "combiner=pcgrad"])
    config = compose_config(options.overrides(options.combiner, 2))
    assert (config.env_name, config.combiner_name, config.seeds) == ("mt50", "pcgrad", [0, 1])
    assert config.vector.num_envs_per_task == 8
    assert config.choices["agent"] == "mtmhppo"


def test_what_comes_before_a_call_is_not_measured(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    seconds = in_turns({"a": lambda: passes(1)}, 3, unmeasured=1, before=lambda name: passes(10))
    assert seconds == {"a": 1}
    assert now[0] == 5 * 2 * 11


@pytest.mark.parametrize(
    ("settings", "steps"),
    [(PPO, 8), ([*PPO, "env.action_repeat=2"], 8), (SAC, 10), ([*SAC, "env.num_envs_per_task=3"], 10)],
)
def test_the_parts_of_a_loop_make_whole_rollouts(settings, steps, tmp_path):
    """Collecting makes no update, and leaves all that there are to be made to the part that follows."""
    config = compose_config([*TOY, *settings, "seeds=[0,1]"])
    trainer = Trainer(config, tmp_path)
    made = []
    update = trainer.steps.update
    trainer.steps = trainer.steps._replace(update=lambda: made.append(trainer.step) or update())
    try:
        counted, parts = loop._parts(trainer)
        assert counted == steps
        of_a_part = steps if trainer.agent.overlaps else 2
        for part, updates in (("env", 0), ("collect", 0), ("update", of_a_part), ("loop", of_a_part)) * 2:
            before, step = len(made), trainer.step
            parts[part]()
            assert len(made) - before == updates, part
            moved = steps * config.vector.steps_per_decision if part in ("collect", "loop") else 0
            assert trainer.step - step == moved, part
    finally:
        trainer.close()


@pytest.mark.parametrize(("settings", "over"), [(SAC, "over_longer"), (PPO, "over_sum")])
def test_steps_are_those_of_the_environment(settings, over):
    row = loop.measure([*TOY, *settings, "env.num_envs_per_task=2", "env.action_repeat=5", "eval.episodes=1"], 1)
    assert row["steps_per_vector_step"] == 10
    assert row["steps_per_second"] == pytest.approx(10 / row["loop"] * 1e3)
    training = 2e6 / 10 * row["loop"] / 3.6e6
    assert row["full_length_hours"] == pytest.approx(training / (1 - row["evaluation_share"]))
    assert row["env_over_collect"] == pytest.approx(row["env"] / row["collect"])
    assert over in row


def test_every_goal_has_come_before_a_measurement(monkeypatch):
    seen, reset = set(), ToyEnv.reset
    monkeypatch.setattr(
        ToyEnv, "reset", lambda env, goal: seen.add((env._sign, env._inertia, goal)) or reset(env, goal)
    )
    with VectorEnv(ToySpec(), [0, 1], num_envs_per_task=2, workers=0) as envs:
        assert reset_warm(envs, 0).shape == (2, 3, 2, 6)
    assert len(seen) == 3 * 10


def test_random_actions_are_new_at_each_step():
    taken = []
    envs = SimpleNamespace(shape=(2, 3, 4), spec=ToySpec(), step=taken.append)
    steps = RandomSteps(envs, 5)
    steps()
    steps()
    actions = np.stack(taken)
    assert actions.shape == (10, 2, 3, 4, 2)
    assert actions.dtype == np.float32
    assert len(np.unique(actions)) > 470  # of 480
    assert -1 <= actions.min() < -0.9 < 0.9 < actions.max() <= 1


def test_the_command_is_measured_to_its_end(tmp_path, monkeypatch, capfd):
    measured = []

    def here(module, arguments):
        measured.append(next(text for text in arguments if text.startswith("seeds=")))
        return {"seeds=[0, 1]": 0.5, "seeds=[0]": 0.25}[measured[-1]] * (1 if len(measured) < 3 else 3)

    monkeypatch.setattr(command, "in_a_process", here)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = tmp_path / "command.json"
    arguments = ["experiment=smoke", "env=toy", "steps=300", "seeds=2", "rounds=1", f"json={path}"]
    assert main(["command", *arguments]) == 0
    (row,) = json.loads(path.read_text())["command"]
    assert measured == ["seeds=[0, 1]", "seeds=[0]"] * 2
    assert (row["experiment"], row["combiner"], row["steps_per_task"]) == ("smoke", "conicgrad", 300)
    assert row["physical_steps"] == 300 * 3 * 2
    assert row["bare_minutes"] == 5.0  # 300 vector steps of half a second before the run, and of one and a half after
    assert 0 < row["waiting_minutes"] < row["command_minutes"]
    assert row["bare_microseconds_per_step"] == pytest.approx([0.5e6 / 6, 1.5e6 / 6])
    assert row["ratio"] == pytest.approx(5 / row["command_minutes"])
    assert row["ratio_per_seed"] == pytest.approx(row["ratio"])  # the seeds' bare vectors take as long one by one
    assert set(row["success_of_seeds"]) == {"0", "1"}
    assert row["success"] == pytest.approx(sum(row["success_of_seeds"].values()) / 2)
    assert "step 300: success rate" in capfd.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["command.json"]


def test_the_bare_vector_is_that_of_the_run(monkeypatch):
    monkeypatch.setattr(command, "_STEPS", 4)
    shapes = []

    class Steps(RandomSteps):
        def __init__(self, envs, steps):
            super().__init__(envs, steps)
            shapes.append((envs.shape, envs.action_repeat, envs.spec.horizon, steps))

    monkeypatch.setattr(command, "RandomSteps", Steps)
    vector = ["env.num_envs_per_task=2", "env.horizon=30", "env.action_repeat=5"]
    assert command.measure([*TOY, *vector, "seeds=[0,1]"], 1) > 0
    assert shapes == [((2, 3, 2), 5, 30, 4)]


def test_a_command_that_fails_is_one_line(capfd):
    with pytest.raises(ProcessError, match="exit status 2"):
        command._train(["env=toy", "combiner=nope"])
    assert "combiner=nope" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_ends_the_command_and_leaves_nothing(number, tmp_path):
    program = (
        "import sys; from mtrl_conic.benchmark import __main__, command; "
        "command.in_a_process = lambda *_: 1.0; sys.exit(__main__.main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "command", "experiment=smoke", "env=toy", "steps=1000000"],
        env=environment() | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: list(tmp_path.glob("*/run/checkpoints/step_*.pt")), process, 200)
    process.send_signal(number)
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "stopped"
    assert "Traceback" not in errors
    assert "continue with resume=" in errors  # the run's own farewell
    assert not list(tmp_path.glob("*/run"))
    assert not [pid for pid in os.listdir("/proc") if pid.isdecimal() and str(tmp_path) in _command_line(pid)]


def _command_line(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_text()
    except OSError:
        return ""
