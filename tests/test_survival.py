"""What a run survives: the end of its time, signals, kills, damaged files."""

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
import warm
from conftest import TOY, command, environment, evaluated, records, wait_for
from resuming import assert_same_run, resume, run_here, train

from mtrl_conic.runs.checkpoint import Checkpoints, read_file
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.system.signals import STOPPING, Signals
from mtrl_conic.training import session


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


@pytest.mark.parametrize(
    "number", [pytest.param(each, marks=() if each == signal.SIGTERM else pytest.mark.slow) for each in STOPPING]
)
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


@pytest.mark.slow
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
