"""An on-policy agent through the whole loop: no replay, updates in bursts, and a rollout that is cut in the middle."""

from __future__ import annotations

import functools

import pytest
import torch
from conftest import records, train_here
from resuming import assert_same_run, run_here
from test_agents import OWN
from test_capture import Quiet

import mtrl_conic.training.trainer
from mtrl_conic.report.diagnostics import diagnostics
from mtrl_conic.report.grouping import sections
from mtrl_conic.report.reading import read_run
from mtrl_conic.report.style import Colours
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.training.device_steps import device_steps

ARGUMENTS = [
    *("env=toy", "agent=tiny_on_policy", "agent.network.hidden_sizes=[16]", "combiner=conicgrad", "seeds=[3,5]"),
    *("steps_per_task=200", "metrics_every=40", "eval.every=100", "eval.episodes=1", "eval.final_episodes=1"),
    *("device=cpu", "threads=1", "env.workers=0"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train_here(*ARGUMENTS, f"run_dir={tmp_path_factory.mktemp('on_policy') / 'whole'}", config_dirs=OWN)


def test_what_a_run_writes(whole):
    """The first update comes with the end of the first rollout, in the line of step 40."""
    assert {path.stem.split("_")[0] for path in (whole / "checkpoints").iterdir()} == {"step", "best"}
    first, *_ = records(whole, "metrics")
    assert first["step"] == 40
    assert {"loss/policy/direct", "combiner/policy/weight/damped"} <= first.keys()


def test_a_report_draws_the_networks_that_there_are(whole):
    (section,) = sections([read_run(whole, [])], None, [])
    assert section.networks == ["policy"]
    assert section.labels == ("ConicGrad",)
    assert {picture.name for picture in diagnostics(section, Colours(section.labels))} >= {"cosine", "weights"}


@pytest.mark.parametrize("cut", [107, 120])
def test_it_resumes_to_the_last_bit(cut, whole, tmp_path):
    """In the middle of a rollout, and right after a burst of updates."""
    run_here(compose_config([*ARGUMENTS, f"run_dir={tmp_path / 'cut'}"], OWN), stop=cut)
    run_here(resume_config(str(tmp_path / "cut"), []), resume=True)
    assert_same_run(whole, tmp_path / "cut", 200)


def test_recorded_steps_are_the_same(whole, tmp_path, monkeypatch):
    graphs = []

    def make_graph():
        graphs.append(Quiet([]))
        return graphs[-1]

    recorded = functools.partial(device_steps, make_graph=make_graph)
    monkeypatch.setattr(mtrl_conic.training.trainer, "device_steps", recorded)
    run_here(compose_config([*ARGUMENTS, f"run_dir={tmp_path / 'recorded'}"], OWN))
    assert_same_run(whole, tmp_path / "recorded", 200)
    assert sum(graph.replays > 10 for graph in graphs) == 3  # explore, exploit, update


def test_a_seed_that_diverges_is_named_with_the_step_of_its_burst(tmp_path, capsys):
    from mtrl_conic.runs.folder import open_run
    from mtrl_conic.training.trainer import Trainer

    with open_run(compose_config([*ARGUMENTS, f"run_dir={tmp_path / 'run'}"], OWN), False) as folder:
        trainer = Trainer(compose_config([*ARGUMENTS, f"run_dir={folder}"], OWN), folder)

        def spoil():
            if trainer.step == 50:
                trainer.agent.learner.params[1] = torch.inf
            return False

        trainer.run(spoil)
        trainer.close()
    assert "seed 5 stopped learning at step 60: policy: the loss of direct" in capsys.readouterr().err
