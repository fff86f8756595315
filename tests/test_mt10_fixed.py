"""experiment=mt10_fixed: the protocol of the papers from PCGrad to ConicGrad, as near as Meta-World V3 allows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import records, train_here

from mtrl_conic.evaluate import main as evaluate
from mtrl_conic.report.grouping import sections
from mtrl_conic.report.reading import read_run
from mtrl_conic.settings.compose import compose_config

PRESET = ["experiment=mt10_fixed", "device=cpu"]
TITLE = "MT10, Meta-World V3, reward v1, goal seed 0, 1 goal, 150 steps"
ENV = {
    "_target_": "mtrl_conic.envs.metaworld.MetaWorld",
    "benchmark": "mt10",
    "tasks": None,
    "fast": True,
    "goal_seed": 0,
    "reward_version": "v1",
    "num_goals": 1,
    "episode_length": 150,
    "num_envs_per_task": 1,
    "workers": None,
    "timeout": 60.0,
    "horizon": None,
    "action_repeat": 1,
}
AGENT = {
    "_target_": "mtrl_conic.agents.sac.MultiTaskSAC",
    "network": {
        "_target_": "mtrl_conic.networks.multi_head.MultiHeadMLP",
        "hidden_sizes": [400, 400, 400],
        "layer_norm": False,
        "heads": "shared",
    },
    "critic_network": None,
    "num_critics": 2,
    "task_id_input": False,
    "warmup_steps": 1500,
    "batch_size_per_task": 128,
    "capacity_per_task": 100_000,
    "updates_per_step": 1,
    "learning_rate": 3e-4,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.0,
    "max_grad_norm": None,
    "clip": "network",
    "discount": 0.99,
    "tau": 0.005,
    "temperatures": "combined",
    "initial_temperature": 1.0,
    "target_entropy": None,
    "reward_scale": 1.0,
    "normalise_returns": False,
    "normalise_rewards": True,
    "normalise_observations": False,
    "critic_head": "scalar",
    "value_bins": 101,
    "value_limit": 10.0,
    "loss_weighting": "none",
    "loss_reduction": "mean",
    "gradient_scope": "all",
}


def test_the_settings_of_the_preset():
    config = compose_config(PRESET)
    assert config.env == ENV
    assert config.agent == AGENT
    assert (config.seeds, config.steps_per_task) == ([*range(10)], 2_000_000)
    assert (config.eval.every, config.eval.episodes, config.eval.final_episodes) == (30_000, 1, 1)
    assert config.eval.every % config.env["episode_length"] == 0
    assert (config.choices["env"], config.choices["agent"]) == ("mt10", "mtsac")
    assert config.make_agent().networks == ("critic", "actor", "temperature")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The preset, made small: ten tasks, two seeds, two episodes of training."""
    small = ["agent.network.hidden_sizes=[16,16]", "agent.warmup_steps=200", "agent.batch_size_per_task=8"]
    short = ["seeds=[0,1]", "steps_per_task=300", "eval.every=150", "metrics_every=50", "agent.capacity_per_task=400"]
    folder = tmp_path_factory.mktemp("fixed") / "run"
    return train_here(*PRESET, *small, *short, "combiner=pcgrad", "threads=1", "env.workers=0", f"run_dir={folder}")


@pytest.mark.slow
def test_a_short_run_leaves_finite_records(run):
    lines, metrics = records(run), records(run, "metrics")
    assert [(line["step"], line["seed"], line["episodes"]) for line in lines] == [
        (step, seed, 1) for step in (150, 300) for seed in (0, 1)
    ]
    assert all(len(line["success"]) == 10 and set(line["success"].values()) <= {0.0, 1.0} for line in lines)
    assert not (run / "halted.json").exists()
    assert {line["step"] for line in metrics if "loss/critic/push-v3" in line} == {250, 300}
    for line in metrics:
        assert np.isfinite([value for value in line.values() if value is not None]).all()
    last = metrics[-1]
    assert {"loss/temperature/push-v3", "combiner/temperature/conflict", "combiner/actor/conflict"} <= last.keys()
    assert len({value for key, value in last.items() if key.startswith("temperature/")}) == 1


def test_records_and_tables_name_its_protocol(run, tmp_path, capsys):
    """An evaluation on one goal is the same in each of its episodes: more of them say no more, and are possible."""
    assert evaluate([f"run={run}", "episodes=2", "checkpoint=last", "workers=0", f"out={tmp_path}/two.json"]) == 0
    assert TITLE in capsys.readouterr().out
    found = json.loads((tmp_path / "two.json").read_text())
    assert found["title"] == TITLE
    shown = {key: found["protocol"][key] for key in ("env", "reward_version", "goals", "horizon", "episodes")}
    assert shown == {"env": "mt10", "reward_version": "v1", "goals": 1, "horizon": 150, "episodes": 2}
    for line, once in zip(found["evaluations"], records(run)[-2:], strict=True):
        assert (line["success"], line["return"]) == (once["success"], once["return"])
    (section,) = sections([read_run(run, [])], None, [])
    assert (section.title, section.slug) == (TITLE, "mt10_v1_goals0_1_goal_150_steps")
    for words in ("reward v1", "one goal per task (goal seed 0), in training and evaluation", "episodes of 150 steps"):
        assert words in section.sentence
