"""Runs of an agent that learns from rollouts: their length, their schedule, and what is said of them."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import TOY, run_command, train_here

from mtrl_conic.agents.ppo import MultiTaskPPO
from mtrl_conic.agents.protocol import Setting
from mtrl_conic.networks.multi_head import MultiHeadMLP
from mtrl_conic.networks.residual import Residual
from mtrl_conic.runs.checkpoint import read_file
from mtrl_conic.runs.folder import open_run
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.threads import threads_of
from mtrl_conic.training.trainer import AllHaltedError, Trainer

SMALL = [
    *(text for text in TOY if not text.startswith(("agent.", "warmup", "batch", "capacity"))),
    "agent=mtmhppo",
    *("agent.rollout_steps=16", "agent.minibatches=4", "agent.epochs=2"),
    *("agent.network.hidden_sizes=[16]", "agent.critic_network.hidden_sizes=[16]"),
]


def actor(run, step):
    return read_file(run / "checkpoints" / f"step_{step}.pt")["agent"]["actor"]["params"]


def test_a_longer_run_needs_a_longer_schedule(tmp_path):
    """Its learning rate would be 0 from where the schedule ends, and nothing would show it."""
    run = tmp_path / "run"
    train_here(*SMALL, "steps_per_task=200", f"run_dir={run}")
    longer = [f"resume={run}", "steps_per_task=400"]
    refused = run_command(*longer, cwd=tmp_path)
    assert refused.returncode == 2
    assert "agent.anneal_steps must be null or at least steps_per_task, 400, not 200" in refused.stderr
    allowed = run_command(*longer, "agent.anneal_steps=500", cwd=tmp_path)
    assert allowed.returncode == 0, allowed.stderr
    assert "agent.anneal_steps: 500 from here on, 200 before" in allowed.stderr
    assert not torch.equal(actor(run, 400), actor(run, 300))


def test_a_schedule_shorter_than_the_run_is_refused():
    with pytest.raises(ConfigError, match=r"agent\.anneal_steps.* at least steps_per_task, 100"):
        compose_config([*SMALL, "steps_per_task=100", "agent.anneal_steps=99"])
    for value in ("null", "100", "1000"):
        compose_config([*SMALL, "steps_per_task=100", f"agent.anneal_steps={value}"])


def test_the_same_schedule_is_no_news(tmp_path, capfd):
    run = tmp_path / "run"
    train_here(*SMALL, "steps_per_task=40", f"run_dir={run}")
    with open_run(resume_config(str(run), []), True):
        pass
    assert "anneal" not in capfd.readouterr().err


@pytest.mark.parametrize("agent", [SMALL, TOY], ids=["mtmhppo", "mtmhsac"])
def test_a_run_that_ends_before_its_first_update_says_so(agent, tmp_path):
    process = run_command(*agent, "steps_per_task=12", f"run_dir={tmp_path / 'run'}", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "steps_per_task=12: nothing is learnt, an update takes" in process.stderr


@pytest.mark.parametrize("looked", [16, 23, 31])
def test_a_halt_is_at_the_end_of_the_rollout(looked, tmp_path):
    """Whenever one looks, the step named is that of the update."""
    run = tmp_path / "run"
    config = compose_config([*SMALL, "steps_per_task=100", "agent.learning_rate=1e38", f"run_dir={run}"])
    with open_run(config, False) as folder:
        trainer = Trainer(config, folder)
        try:
            while trainer.step < looked:
                trainer._step()
            with pytest.raises(AllHaltedError, match="at step 16:"):
                trainer._look_at_seeds()
        finally:
            trainer.close()
    assert json.loads((run / "halted.json").read_text())[0]["step"] == 16


def test_a_rollout_that_no_memory_holds_is_refused():
    for setting in ("agent.rollout_steps=1e12", "agent.epochs=1e14"):
        with pytest.raises(ConfigError, match=r"agent\.(rollout_steps|epochs)=.*GiB"):
            compose_config([*SMALL, setting])


class OneHead(Residual):
    """Its `head` is one that all tasks share."""

    def setup(self, name, *sizes):
        super().setup(name, *sizes)
        self.head = next(reversed(self.parameters)).rpartition(".")[0]


@pytest.mark.parametrize("kind", [Residual, OneHead])
def test_popart_wants_a_head_per_task(kind):
    shared = kind(width=8)
    with pytest.raises(ValueError, match="linear head per task, or popart must be null"):
        MultiTaskPPO(MultiHeadMLP([8]), shared).check(Setting([0], 2, 4, 2))
    MultiTaskPPO(MultiHeadMLP([8]), shared, popart=None).check(Setting([0], 2, 4, 2))


def test_a_large_update_is_worth_threads(monkeypatch):
    monkeypatch.setattr("mtrl_conic.settings.threads.available_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings = [text for text in SMALL if text != "threads=1"]
    assert threads_of(compose_config(settings)) == 1
    wide = ["agent.network.hidden_sizes=[1024,1024]", "agent.rollout_steps=256"]
    assert threads_of(compose_config([*settings, *wide])) == 4
