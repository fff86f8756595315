"""Bad input through the real command line: exit status 2, one to three lines, no folder made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from bad_command_lines import CASES, FILES
from conftest import TOY, command, environment, run_command, train_here

pytestmark = pytest.mark.xdist_group("bad_input")  # one worker, as the answers of all cases are computed once

# The process start costs seconds, so one interpreter checks all cases; `test_the_command_itself` starts the real one.
RUNNER = """
import sys, json, io, contextlib, traceback
from pathlib import Path
import mtrl_conic.training.session
from mtrl_conic.train import main

def accepted(*_):
    raise RuntimeError("the training would start")

mtrl_conic.training.session.Trainer = accepted
cases = json.load(sys.stdin)
before = set(Path().rglob("*"))
for name, arguments in cases.items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except Exception:
            status = 1
            traceback.print_exc()
    after = set(Path().rglob("*"))
    print(json.dumps([name, status, out.getvalue(), err.getvalue(), sorted(map(str, after - before))]))
    before = after
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_input")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="latin-1")
    return folder


@pytest.fixture(scope="module")
def answers(folder):
    import json

    cases = {name: _arguments(arguments) for name, (arguments, _) in CASES.items()}
    process = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(cases),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return {line[0]: line[1:] for line in map(json.loads, process.stdout.splitlines())}


def _arguments(arguments: list[str]) -> list[str]:
    if any(argument.startswith(("resume=", "env=", "=")) for argument in arguments):
        return arguments
    return ["env=toy", *arguments]


def check(status: int, out: str, err: str, words: list[str]) -> None:
    assert status == 2, err
    assert 1 <= len(err.strip().splitlines()) <= 3, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
    assert out == ""


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, answers):
    *answer, written = answers[name]
    check(*answer, CASES[name][1])
    assert written == []


def test_the_command_itself(tmp_path):
    name = "misspelt key"
    line = command(*_arguments(CASES[name][0]))
    process = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100)
    check(process.returncode, process.stdout, process.stderr, CASES[name][1])
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_gpu(tmp_path):
    import torch

    if torch.cuda.is_available():
        return
    process = run_command("env=toy", "device=cuda", cwd=tmp_path)
    check(process.returncode, process.stdout, process.stderr, ["device=cuda", "cpu"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    process = run_command(*TOY, "combiner=ls", "steps_per_task=200", f"run_dir={run}", cwd=run.parent)
    assert process.returncode == 0, process.stderr
    return run


def copy_of(run: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, tmp_path / "run"))


def refuse(run: Path, *arguments: str, words: list[str]) -> None:
    before = sorted(run.rglob("*"))
    process = run_command(f"resume={run}", *arguments, cwd=run.parent)
    assert process.returncode == 2, process.stderr
    assert 1 <= len(process.stderr.strip().splitlines()) <= 3
    for word in words:
        assert word in process.stderr, process.stderr
    assert sorted(run.rglob("*")) == before


def test_resume_refuses_other_settings_by_name(finished):
    refuse(finished, "batch_size_per_task=9", words=["batch_size_per_task", "8"])


def test_resume_refuses_another_combiner(finished):
    refuse(finished, "combiner=pcgrad", words=["combiner", "pcgrad"])


@pytest.mark.parametrize(
    ("mode", "words"),
    [("nonsense", ["logger=wandb", "WANDB_MODE=nonsense", "offline"]), ("", ["logger=wandb"])],
)
def test_settings_of_wandb(mode, words, tmp_path):
    pytest.importorskip("wandb")
    settings = {"WANDB_MODE": mode, "WANDB_API_KEY": "", "HOME": str(tmp_path / "none")}
    process = warm.run(command("env=toy", "logger=wandb"), cwd=tmp_path, env=environment() | settings)
    check(process.returncode, process.stdout, process.stderr, words)


def test_resume_refuses_a_misspelt_key(finished):
    refuse(finished, "step_per_task=300", words=["step_per_task"])


OTHER_COMMANDS = {
    "evaluate: no run": ("evaluate", ["run="], ["run=", "empty"]),
    "evaluate: episodes beyond counting": ("evaluate", ["run=RUN", "episodes=1e300"], ["episodes=1e300", "at most"]),
    "evaluate: seed of thousands of digits": ("evaluate", ["run=RUN", "seeds=" + "9" * 5000], ["seeds="]),
    "evaluate: output of too long a name": ("evaluate", ["run=RUN", "out=" + "x" * 5000], ["out=", "too long"]),
    "evaluate: device of thousands of digits": ("evaluate", ["run=RUN", "device=cuda:" + "9" * 5000], ["device="]),
    "report: output of too long a name": ("report.__main__", ["runs=RUN", "out=" + "x" * 5000], ["out=", "too long"]),
    "report: runs of too long a name": ("report.__main__", ["runs=" + "x" * 5000, "out=new"], ["runs="]),
    "report: no output": ("report.__main__", ["runs=RUN", "out="], ["out=", "empty"]),
    "toy: a value that refers to nothing": (
        "toy.__main__",
        ["steps=1", "out=new", "conicgrad.c=${x}"],
        ["conicgrad.c=${x}", "not found"],
    ),
    "toy: steps of thousands of digits": ("toy.__main__", ["out=new", "steps=" + "9" * 5000], ["steps"]),
    "toy: a record that is a folder": ("toy.__main__", ["steps=1", "out=new", "json=."], ["json=.", "folder"]),
    "benchmark: mt1, which needs a task": ("benchmark.__main__", ["env=mt1"], ["env=mt1", "mt10"]),
    "benchmark: seeds of thousands of digits": ("benchmark.__main__", ["seeds=" + "9" * 5000], ["seeds"]),
    "benchmark: a record that is a folder": ("benchmark.__main__", ["json=."], ["json=.", "folder"]),
    "benchmark: a record that cannot be written": ("benchmark.__main__", ["json=/proc/x"], ["/proc/x"]),
    "benchmark: a record of too long a name": ("benchmark.__main__", ["json=" + "x" * 5000], ["too long"]),
}


@pytest.mark.parametrize("name", OTHER_COMMANDS)
def test_other_commands(name, finished, tmp_path, monkeypatch, capsys):
    import importlib
    import signal

    module, arguments, words = OTHER_COMMANDS[name]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)
    before = set(finished.rglob("*"))
    try:
        status = importlib.import_module(f"mtrl_conic.{module}").main(
            [a.replace("RUN", str(finished)) for a in arguments]
        )
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    answer = capsys.readouterr()
    check(status, answer.out, answer.err, words)
    assert not list(tmp_path.iterdir())
    assert set(finished.rglob("*")) == before


def test_the_largest_seed_trains_and_acts(tmp_path):
    import numpy as np

    from mtrl_conic.evaluate import main as evaluate
    from mtrl_conic.policies.policy import load_policy

    seed = 2**64 - 1
    run = train_here(*TOY, "combiner=rlw", f"seeds=[{seed}]", "steps_per_task=100", f"run_dir={tmp_path / 'run'}")
    policy = load_policy(run, seed=seed)
    assert policy(np.zeros(6), 0, deterministic=False).shape == (2,)
    assert evaluate([f"run={run}", "episodes=1"]) == 0


def test_missing_checkpoint(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    process = run_command(f"resume={run}", cwd=tmp_path)
    assert process.returncode == 2
    assert "no usable checkpoint" in process.stderr


def test_damaged_checkpoints(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    for path in (run / "checkpoints").glob("step_*.pt"):
        path.write_bytes(b"not a checkpoint")
    process = run_command(f"resume={run}", cwd=tmp_path)
    assert process.returncode == 2
    assert "damaged" in process.stderr
    assert len(process.stderr.strip().splitlines()) <= 3


def test_damaged_config(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    (run / "config.yaml").write_text("env: [unclosed")
    refuse(run, words=["config.yaml"])


def test_run_folder_in_use(finished, tmp_path):
    from mtrl_conic.runs.lock import lock

    run = copy_of(finished, tmp_path)
    descriptor = lock(run)
    try:
        refuse(run, words=["in use"])
    finally:
        os.close(descriptor)


def test_read_only_folder(tmp_path):
    folder = tmp_path / "sealed"
    folder.mkdir(mode=0o555)
    process = run_command("env=toy", f"run_dir={folder}/run", cwd=tmp_path, timeout=60) if os.getuid() else None
    if process is not None:  # root may write everywhere; /proc above stands for it
        check(process.returncode, process.stdout, process.stderr, ["sealed"])
