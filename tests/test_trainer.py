"""What happens to a run, through the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import warm
from conftest import TOY, command, environment, evaluated, records, run_command, wait_for

from mtrl_conic.runs.checkpoint import read_file

MINE = """
from mtrl_conic.combiners import Combiner

class Mine(Combiner):
    def __init__(self, power=1.0):
        super().__init__()
        if not power > 0:
            raise ValueError(f"power must be positive, not {power}")
        self.power = power

    def weights(self, gramian, losses):
        norms = gramian.diagonal(dim1=1, dim2=2).clamp_min(1e-30).sqrt() ** self.power
        return (1 / norms) / (1 / norms).sum(-1, keepdim=True)
"""


def newest(run):
    paths = (run / "checkpoints").glob("step_*.pt")
    return read_file(max(paths, key=lambda path: int(path.stem.removeprefix("step_"))))


def test_records_of_a_run(tmp_path):
    process = run_command(*TOY, "seeds=[4,2]", "steps_per_task=200", "run_dir=run", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    run = tmp_path / "run"
    lines = records(run)
    assert [(line["step"], line["seed"]) for line in lines] == [(100, 4), (100, 2), (200, 4), (200, 2)]
    assert [line["episodes"] for line in lines] == [1, 1, 2, 2]
    for line in lines:
        assert set(line["success"]) == set(line["return"]) == {"direct", "mirrored", "damped"}
        assert line["success_rate"] == pytest.approx(sum(line["success"].values()) / 3)
    keys = records(run, "metrics")[-1].keys()
    for key in (
        "train/return/damped",
        "loss/critic/direct",
        "combiner/critic/weight/mirrored",
        "combiner/actor/cosine",
    ):
        assert key in keys
    assert {path.name for path in (run / "tensorboard").iterdir()} == {"seed_4", "seed_2", "mean"}
    provenance = json.loads((run / "provenance.json").read_text())["pieces"]
    assert len(provenance) == 1
    assert provenance[0]["versions"]["torch"] == torch.__version__
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_tensorboard_holds_the_evaluations(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_command(*TOY, "combiner=ls", "steps_per_task=200", "run_dir=run", cwd=tmp_path)
    for folder in ("seed_0", "mean"):
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / folder))
        events.Reload()
        found = [(event.step, event.value) for event in events.Scalars("eval/success_rate")]
        wanted = [(line["step"], line["success_rate"]) for line in records(tmp_path / "run")]
        assert found == [(step, pytest.approx(value)) for step, value in wanted]


def test_a_combiner_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "own" / "combiner").mkdir(parents=True)
    (tmp_path / "own" / "combiner" / "mine.yaml").write_text("_target_: mine.Mine\npower: 1.0\n")
    arguments = ["--config-dir", "own", *TOY, "combiner=mine", "steps_per_task=100"]
    process = run_command(*arguments, "combiner.power=2.0", "run_dir=run", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert records(tmp_path / "run")[-1]["step"] == 100
    process = run_command(*arguments, "combiner.power=-1", "run_dir=bad", cwd=tmp_path)
    assert process.returncode == 2
    assert "power must be positive, not -1" in process.stderr


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    arguments = [*TOY, "combiner=conicgrad", "steps_per_task=300", "agent.reward_scale=1e30", "run_dir=run"]
    process = run_command(*arguments, cwd=tmp_path)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    error = next(line for line in process.stderr.splitlines() if line.startswith("error"))
    assert "seed 0 stopped learning at step 60" in error  # the first update comes right after the warm-up
    assert "critic: the loss of direct" in error
    state = newest(tmp_path / "run")
    assert torch.isfinite(state["agent"]["critic"]["params"]).all()
    assert torch.isfinite(state["agent"]["target_params"]).all()


def test_a_dead_worker_ends_the_run_with_a_checkpoint(tmp_path):
    run = tmp_path / "run"
    arguments = command(*TOY, "combiner=ls", "steps_per_task=1000000", "env.workers=2", f"run_dir={run}")
    process = warm.Popen(
        arguments, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: evaluated(run), process)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert any(task in err for task in ("direct", "mirrored", "damped"))
    step = newest(run)["step"]
    process = run_command(f"resume={run}", f"steps_per_task={step + 10}", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert records(run)[-1]["step"] == step + 10


def test_help_lists_every_combiner(tmp_path):
    process = run_command("--help", cwd=tmp_path)
    assert process.returncode == 0
    for word in ("conicgrad", "pcgrad", "smoke", "mt50", "resume=", "exit status"):
        assert word in process.stdout


@pytest.mark.slow
def test_the_toy_environment_is_learned_within_2000_steps(tmp_path):
    arguments = ["env=toy", "combiner=conicgrad", "steps_per_task=2000", "warmup_steps=200", "eval.every=2000"]
    arguments += ["agent.hidden_sizes=[64,64]", "agent.learning_rate=1e-3", "eval.final_episodes=10", "run_dir=run"]
    process = run_command(*arguments, cwd=tmp_path, timeout=280)
    assert process.returncode == 0, process.stderr
    assert records(tmp_path / "run")[-1]["success_rate"] >= 0.8


def test_a_combiner_that_cannot_go_on_is_one_line(tmp_path):
    """Say a bridge to a method whose memory cannot be restored."""
    (tmp_path / "mine.py").write_text(
        MINE + "\n    def load_state_dict(self, state):\n        raise ValueError('Mine cannot be resumed')\n"
    )
    folder = tmp_path / "configs" / "combiner"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("_target_: mine.Mine\n")
    own = ["--config-dir", "configs"]
    process = run_command(*own, *TOY, "combiner=mine", "steps_per_task=100", "run_dir=run", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    process = run_command("resume=run", "steps_per_task=200", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].endswith("run: Mine cannot be resumed")
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_training_does_not_load_what_draws(tmp_path):
    """A MUJOCO_GL that this machine cannot serve stops only what draws."""
    arguments = ["env=mt1", "env.task=reach-v3", "agent.hidden_sizes=[8]", "steps_per_task=2", "warmup_steps=2"]
    process = subprocess.run(
        command(*arguments, "eval.every=10", "max_wall_seconds=0.001", "env.workers=1", "device=cpu", "run_dir=run"),
        cwd=tmp_path,
        env={**environment(), "MUJOCO_GL": "nonsense"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
