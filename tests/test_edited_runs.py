"""Run folders whose files somebody has edited: one line and exit status 2, or a note and the run goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import TOY, records, train_here
from omegaconf import OmegaConf

from mtrl_conic.train import main

PPO = ["env=toy", "agent=mtmhppo", "agent.rollout_steps=20", "agent.minibatches=4", "agent.epochs=1"]

PPO += ["agent.network.hidden_sizes=[8]", "agent.critic_network.hidden_sizes=[8]", "agent.anneal_steps=null"]
PPO += TOY[TOY.index("metrics_every=40") :]


@pytest.fixture(scope="module", params=[TOY, PPO], ids=["sac", "ppo"])
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edited") / "run"
    return train_here(*request.param, "combiner=ls", "steps_per_task=100", "env.workers=0", f"run_dir={folder}")


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("text", ["[]", "null", "3", '{"pieces": 3}', '{"pieces": null}', '{"pieces": [3]}', "{", ""])
def test_a_damaged_provenance_is_noted_and_begun_anew(run, text, capsys):
    (run / "provenance.json").write_text(text)
    assert main([f"resume={run}", "steps_per_task=120"]) == 0
    assert "provenance.json is damaged" in capsys.readouterr().err
    assert len(json.loads((run / "provenance.json").read_text())["pieces"]) == 1
    assert records(run)[-1]["step"] == 120


EDITS = {
    "network": {"agent.network.hidden_sizes": [5]},
    "deeper network": {"agent.network.hidden_sizes": [8, 8]},
    "seeds": {"seeds": [0, 1]},
    "another seed": {"seeds": [7]},
    "environments": {"env.num_envs_per_task": 2},
}
EDITS_OF_PPO = EDITS | {"rollout": {"agent.rollout_steps": 40}}


@pytest.mark.parametrize(
    ("finished", "edit"),
    [
        *(pytest.param(TOY, edit, id=f"sac-{name}") for name, edit in EDITS.items()),
        *(pytest.param(PPO, edit, id=f"ppo-{name}") for name, edit in EDITS_OF_PPO.items()),
    ],
    indirect=["finished"],
)
def test_edited_settings_do_not_fit_the_checkpoints(run, edit, capsys):
    stored = OmegaConf.load(run / "config.yaml")
    for key, value in edit.items():
        OmegaConf.update(stored, key, value)
    OmegaConf.save(stored, run / "config.yaml")
    assert main([f"resume={run}", "steps_per_task=120"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "config.yaml" in error or "of another" in error or "no usable checkpoint" in error, error
