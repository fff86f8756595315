"""Runs on SLURM, with stand-ins for its commands, and sweeps with and without a launcher."""

from __future__ import annotations

import json
import os
import shlex
import sys

import pytest
import warm
import yaml
from conftest import records
from test_multirun import RUNS, main_here, multirun

from mtrl_conic.sweep import main as sweep

# Stand-ins for SLURM's commands: the batch script is kept and its array tasks run here.
SBATCH = """#!/bin/bash
cp "$1" "$FAKE_SLURM/job.sh"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for task in $(seq 0 "$last"); do
  SLURM_JOB_ID=42$task SLURM_ARRAY_JOB_ID=42 SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 \\
    SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_NODELIST=localhost bash "$1" >/dev/null 2>&1 &
done
echo "Submitted batch job 42"
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do
  case $1 in --output | --error) shift 2 ;; *) shift ;; esac
done
exec "$@"
"""
SACCT = "#!/bin/bash\necho 'JobID|State|NodeList'\necho '42_0|RUNNING|localhost'\n"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The stand-ins, in a folder `bin` that is searched first; `job.sh` beside it is what they were given."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "bin").mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))


def test_slurm_with_stand_ins_for_its_commands(tmp_path, slurm):
    slurm = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=90"]
    process = multirun(tmp_path, "combiner=ls,conicgrad", *slurm, "hydra.launcher.array_parallelism=1")
    assert process.returncode == 0, process.stderr
    for combiner in ("ls", "conicgrad"):
        assert records(tmp_path / "sweep" / f"combiner={combiner}")
    script = (tmp_path / "job.sh").read_text()
    for line in ("--partition=gpu", "--time=90", "--array=0-1%1", "--job-name=mtrl_conic"):
        assert f"#SBATCH {line}" in script, script
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "job.sh", "sweep"}


@pytest.mark.slow  # in one process: test_a_sweep_goes_on_with_and_without_a_launcher
def test_a_sweep_of_variants_on_slurm(tmp_path, slurm):
    """One array of the runs that are missing, each with its own agent; started again, it finds all of them done."""
    arguments = ["variants=table3", "0,1", "sweep", "only=stl,pcgrad", "experiment=smoke", *RUNS]
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"]
    command = [sys.executable, "-m", "mtrl_conic.sweep", *arguments, *launcher]
    process = warm.run(command, cwd=tmp_path, timeout=250)
    assert process.returncode == 0, process.stderr
    for name, agent in (("STL", "stl"), ("PCGrad", "mtsac")):
        run = tmp_path / "sweep" / name / "seeds_0_1"
        assert {line["seed"] for line in records(run)} == {0, 1}
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert (config["variant"], config["choices"]["agent"]) == (name, agent)
    script = (tmp_path / "job.sh").read_text()
    assert "#SBATCH --partition=gpu" in script
    assert "#SBATCH --array=0-1%" in script
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"STL", "PCGrad", ".submitit"}
    (tmp_path / "job.sh").unlink()

    again = warm.run(command, cwd=tmp_path, timeout=250)
    assert again.returncode == 0, again.stderr
    assert "2 runs, 2 of them complete" in again.stdout
    assert not (tmp_path / "job.sh").exists()


def test_a_sweep_goes_on_with_and_without_a_launcher(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    basic = "hydra/launcher=basic"
    assert main_here(["ls", "0,1", "sweep", *RUNS, basic], sweep) == 0
    run = tmp_path / "sweep" / "ls" / "seeds_0_1"
    assert main_here([*RUNS, "combiner=ls", "seeds=[0,1]", f"run_dir={tmp_path / 'alone'}"]) == 0
    for kind in ("evaluations", "metrics"):
        assert records(run, kind) == records(tmp_path / "alone", kind)
    command = json.loads((run / "provenance.json").read_text())["pieces"][0]["command"]
    assert {"combiner=ls", "seeds=[0,1]"} < set(shlex.split(command))
    capsys.readouterr()
    assert main_here(["ls", "0,1", "sweep", *RUNS, "steps_per_task=200", basic], sweep) == 0
    assert "1 runs, 0 of them complete" in capsys.readouterr().out
    assert [line["step"] for line in records(run) if line["seed"] == 0] == [100, 200]
    assert main_here(["ls", "0,1", "sweep", *RUNS, "steps_per_task=200"], sweep) == 0
    assert "1 runs, 1 of them complete" in capsys.readouterr().out
    assert list((tmp_path / "sweep").iterdir()) == [tmp_path / "sweep" / "ls"]
