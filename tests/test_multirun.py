"""`--multirun` with each launcher, through the real command."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from conftest import TOY, command, environment, evaluated, records, run_command, wait_for

from mtrl_conic.system.signals import STOPPING, Signals
from mtrl_conic.train import main as train
from mtrl_conic.training.multirun import run_one

RUNS = [*TOY, "steps_per_task=100"]


def multirun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("--multirun", *RUNS, "hydra.sweep.dir=sweep", *arguments, cwd=folder, timeout=250)


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_basic_launcher_and_what_it_writes(tmp_path):
    process = multirun(tmp_path, "combiner=ls,conicgrad", "seeds=[0],[1,2]")
    assert process.returncode == 0, process.stderr
    folder = tmp_path / "sweep"
    names = {path.name for path in folder.iterdir()}
    runs = {f"combiner={combiner},seeds={seeds}" for combiner in ("ls", "conicgrad") for seeds in ("0", "1,2")}
    assert names == {*runs, "multirun.yaml"}
    assert {line["seed"] for line in records(folder / "combiner=ls,seeds=1,2")} == {1, 2}
    assert list(tmp_path.iterdir()) == [folder]  # nothing of Hydra's beside it
    alone = main_here([*RUNS, "combiner=conicgrad", "seeds=[0]", f"run_dir={tmp_path / 'alone'}"])
    assert alone == 0
    for kind in ("evaluations", "metrics"):
        assert records(tmp_path / "alone", kind) == records(folder / "combiner=conicgrad,seeds=0", kind)
    files = {
        "/".join(Path(name).parts[1:]) for name in written(folder) if name.startswith("combiner=conicgrad,seeds=0")
    }
    assert {name for name in files if "tensorboard" not in name} == {
        name for name in written(tmp_path / "alone") if "tensorboard" not in name
    }
    command = json.loads((folder / "combiner=ls,seeds=0" / "provenance.json").read_text())["pieces"][0]["command"]
    assert command.startswith("python -m mtrl_conic.train ")
    assert {"combiner=ls", "seeds=[0]"} < set(shlex.split(command))  # starts this run alone


def test_started_again_it_does_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["-m", *RUNS, "combiner=ls", "hydra.sweep.dir=sweep", "seeds=[0],[1]"]
    assert main_here(arguments) == 0
    first, second = (tmp_path / "sweep" / f"combiner=ls,seeds={seed}" for seed in (0, 1))
    whole = records(second)
    shutil.rmtree(first)
    for path in (second / "checkpoints").iterdir():  # killed when it had just begun
        if not path.name.startswith("step_0"):
            path.unlink()
    (second / "evaluations.jsonl").write_text("")
    capsys.readouterr()
    assert main_here([*arguments, "env.workers=0"]) == 0
    assert "2 runs, 0 of them complete" in capsys.readouterr().out
    assert records(second) == whole
    assert records(first)
    before = written(tmp_path)
    assert main_here(arguments) == 0
    assert "2 runs, 2 of them complete" in capsys.readouterr().out
    assert written(tmp_path) == before


def main_here(arguments: list[str], main: Callable[[list[str]], int] = train) -> int:
    """The command in this process, its signal handlers put back."""
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    try:
        return main(arguments)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_failed_run_does_not_stop_the_others(tmp_path, capfd, monkeypatch):
    from mtrl_conic.runs.lock import lock

    monkeypatch.chdir(tmp_path)
    busy = tmp_path / "sweep" / "combiner=ls,seeds=0"
    busy.mkdir(parents=True)
    descriptor = lock(busy)
    try:
        assert main_here(["-m", *RUNS, "combiner=ls", "hydra.sweep.dir=sweep", "seeds=[0],[1]"]) == 1
    finally:
        os.close(descriptor)
    error = capfd.readouterr().err.splitlines()
    assert error[-1] == "failed with exit status 2: sweep/combiner=ls,seeds=0"
    assert "in use by another process" in error[0]
    assert records(tmp_path / "sweep" / "combiner=ls,seeds=1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_sweep_with_a_checkpoint(number, tmp_path):
    arguments = ["-m", *TOY, "steps_per_task=1000000", "combiner=ls,conicgrad", "hydra.sweep.dir=sweep"]
    process = warm.Popen(
        command(*arguments),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = tmp_path / "sweep" / "combiner=ls"
    wait_for(lambda: evaluated(run), process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error
    assert "Traceback" not in error
    stopped = re.search(r"stopped at step (\d+)", error)
    assert stopped, error
    assert (run / "checkpoints" / f"step_{stopped[1]}.pt").is_file()
    assert not (tmp_path / "sweep" / "combiner=conicgrad").exists()


@pytest.mark.slow
def test_joblib(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = ["combiner=ls,conicgrad", "env.workers=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = multirun(tmp_path, *arguments)
    assert process.returncode == 0, process.stderr
    for combiner in ("ls", "conicgrad"):
        assert records(tmp_path / "sweep" / f"combiner={combiner}")
    assert list(tmp_path.iterdir()) == [tmp_path / "sweep"]


@pytest.mark.slow
def test_submitit_on_this_machine(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    process = multirun(tmp_path, "combiner=ls,conicgrad", "hydra/launcher=submitit_local")
    assert process.returncode == 0, process.stderr
    for combiner in ("ls", "conicgrad"):
        assert records(tmp_path / "sweep" / f"combiner={combiner}")


@pytest.mark.slow
def test_ray_on_this_machine(tmp_path):
    pytest.importorskip("ray")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    remote = "+hydra.launcher.ray.remote.num_cpus=1"
    process = multirun(tmp_path, "combiner=ls,conicgrad", "hydra/launcher=ray", remote)
    assert process.returncode == 0, process.stderr
    for combiner in ("ls", "conicgrad"):
        assert records(tmp_path / "sweep" / f"combiner={combiner}")


def test_a_job_keeps_the_handler_of_its_runner(tmp_path):
    """A cluster's runner has its own SIGTERM handler; the ones that Python or a shell set are replaced."""

    def own(*_):
        pass

    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        signal.signal(signal.SIGTERM, own)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stopped = Signals()
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) == stopped._note
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_task_function_can_be_sent_to_another_process():
    import pickle

    assert pickle.loads(pickle.dumps(run_one)) is run_one


BAD = {
    "unknown combiner in the list": (["combiner=ls,foo"], ["combiner=foo", "conicgrad"]),
    "bad seed in the list": (["seeds=[0],[-1]"], ["seeds", "-1"]),
    "bad value in the list": (["combiner=conicgrad", "combiner.c=0.5,1.5"], ["1.5"]),
    "unknown launcher": (["hydra/launcher=mars"], ["hydra/launcher=mars", "basic"]),
    "unknown launcher setting": (["hydra.launcher.speed=2"], ["hydra.launcher.speed"]),
    "folder of one run": (["run_dir=x"], ["run_dir=x", "hydra.sweep.dir"]),
    "resume": (["resume=x"], ["resume=x", "--multirun"]),
    "interval": (["batch_size_per_task=interval(1,4)"], ["batch_size_per_task=interval(1,4)"]),
    "one folder for two runs": (["seeds=[0],[1]", "hydra.sweep.subdir=one"], ["hydra.sweep.subdir", "one"]),
    "misspelt key": (["step_per_task=1,2"], ["step_per_task", "steps_per_task"]),
    "unknown sweeper": (["hydra/sweeper=mars"], ["hydra/sweeper=mars"]),
    "folder that cannot be made": (["hydra.sweep.dir=/proc/x"], ["/proc/x"]),
    "null in the list": (["combiner=ls,null"], ["combiner=null", "conicgrad"]),
    "seeds without brackets": (["seeds=0,1"], ["seeds=0", "seeds=[0]"]),
    "Hydra's own folder": (["hydra.run.dir=x"], ["hydra.run.dir=x", "hydra.sweep.dir"]),
    "no folder": (["hydra.sweep.dir="], ["hydra.sweep.dir=", "empty"]),
    "folder as null": (["hydra.sweep.dir=null"], ["hydra.sweep.dir=null"]),
    "folder of too long a name": (["hydra.sweep.dir=" + "x" * 5000], ["hydra.sweep.dir", "too long"]),
    "folder that refers to nothing": (["hydra.sweep.dir=${HOME}"], ["hydra.sweep.dir", "HOME", "${oc.env:NAME}"]),
    "launcher as null": (["hydra/launcher=null"], ["hydra/launcher=null"]),
    "launcher's settings as null": (["hydra.launcher=null"], ["hydra.launcher=null"]),
    "misspelt setting of the combiner": (["combiner.cc=1,2"], ["combiner.cc", "combiner.c?"]),
    "what an experiment sets for another agent": (
        ["experiment=cpu", "env.horizon=null", "agent=mtmhsac,paco"],
        ["agent.network.layer_norm: PaCo has no", "experiment=cpu sets it, ~agent.network.layer_norm"],
    ),
    "no combiner of that pattern": (["combiner=glob(zz*)"], ["combiner=glob(zz*)"]),
    "no slurm here": (["hydra/launcher=submitit_slurm"], ["submitit_slurm", "srun"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, tmp_path, monkeypatch, capsys):
    if "slurm" in name:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.chdir(tmp_path)
    arguments, words = BAD[name]
    assert main_here(["-m", "env=toy", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert all(word in error for word in words), error
    assert not list(tmp_path.iterdir())


WITHOUT_PLUGINS = """
import sys, types
sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
sys.modules["hydra_plugins"].__path__ = []
from mtrl_conic.train import main
sys.exit(main(["-m", "env=toy", "hydra/launcher=joblib"]))
"""


@pytest.mark.slow
def test_a_launcher_that_is_not_installed(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_PLUGINS], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert 'pip install "mtrl_conic[sweep]"' in process.stderr
    assert not list(tmp_path.iterdir())


def test_folders_of_the_users_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "combiner").mkdir(parents=True)
    (tmp_path / "mine" / "combiner" / "even.yaml").write_text("_target_: mtrl_conic.combiners.ls.LS\n")
    subdir = "hydra.sweep.subdir=${hydra:runtime.choices.combiner}/seed_${hydra:job.num}"
    arguments = ["-m", "--config-dir", "mine", *RUNS, "combiner=even", "seeds=[4],[5]", "hydra.sweep.dir=sweep", subdir]
    assert main_here(arguments) == 0
    assert records(tmp_path / "sweep" / "even" / "seed_1")[0]["seed"] == 5
    shutil.rmtree(tmp_path / "sweep" / "even" / "seed_0")
    assert main_here(arguments) == 0  # the numbers stay though a run is left out
    assert records(tmp_path / "sweep" / "even" / "seed_0")[0]["seed"] == 4


def test_resume_auto(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [*RUNS, "combiner=ls", "run_dir=run", "resume=auto"]
    assert main_here(arguments) == 0
    assert main_here(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "complete: run"
    assert main_here([*arguments, "steps_per_task=200"]) == 0
    assert [line["step"] for line in records(tmp_path / "run")] == [100, 200]
    assert main_here([*arguments, "agent.tau=0.5"]) == 2
    assert "agent.tau=0.5: cannot change on resume" in capsys.readouterr().err
    assert main_here(["env=toy", "resume=auto"]) == 2
    assert "needs run_dir" in capsys.readouterr().err
