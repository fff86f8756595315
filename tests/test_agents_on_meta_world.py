"""Every agent with combiners of each kind, and every row of the papers' table, on the ten tasks of MT10."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import records, train_here
from test_agents import COMBINER, small

from mtrl_conic.settings.paths import choices

KINDS = ("ls", "conicgrad", "pcgrad")
PAIRS = [(agent, kind) for agent in choices("agent") for kind in KINDS if kind == COMBINER.get(agent, kind)]
SHORT = ["metrics_every=50", "eval.every=100", "eval.episodes=1", "eval.final_episodes=1", "threads=1", "device=cpu"]


def finite(folder):
    """Whether there are evaluations and losses of all tasks, and no number in the records is not one."""
    (*_, metrics), evaluations = records(folder, "metrics"), records(folder)
    losses = [key for key in metrics if key.startswith("loss/")]
    assert len(losses) in (20, 30)  # of critic and actor, and of a combined temperature
    assert evaluations
    assert all(len(line["success"]) == 10 for line in evaluations)
    assert not (folder / "halted.json").exists()
    for line in records(folder, "metrics"):
        assert np.isfinite([value for value in line.values() if value is not None]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "combiner"), PAIRS)
def test_every_agent_learns_on_mt10(agent, combiner, tmp_path):
    settings = [*small(agent), f"combiner={combiner}", "env.num_envs_per_task=2", "env.horizon=100", *SHORT]
    finite(train_here("env=mt10", *settings, "steps_per_task=100", f"run_dir={tmp_path / 'run'}"))


@pytest.mark.slow
def test_networks_of_one_agent_may_have_combiners_of_their_own(tmp_path):
    """As TOPPO (arXiv 2605.11473) chooses them for actor and critic."""
    settings = [*small("mtmhppo"), "actor.combiner=pcgrad", "critic.combiner=fairgrad", "env.num_envs_per_task=2"]
    folder = train_here("env=mt10", *settings, *SHORT, "steps_per_task=100", f"run_dir={tmp_path / 'run'}")
    finite(folder)
    metrics = records(folder, "metrics")[-1]
    assert "combiner/actor/conflict" in metrics
    assert any(key.startswith("combiner/critic/") and key != "combiner/critic/conflict" for key in metrics)
