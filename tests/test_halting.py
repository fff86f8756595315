"""Seeds that diverge: named, left out, and never a result."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
import warm
from conftest import TOY, records, run_command

import mtrl_conic.training.trainer
from mtrl_conic.envs.evaluation import Evaluation
from mtrl_conic.runs.checkpoint import NEWEST, Start, read_file
from mtrl_conic.runs.folder import open_run
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.training.trainer import AllHaltedError, Trainer

DIVERGING = [*TOY, "combiner=ls", "steps_per_task=300", "agent.reward_scale=1e30", "metrics_every=100", "run_dir=run"]


def train(config, at=None, change=None, resume=False, start=NEWEST):
    """A run in this process; `change` is made to the trainer before step `at`."""
    with open_run(config, resume) as folder:
        trainer = Trainer(config, folder, resume, start)

        def should_stop():
            if change is not None and trainer.step == at:
                change(trainer)
            return False

        try:
            trainer.run(should_stop)
        finally:
            trainer.close()
    return trainer


def diverge(*rows):
    """Make the critics of these rows' seeds useless."""

    def change(trainer):
        trainer.agent.critic.params[list(rows)] = torch.inf

    return change


def settings(run, *more):
    return compose_config([*TOY, "combiner=conicgrad", "env.workers=0", f"run_dir={run}", *more])


def test_the_other_seeds_go_on_as_without_the_one_that_diverges(tmp_path, capsys):
    three, two = tmp_path / "three", tmp_path / "two"
    trainer = train(settings(three, "seeds=[4,2,7]", "steps_per_task=300"), 130, diverge(1))
    train(settings(two, "seeds=[4,7]", "steps_per_task=300"))
    assert "seed 2 stopped learning at step 130: critic: the loss of direct and mirrored" in capsys.readouterr().err
    assert list(trainer.seed_watch.halted) == [2]
    of_the_others = [line for line in records(three) if line["seed"] != 2]
    assert [(line["step"], line["seed"], line["success"]) for line in of_the_others] == [
        (line["step"], line["seed"], line["success"]) for line in records(two)
    ]
    assert [line.get("halted") for line in records(three) if line["seed"] == 2] == [None, 130, 130]
    assert not any("halted" in line for line in of_the_others)
    metrics = [line for line in records(three, "metrics") if line["seed"] == 2]
    assert ["loss/critic/direct" in line for line in metrics] == [step in (80, 120) for step in range(40, 301, 40)]
    (halted,) = json.loads((three / "halted.json").read_text())
    assert (halted["step"], halted["seed"], halted["network"]) == (130, 2, "critic")


def test_a_board_shows_no_halted_seed(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(settings(tmp_path, "seeds=[4,2]", "steps_per_task=200"), 130, diverge(1))
    steps = {}
    for folder in ("seed_4", "seed_2", "mean"):
        events = EventAccumulator(str(tmp_path / "tensorboard" / folder))
        events.Reload()
        steps[folder] = [event.step for event in events.Scalars("eval/success_rate")]
    assert steps == {"seed_4": [100, 200], "seed_2": [100], "mean": [100]}


def test_a_resumed_run_still_knows_its_halted_seeds(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for run, length in ((whole, 300), (cut, 200)):
        train(settings(run, "seeds=[4,2]", f"steps_per_task={length}", "eval.final_episodes=1"), 130, diverge(0))
    train(resume_config(str(cut), ["steps_per_task=300"]), resume=True)
    assert records(whole) == records(cut)
    assert records(whole, "metrics") == records(cut, "metrics")
    assert (whole / "halted.json").read_text() == (cut / "halted.json").read_text()


def test_a_halted_run_never_becomes_a_finished_one(tmp_path):
    """Started again and again, as a job that is requeued: nothing goes on, and what was healthy stays."""
    for _ in range(4):
        process = run_command(*DIVERGING, "resume=auto", cwd=tmp_path)
        assert process.returncode == 1
        error = process.stderr.splitlines()[-1]
        assert "seed 0 stopped learning at step 60: critic: the loss of direct" in error
        assert "resume_from=0 goes back" in error
        assert "Traceback" not in process.stderr
    run = tmp_path / "run"
    assert records(run) == []
    steps = sorted(int(path.stem.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*.pt"))
    assert steps == [0, 100]
    for step in steps:
        assert torch.isfinite(read_file(run / "checkpoints" / f"step_{step}.pt")["agent"]["critic"]["params"]).all()


def test_going_back_to_before_a_halt(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(AllHaltedError):
        train(settings(run, "seeds=[4,2]", "steps_per_task=300"), 130, diverge(0, 1))
    assert (run / "halted.json").exists()
    process = run_command(f"resume={run}", "resume_from=100", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert not (run / "halted.json").exists()
    whole = tmp_path / "whole"
    train(settings(whole, "seeds=[4,2]", "steps_per_task=300"))
    assert records(run) == records(whole)
    assert records(run, "metrics") == records(whole, "metrics")


@pytest.mark.parametrize("step", ["70", "-100", "latest", ""])
def test_going_back_to_where_there_is_no_checkpoint(step, tmp_path):
    train(settings(tmp_path / "run", "steps_per_task=100"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    process = run_command("resume=run", f"resume_from={step}", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: resume_from={step}: ")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_complete_run_with_a_halted_seed_says_so_each_time(tmp_path):
    train(settings(tmp_path / "run", "seeds=[4,2]", "steps_per_task=200"), 130, diverge(1))
    arguments = [*TOY, "combiner=conicgrad", "env.workers=0", "seeds=[4,2]", "steps_per_task=200", "run_dir=run"]
    for again in (["resume=run"], [*arguments, "resume=auto"]):
        process = run_command(*again, cwd=tmp_path)
        assert process.returncode == 1
        assert "error: seed 2 stopped learning at step 130" in process.stderr


def test_a_sweep_names_the_halted_seeds_of_its_complete_runs(tmp_path):
    """Each time: what is complete is not looked at by a run any more."""
    arguments = [*TOY, "env.workers=0", "steps_per_task=200"]
    for folder in ("s/conicgrad/seed_2", "m/r"):
        run = tmp_path / folder
        config = compose_config([*arguments, "combiner=conicgrad", "seeds=[2]", f"run_dir={run}"])
        train(config)
        halted = [{"step": 130, "seed": 2, "network": "critic", "cause": "the gradient"}]
        (run / "halted.json").write_text(json.dumps(halted))
    commands = (
        ["mtrl_conic.sweep", "conicgrad", "2", "s", *arguments],
        [
            "mtrl_conic.train",
            "-m",
            *arguments,
            "combiner=conicgrad",
            "seeds=[2]",
            "hydra.sweep.dir=m",
            "hydra.sweep.subdir=r",
        ],
    )
    for command in commands:
        process = warm.run([sys.executable, "-m", *command], cwd=tmp_path, timeout=100)
        assert "1 of them complete" in process.stdout, process.stderr
        assert "seed 2 stopped learning at step 130: critic: the gradient is not finite" in process.stderr
        assert process.returncode == 1


def test_a_huge_loss_is_warned_of_once(tmp_path, capsys):
    scale = ["agent.reward_scale=1e7", "agent.max_grad_norm=1e9", "metrics_every=20"]
    train(settings(tmp_path / "run", *scale, "steps_per_task=200"))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "does it diverge?" in line]
    assert len(warnings) == 1
    assert "the critic's loss of seed 0, " in warnings[0]


def evaluations(*rates):
    """Stands for `evaluate`: these rates, one after the other."""
    following = iter(rates)
    return lambda *_: Evaluation(np.full((1, 3), next(following)), np.zeros((1, 3)), 1)


def test_best_is_the_latest_of_equals(tmp_path, monkeypatch):
    """Success is often a round number: of equal evaluations the longer trained weights are the better guess."""
    monkeypatch.setattr(mtrl_conic.training.trainer, "evaluate", evaluations(0.25, 0.5, 0.5, 0.25))
    train(settings(tmp_path / "run", "steps_per_task=400"))
    best = read_file(tmp_path / "run" / "checkpoints" / "best.pt")
    assert (best["step"], best["success_rate"]) == (300, 0.5)


def test_best_is_never_of_a_step_that_was_taken_back(tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(mtrl_conic.training.trainer, "evaluate", evaluations(0.5, 0.75, 0.25))
    train(settings(run, "steps_per_task=200"))
    train(resume_config(str(run), []), resume=True, start=Start(step=100))
    best = read_file(run / "checkpoints" / "best.pt")
    assert (best["step"], best["success_rate"]) == (200, 0.25)


def test_a_damaged_best_is_written_anew(tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(mtrl_conic.training.trainer, "evaluate", evaluations(0.5, 0.75, 0.25))
    train(settings(run, "steps_per_task=200"))
    (run / "checkpoints" / "best.pt").write_bytes(b"lost")
    train(resume_config(str(run), ["steps_per_task=300"]), resume=True)
    assert read_file(run / "checkpoints" / "best.pt")["step"] == 300


def test_a_run_of_an_earlier_version_is_refused_by_name(tmp_path):
    """Its optimizers were kept otherwise; the weights can still be evaluated."""
    run = tmp_path / "run"
    train(settings(run, "steps_per_task=100"))
    for path in (run / "checkpoints").glob("step_*.pt"):
        state = read_file(path)
        del state["agent"]["health"]
        torch.save(state, path)
    process = run_command("resume=run", cwd=tmp_path)
    assert process.returncode == 2
    assert "of an earlier version" in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


def test_the_progress_bar_shows_the_last_evaluation(tmp_path, monkeypatch):
    """Also in a run that is resumed after its last line of metrics."""
    shown = []

    class Bar(mtrl_conic.training.trainer.tqdm):
        def set_postfix(self, success, refresh=True):
            shown.append(float(success))

    monkeypatch.setattr(mtrl_conic.training.trainer, "tqdm", Bar)
    monkeypatch.setattr(mtrl_conic.training.trainer, "evaluate", evaluations(0.25, 0.5, 0.75))
    run = tmp_path / "run"
    train(settings(run, "steps_per_task=200", "metrics_every=1000"))
    assert shown[-2:] == [0.25, 0.5]
    train(resume_config(str(run), []), resume=True)
    assert shown[-1] == 0.5
    train(resume_config(str(run), ["steps_per_task=230"]), resume=True)
    assert shown[-1] == 0.75
