"""Interrupted and resumed runs equal uninterrupted ones, through the real command line."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import warm
from conftest import TOY, command, environment, evaluated, records, run_command, wait_for

from mtrl_conic.runs.checkpoint import Checkpoints, read_file
from mtrl_conic.runs.folder import open_run
from mtrl_conic.settings.compose import CONFIG_DIR, compose_config, resume_config
from mtrl_conic.system.signals import STOPPING, Signals
from mtrl_conic.training import session
from mtrl_conic.training.trainer import Trainer

COMBINERS = sorted(path.stem for path in (CONFIG_DIR / "combiner").glob("*.yaml"))
# Interrupted at 190: in mid-episode (horizon 50), between evaluations, with the replay's ring already overwritten.
TOTAL, CUT = 240, 190


def assert_same_state(one, other, path="state"):
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            if key != "wall_seconds":
                assert_same_state(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same_state(*pair, f"{path}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


def assert_same_run(one: Path, other: Path, step: int) -> None:
    assert_same_state(*(read_file(run / "checkpoints" / f"step_{step}.pt") for run in (one, other)))
    for name in ("evaluations", "metrics"):
        assert records(one, name) == records(other, name)
    assert_same_state(*(read_file(run / "checkpoints" / "best.pt") for run in (one, other)))


def train(run: Path, *arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    process = run_command(*arguments, f"run_dir={run}", cwd=run.parent, timeout=timeout)
    assert process.returncode == 0, process.stderr
    return process


def resume(run: Path, *arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    process = run_command(f"resume={run}", *arguments, cwd=run.parent, timeout=timeout)
    assert process.returncode == 0, process.stderr
    return process


INTERRUPT = """
import sys
from pathlib import Path
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.runs.folder import open_run
from mtrl_conic.training.trainer import Trainer

cut, run, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
with open_run(compose_config([*arguments, f"run_dir={run}"]), resume=False) as folder:
    trainer = Trainer(compose_config([*arguments, f"run_dir={run}"]), folder)
    assert not trainer.run(lambda: trainer.step >= cut)
    trainer.close()
"""


def interrupted_at(cut: int, run: Path, *arguments: str) -> None:
    """A run that is asked to stop at an exact step."""
    import sys

    subprocess.run(
        [sys.executable, "-c", INTERRUPT, str(cut), str(run), *arguments],
        cwd=run.parent,
        env=environment(),
        check=True,
        timeout=200,
    )
    assert read_file(max((run / "checkpoints").glob("step_*.pt"), key=lambda path: path.stat().st_mtime))["step"] == cut


def run_here(config, stop: int | None = None, resume: bool = False) -> None:
    """A run in this process, which is faster than the command."""
    with open_run(config, resume) as folder:
        trainer = Trainer(config, folder, resume)
        try:
            assert trainer.run(lambda: stop is not None and trainer.step >= stop) == (stop is None)
        finally:
            trainer.close()


# One of each kind: no state, state, random numbers, a counter on the host, a look back, pickles.
KINDS = ("ls", "conicgrad", "pcgrad", "nashmtl", "famo", "torchjd")


@pytest.mark.parametrize(
    "combiner", [pytest.param(name, marks=() if name in KINDS else pytest.mark.slow) for name in COMBINERS]
)
def test_every_combiner_resumes_to_the_last_bit(combiner, tmp_path):
    arguments = [*TOY, f"combiner={combiner}", f"steps_per_task={TOTAL}", "seeds=[3,5]", "env.workers=1"]
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
    arguments = [*toy, *agent, "combiner=ls", f"steps_per_task={TOTAL}", "env.action_repeat=5", "env.workers=1"]
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


def test_wall_time_limit(tmp_path):
    """It counts from the start of the command. A start that takes longer leaves a whole checkpoint, and says so."""
    run = tmp_path / "run"
    arguments = [*TOY, "combiner=ls", "steps_per_task=1000000", "max_wall_seconds=0.01"]
    process = train(run, *arguments)
    said = process.stderr.splitlines()
    assert said[0].startswith("max_wall_seconds=0.01: no step was made, as starting took")
    assert said[1] == f"stopped at step 0; continue with resume={run}"
    assert len(said) == 2
    process = resume(run, "steps_per_task=100", "max_wall_seconds=100000")
    assert process.stderr == ""
    assert [line["step"] for line in records(run)] == [100]


def test_wall_time_limit_within_the_run(tmp_path, capsys, clock):
    run = tmp_path / "run"
    config = compose_config([*TOY, "combiner=ls", "steps_per_task=1000000", "max_wall_seconds=500", f"run_dir={run}"])
    assert session.train(config, False, Signals()) == 0
    step = max(Checkpoints(run / "checkpoints").steps())
    assert step > 0
    assert capsys.readouterr().err == f"stopped at step {step}; continue with resume={run}\n"


def test_an_evaluation_that_does_not_fit_into_the_wall_time_is_named(tmp_path, capsys, clock):
    run = tmp_path / "run"
    run_here(compose_config([*TOY, "combiner=ls", "steps_per_task=200", f"run_dir={run}"]), stop=100)
    config = resume_config(str(run), ["max_wall_seconds=50", "eval.episodes=100"])
    capsys.readouterr()
    assert session.train(config, True, Signals()) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("max_wall_seconds=50: no step was made, as the evaluation at step 100 did not end;")


@pytest.fixture
def clock(monkeypatch):
    """Every look takes a second, whatever the machine does; the handlers of signals are put back."""
    looks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(looks)))
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPPING)
def test_signals_write_a_checkpoint(number, tmp_path):
    """Sent to the run and its workers, several times at once, as `timeout`, shells and clusters do."""
    run = tmp_path / "run"
    arguments = command(*TOY, "combiner=conicgrad", "steps_per_task=1000000", f"run_dir={run}", "env.workers=2")
    process = warm.Popen(
        arguments, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: evaluated(run), process)
    for pid in [*children(process.pid), process.pid, process.pid]:
        os.kill(pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    state = max((read_file(path) for path in (run / "checkpoints").glob("step_*.pt")), key=lambda state: state["step"])
    assert state["envs"] is not None  # the workers have answered
    stopped = state["step"]
    resume(run, f"steps_per_task={stopped + 1}")
    assert records(run)[-1]["step"] == stopped + 1


def test_nohup_stays_nohup(tmp_path):
    run = tmp_path / "run"
    arguments = command(*TOY, "combiner=ls", "steps_per_task=1000000", f"run_dir={run}")
    process = subprocess.Popen(
        ["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: evaluated(run), process)
    before = len(records(run))
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(records(run)) > before, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(("kills", "steps"), [(2, 500), pytest.param(8, 1500, marks=pytest.mark.slow)])
def test_sigkill_at_random_moments(kills, steps, tmp_path):
    """Killed wherever it was, more than once; the records end up as if nothing had happened."""
    arguments = [*TOY, "combiner=conicgrad", f"steps_per_task={steps}"]
    train(tmp_path / "whole", *arguments)
    run, chance = tmp_path / "killed", random.Random(kills)
    start = command(*arguments, f"run_dir={run}")
    for _ in range(kills):
        process = warm.Popen(start, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for((run / "provenance.json").exists, process)
        time.sleep(chance.uniform(0.0, steps / 250))
        process.kill()
        process.communicate()
        start = command(f"resume={run}")
    resume(run)
    assert_same_run(tmp_path / "whole", run, steps)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    run_here(compose_config([*TOY, "combiner=ls", "steps_per_task=300", f"run_dir={run}"]))
    return run


@pytest.mark.xdist_group("resume_whole")  # one worker makes the run to compare with
def test_a_checkpoint_cut_short_falls_back(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "cut")
    newest = tmp_path / "cut" / "checkpoints" / "step_300.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    process = resume(tmp_path / "cut")
    assert "step_300.pt is damaged" in process.stdout + process.stderr
    assert_same_run(whole, tmp_path / "cut", 300)


@pytest.mark.xdist_group("resume_whole")
def test_a_replay_segment_cut_short_falls_back(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "cut")
    segment = tmp_path / "cut" / "checkpoints" / "replay_200_300.pt"
    segment.write_bytes(segment.read_bytes()[:500])
    resume(tmp_path / "cut")
    assert_same_run(whole, tmp_path / "cut", 300)


def test_only_what_the_last_two_checkpoints_need_is_kept(tmp_path):
    train(tmp_path / "run", *TOY, "combiner=ls", "steps_per_task=600")
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {name for name in names if name.startswith("step_")} == {"step_500.pt", "step_600.pt"}
    starts = [int(name.split("_")[1]) for name in names if name.startswith("replay_")]
    assert min(starts) == 300  # step 500 needs rows 350 to 500 of a capacity of 150


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


@pytest.mark.parametrize("combiner", ["conicgrad", "pcgrad"])
def test_seed_three_of_ten_equals_seed_three_alone(combiner, tmp_path):
    """Up to the rounding of differently batched products, through a whole run: goals, noise, replay and combiner."""
    arguments = [*TOY, f"combiner={combiner}", "steps_per_task=150", "env.workers=1"]
    run_here(compose_config([*arguments, "seeds=[0,1,2,3,4,5,6,7,8,9]", f"run_dir={tmp_path / 'ten'}"]))
    run_here(compose_config([*arguments, "seeds=[3]", f"run_dir={tmp_path / 'one'}"]))
    ten, one = (read_file(tmp_path / name / "checkpoints" / "step_150.pt")["agent"] for name in ("ten", "one"))
    for name in ("actor", "critic"):
        torch.testing.assert_close(ten[name]["params"][3], one[name]["params"][0], rtol=1e-3, atol=1e-5)
    ours, alone = ([line for line in records(tmp_path / name) if line["seed"] == 3] for name in ("ten", "one"))
    assert [line["success"] for line in ours] == [line["success"] for line in alone]
    for line, other in zip(ours, alone, strict=True):
        assert line["return"] == pytest.approx(other["return"], rel=1e-3)
