"""The seed sweep, through the real command: killed, interrupted, failing, started again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from conftest import TOY, environment, evaluated, records, wait_for

from mtrl_conic.runs.folder import open_run
from mtrl_conic.runs.lock import lock
from mtrl_conic.runs.stage import Stage, look, prepare, stage
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.sweep import main
from mtrl_conic.training.trainer import Trainer

COMBINERS, SEEDS = ("ls", "conicgrad"), (0, 1)
NAMES = [f"{combiner}/seed_{seed}" for combiner in COMBINERS for seed in SEEDS]
ARGUMENTS = [*TOY, "steps_per_task=200"]

pytestmark = pytest.mark.xdist_group("sweep")  # one worker: the runs to compare with are made once


def sweep(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mtrl_conic.sweep", *arguments]


def run_sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run(sweep(*arguments), cwd=folder, timeout=200)


def start_sweep(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """In a process group of its own, as a terminal starts it."""
    return warm.Popen(
        sweep(*arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def train_here(run: Path, combiner: str, seed: int, *more: str, stop: int | None = None) -> None:
    """A run in this process, which is faster than the command."""
    config = compose_config([*ARGUMENTS, *more, f"combiner={combiner}", f"seeds=[{seed}]", f"run_dir={run}"])
    with open_run(config, resume=False) as folder:
        trainer = Trainer(config, folder)
        try:
            assert trainer.run(lambda: stop is not None and trainer.step >= stop) == (stop is None)
        finally:
            trainer.close()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    for combiner in COMBINERS:
        for seed in SEEDS:
            train_here(folder / combiner / f"seed_{seed}", combiner, seed)
    return folder


def pieces(run: Path) -> int:
    return len(json.loads((run / "provenance.json").read_text())["pieces"])


def test_a_killed_sweep_ends_with_the_records_of_an_uninterrupted_one(uninterrupted, tmp_path):
    """2 combiners × 2 seeds, all processes killed in the second run; some leftovers of unlucky kills are added."""
    arguments = ["ls conicgrad", "0 1", "sweep", *ARGUMENTS]
    process, folder = start_sweep(tmp_path, *arguments), tmp_path / "sweep"
    wait_for((folder / NAMES[1] / "provenance.json").exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = [name for name in NAMES if stage_of(folder / name) is Stage.COMPLETE]
    assert done == NAMES[:1]
    began = {name: pieces(folder / name) for name in done}

    only_settings = folder / NAMES[2]  # killed before the first checkpoint was whole
    (only_settings / "checkpoints").mkdir(parents=True)
    (only_settings / "checkpoints" / "step_0.tmp").write_bytes(b"half")
    shutil.copy(uninterrupted / NAMES[2] / "config.yaml", only_settings)
    (folder / NAMES[3]).mkdir()  # killed between the lock and the settings
    (folder / NAMES[3] / ".lock").touch()
    (folder / NAMES[3] / "config.tmp").write_text("env:")

    again = run_sweep(tmp_path, *arguments, "jobs=2")
    assert again.returncode == 0, again.stderr
    assert "4 runs, 1 of them complete" in again.stdout
    assert [line.split()[1] for line in again.stdout.splitlines() if line.startswith("start: ")] == NAMES[1:]
    for name in NAMES:
        for kind in ("evaluations", "metrics"):
            assert records(folder / name, kind) == records(uninterrupted / name, kind), (name, kind)
    assert {name: pieces(folder / name) for name in done} == began


def stage_of(run: Path) -> Stage:
    return stage(run, [int(run.name.rpartition("_")[2])], 200)


def test_a_complete_sweep_starts_nothing(uninterrupted, capsys):
    assert main(["ls conicgrad", "0 1", str(uninterrupted), *ARGUMENTS]) == 0
    assert capsys.readouterr().out.splitlines() == [f"sweep folder: {uninterrupted} (4 runs, 4 of them complete)"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_group_leaves_checkpoints(number, tmp_path):
    process = start_sweep(tmp_path, "ls", "3,4 5", "sweep", *TOY, "steps_per_task=1000000")
    run = tmp_path / "sweep" / "ls" / "seeds_3_4"
    wait_for(lambda: evaluated(run), process)
    for _ in range(2):  # by the terminal, and by its shell
        os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    assert {line["seed"] for line in records(run)} == {3, 4}
    stopped = re.search(r"stopped at step (\d+)", err)
    assert stopped, err
    assert (run / "checkpoints" / f"step_{stopped[1]}.pt").is_file()
    assert not (tmp_path / "sweep" / "ls" / "seed_5").exists()


def test_a_failed_run_is_listed_and_the_others_go_on(tmp_path):
    (tmp_path / "sweep" / "ls" / "seed_0").mkdir(parents=True)
    descriptor = lock(tmp_path / "sweep" / "ls" / "seed_0")  # as if another process worked there
    try:
        process = run_sweep(tmp_path, "ls", "0 1", "sweep", *TOY, "steps_per_task=100", "jobs=2")
    finally:
        os.close(descriptor)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("failed: ls/seed_0: exit status 2, see sweep/ls/seed_0.log")
    assert "in use by another process" in (tmp_path / "sweep" / "ls" / "seed_0.log").read_text()
    assert records(tmp_path / "sweep" / "ls" / "seed_1")


def test_out_of_time_is_no_failure(tmp_path):
    process = run_sweep(tmp_path, "ls", "0", "sweep", *TOY, "steps_per_task=1000000", "max_wall_seconds=0.5")
    assert process.returncode == 0, process.stderr
    assert process.stderr.splitlines()[-1] == "out of time, the same command goes on: ls/seed_0"
    assert list((tmp_path / "sweep" / "ls" / "seed_0" / "checkpoints").glob("step_*.pt"))


BAD = {
    "unknown combiner": (["ls foo", "0", "new", "env=toy"], ["combiner=foo", "conicgrad"]),
    "seeds as words": (["ls", "0 one", "new", "env=toy"], ["one"]),
    "repeated seed": (["ls", "0 1 0", "new", "env=toy"], ["0", "twice"]),
    "no combiner": (["", "0", "new"], ["combiner"]),
    "no folder": (["ls", "0"], ["folder"]),
    "no jobs": (["ls", "0", "new", "jobs=0"], ["jobs=0"]),
    "bad setting": (["ls", "0", "new", "env=toy", "batch_size_per_task=0"], ["agent.batch_size_per_task", "not 0"]),
    "its own setting": (["ls", "0", "new", "env=toy", "seeds=[3]"], ["seeds=[3]"]),
    "unknown option": (["ls", "0", "new", "--fast"], ["--fast"]),
    "no combiner but null": (["null", "0", "new", "env=toy"], ["combiner=null", "conicgrad"]),
    "one seed spelt twice": (["ls", "00 0", "new", "env=toy"], ["00"]),
    "folder without a name": (["ls", "0", "", "env=toy"], ["folder", "empty"]),
    "folder that cannot be made": (["ls", "0", "/proc/x", "env=toy"], ["/proc/x", "cannot be written"]),
    "folder of too long a name": (["ls", "0", "x" * 5000, "env=toy"], ["too long"]),
    "jobs beyond counting": (["ls", "0", "new", "env=toy", "jobs=" + "9" * 5000], ["jobs="]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, words = BAD[name]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert all(word in error for word in words), error
    assert not list(tmp_path.iterdir())


def test_other_settings_are_refused_before_anything_starts(uninterrupted, tmp_path, capsys):
    folder = shutil.copytree(uninterrupted, tmp_path / "sweep")
    shutil.rmtree(folder / "ls" / "seed_0")
    assert main(["ls", "0 1", str(folder), *ARGUMENTS, "batch_size_per_task=9"]) == 2
    assert "batch_size_per_task=9: cannot change on resume, the run has 8" in capsys.readouterr().err
    assert not (folder / "ls" / "seed_0").exists()


def toy_config(run: Path, *more: str):
    return compose_config([*ARGUMENTS, "combiner=ls", f"run_dir={run}", *more])


def test_more_steps_make_a_complete_run_one_to_resume(uninterrupted):
    run = uninterrupted / "ls" / "seed_0"
    assert look(toy_config(run)) is Stage.COMPLETE
    assert look(toy_config(run, "steps_per_task=300")) is Stage.BEGUN


def test_a_checkpoint_without_the_last_evaluation_is_not_complete(uninterrupted, tmp_path):
    run = shutil.copytree(uninterrupted / "ls" / "seed_0", tmp_path / "run")
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    (run / "evaluations.jsonl").write_text(lines[0] + "\n" + lines[1][:20])
    assert look(toy_config(run)) is Stage.BEGUN


def test_what_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not a run folder"):
        prepare(toy_config(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_records_without_a_checkpoint_are_never_removed(uninterrupted, tmp_path):
    run = shutil.copytree(uninterrupted / "ls" / "seed_0", tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    assert prepare(toy_config(run)) is Stage.COMPLETE  # they may be deleted when a run is done
    with pytest.raises(ConfigError, match="no checkpoint"):
        prepare(toy_config(run, "steps_per_task=300"))
    assert len(records(run)) == 2


def test_a_folder_in_use_is_not_cleared(tmp_path):
    (tmp_path / "config.tmp").touch()
    descriptor = lock(tmp_path)
    try:
        with pytest.raises(ConfigError, match="in use"):
            prepare(toy_config(tmp_path))
    finally:
        os.close(descriptor)
    assert prepare(toy_config(tmp_path)) is Stage.UNSTARTED
    assert not list(tmp_path.iterdir())


def test_an_evaluation_killed_before_its_checkpoint_is_not_written_twice(tmp_path):
    """Stopped when the evaluation at 100 was due, resumed, and killed between its record and its checkpoint."""
    run = tmp_path / "run"
    train_here(run, "ls", 0, stop=100)
    train_here(tmp_path / "whole", "ls", 0)
    lines = (tmp_path / "whole" / "evaluations.jsonl").read_text().splitlines()
    (run / "evaluations.jsonl").write_text(lines[0] + "\n")
    config = toy_config(run)
    with open_run(config, resume=True) as folder:
        trainer = Trainer(config, folder, resume=True)
        assert trainer.run()
        trainer.close()
    assert records(run) == records(tmp_path / "whole")
