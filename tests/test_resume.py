"""Interrupted and resumed runs equal uninterrupted ones, through the real command line."""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest import TOY, records, run_command
from resuming import COMBINERS, CUT, TOTAL, assert_same_run, interrupted_at, resume, run_here, train

from mtrl_conic.runs.checkpoint import read_file
from mtrl_conic.settings.compose import compose_config, resume_config

# One of each kind: state, random numbers, a counter on the host, pickles. The others are slow.
KINDS = ("conicgrad", "pcgrad", "nashmtl", "torchjd")


@pytest.mark.parametrize(
    "combiner", [pytest.param(name, marks=() if name in KINDS else pytest.mark.slow) for name in COMBINERS]
)
def test_every_combiner_resumes_to_the_last_bit(combiner, tmp_path):
    arguments = [*TOY, f"combiner={combiner}", f"steps_per_task={TOTAL}", "seeds=[3,5]"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_here(compose_config([*arguments, f"run_dir={whole}"]))
    run_here(compose_config([*arguments, f"run_dir={cut}"]), stop=CUT)
    run_here(resume_config(str(cut), []), resume=True)
    assert_same_run(whole, cut, TOTAL)


@pytest.mark.parametrize("combiner", ["conicgrad", pytest.param("pcgrad", marks=pytest.mark.slow)])
def test_resumed_run_equals_uninterrupted_one(combiner, tmp_path):
    arguments = [*TOY, f"combiner={combiner}", f"steps_per_task={TOTAL}", "seeds=[3,5]"]
    train(tmp_path / "whole", *arguments)
    interrupted_at(CUT, tmp_path / "cut", *arguments)
    resume(tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut", TOTAL)


@pytest.mark.parametrize("agent", [[], ["agent=mtmhppo", "agent.rollout_steps=16"]], ids=["off-policy", "on-policy"])
def test_held_actions_resume_to_the_last_bit(agent, tmp_path):
    toy = TOY if not agent else [each for each in TOY if "_per_task=" not in each and "warmup" not in each]
    arguments = [*toy, *agent, "combiner=ls", f"steps_per_task={TOTAL}", "env.action_repeat=5"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_here(compose_config([*arguments, f"run_dir={whole}"]))
    run_here(compose_config([*arguments, f"run_dir={cut}"]), stop=CUT)
    run_here(resume_config(str(cut), []), resume=True)
    assert_same_run(whole, cut, TOTAL)


def test_other_worker_count_and_more_envs_a_task(tmp_path):
    arguments = [*TOY, "combiner=conicgrad", f"steps_per_task={TOTAL}", "env.num_envs_per_task=3"]
    train(tmp_path / "whole", *arguments, "env.workers=2")
    cut = compose_config([*arguments, f"run_dir={tmp_path / 'cut'}", "env.workers=1"])
    run_here(cut, stop=CUT + 1)
    resume(tmp_path / "cut", "env.workers=0")
    whole, cut = (records(tmp_path / name) for name in ("whole", "cut"))
    assert whole == cut


def test_a_longer_run_goes_on(tmp_path):
    train(tmp_path / "run", *TOY, "combiner=ls", "steps_per_task=200")
    resume(tmp_path / "run", "steps_per_task=300")
    assert [line["step"] for line in records(tmp_path / "run")] == [100, 200, 300]
    assert "steps_per_task: 300" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_finished_run_stays_as_it_is(tmp_path):
    train(tmp_path / "run", *TOY, "combiner=ls", "steps_per_task=100")
    before = records(tmp_path / "run")
    resume(tmp_path / "run")
    assert records(tmp_path / "run") == before


def test_records_without_a_checkpoint_are_not_thrown_away(tmp_path):
    run = tmp_path / "run"
    train(run, *TOY, "combiner=ls", "steps_per_task=100")
    shutil.rmtree(run / "checkpoints")
    assert "complete" in resume(run).stdout
    process = run_command("resume=run", "steps_per_task=200", cwd=tmp_path)
    assert process.returncode == 2
    assert "records but no checkpoint" in process.stderr
    assert [line["step"] for line in records(run)] == [100]


@pytest.mark.slow
def test_each_task_of_mt10_resumes_to_the_last_bit(tmp_path):
    """All ten tasks at once, interrupted in the second episode, after an evaluation."""
    arguments = [
        "env=mt10",
        "combiner=conicgrad",
        "agent.hidden_sizes=[32]",
        "steps_per_task=560",
        "warmup_steps=480",
        "batch_size_per_task=8",
        "eval.every=500",
        "eval.episodes=1",
        "eval.final_episodes=1",
        "metrics_every=20",
        "threads=1",
        "device=cpu",
    ]
    train(tmp_path / "whole", *arguments, timeout=290)
    interrupted_at(527, tmp_path / "cut", *arguments)
    resume(tmp_path / "cut", timeout=290)
    assert_same_run(tmp_path / "whole", tmp_path / "cut", 560)


@pytest.mark.parametrize("combiner", ["conicgrad", pytest.param("pcgrad", marks=pytest.mark.slow)])
def test_seed_three_of_ten_equals_seed_three_alone(combiner, tmp_path):
    """Up to the rounding of differently batched products, through a whole run: goals, noise, replay and combiner."""
    arguments = [*TOY, f"combiner={combiner}", "steps_per_task=150"]
    run_here(compose_config([*arguments, "seeds=[0,1,2,3,4,5,6,7,8,9]", f"run_dir={tmp_path / 'ten'}"]))
    run_here(compose_config([*arguments, "seeds=[3]", f"run_dir={tmp_path / 'one'}"]))
    ten, one = (read_file(tmp_path / name / "checkpoints" / "step_150.pt")["agent"] for name in ("ten", "one"))
    for name in ("actor", "critic"):
        torch.testing.assert_close(ten[name]["params"][3], one[name]["params"][0], rtol=1e-3, atol=1e-5)
    ours, alone = ([line for line in records(tmp_path / name) if line["seed"] == 3] for name in ("ten", "one"))
    assert [line["success"] for line in ours] == [line["success"] for line in alone]
    for line, other in zip(ours, alone, strict=True):
        assert line["return"] == pytest.approx(other["return"], rel=1e-3)
