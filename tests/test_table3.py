"""The table of the papers as a command: what each of its rows is, and the script from the runs to the report."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOY, environment, records

from mtrl_conic.settings import paths
from mtrl_conic.settings.variants import folder_name, read_variants
from mtrl_conic.sweep import main
from mtrl_conic.training.sweep_runs import list_runs

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "table3.sh"
EXPERIMENTS = [name for name in ("mt10_fixed", "mt10", "smoke") if name in paths.choices("experiment")]

# What the authors of each row ran on MT10: class of the combiner, its settings, class of the network, and of the agent.
TEMPERATURES = {"mt10_fixed": "combined", "mt10": "task", "smoke": "task"}  # of the rows with one network and one head
SAC: dict = {}
SEPARATE = {"temperatures": "task"}  # as the papers' code has it for these three
ROWS = {
    "LS": ("LS", {}, "MultiHeadMLP", SAC),
    "STL": ("LS", {}, "IndependentMLP", SEPARATE | {"clip": "task", "loss_reduction": "sum", "task_id_input": False}),
    "Multi-headed_SAC": ("LS", {}, "MultiHeadMLP", SEPARATE),
    "Soft_Modularization": (
        *("LS", {}, "SoftModularization"),
        SEPARATE | {"loss_weighting": "temperature", "task_id_input": False},
    ),
    "PCGrad": ("PCGrad", {}, "MultiHeadMLP", SAC),
    "CAGrad": ("CAGrad", {"c": 0.9}, "MultiHeadMLP", SAC),
    "NashMTL_every_1": ("NashMTL", {"update_every": 1}, "MultiHeadMLP", SAC | {"max_grad_norm": 1.0}),
    "NashMTL_every_50": ("NashMTL", {"update_every": 50}, "MultiHeadMLP", SAC | {"max_grad_norm": 1.0}),
    "NashMTL_every_100": ("NashMTL", {"update_every": 100}, "MultiHeadMLP", SAC | {"max_grad_norm": 1.0}),
    "FAMO": ("FAMO", {"gamma": 0.01, "weights_lr": 0.025}, "MultiHeadMLP", SAC),
    "SDMGrad": ("SDMGrad", {"lamda": 0.6, "inner_iterations": 20}, "MultiHeadMLP", SAC),
    "ConicGrad": (
        *("ConicGrad", {"c": 0.75, "gamma": 0.05, "weights_lr": 0.025, "enforce_cone": True}, "MultiHeadMLP"),
        SAC,
    ),
}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_each_row_is_what_its_authors_ran(experiment, tmp_path):
    runs = list_runs("variants=table3", ["0,1,2"], str(tmp_path), [f"experiment={experiment}"])
    assert [run.name for run in runs] == [f"{name}/seeds_0_1_2" for name in ROWS]
    for run, (combiner, settings, network, of_agent) in zip(runs, ROWS.values(), strict=True):
        config = run.config
        assert folder_name(config.variant) == run.name.partition("/")[0]
        assert config.choices["experiment"] == experiment
        assert config.combiner["_target_"].rpartition(".")[2] == combiner
        assert config.combiner.items() >= settings.items()
        assert config.combiners == {}
        assert config.agent["_target_"] == "mtrl_conic.agents.sac.MultiTaskSAC"
        assert config.agent["network"]["_target_"].rpartition(".")[2] == network
        one_head = config.agent["network"].get("heads") == "shared"
        assert one_head == (network == "MultiHeadMLP" and run.name != "Multi-headed_SAC/seeds_0_1_2"), run.name
        assert config.agent.items() >= ({"temperatures": TEMPERATURES[experiment]} | of_agent).items(), run.name


def test_the_protocol_nearest_to_the_papers_is_the_default():
    assert "experiment=mt10_fixed" in read_variants("table3").settings


def table3(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = environment() | {"INSTALLED": sys.executable}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False
    )


def test_help_names_every_row(tmp_path):
    done = table3(tmp_path, "--help")
    assert done.returncode == 0
    words = done.stdout.split()
    assert {name.casefold() for name in ROWS} < set(words)
    assert not list(tmp_path.iterdir())


ARGUMENTS = ["experiment=smoke", *TOY, "steps_per_task=100", "only=stl"]


@pytest.mark.slow
@pytest.mark.timeout(1200)  # four processes that import torch
def test_the_script_from_runs_to_the_table(tmp_path, capsys):
    """Started again it finds all done; a row that failed is named, with the table all the same."""
    begun = table3(tmp_path, *ARGUMENTS, "seeds=0,1", "out=t3")
    assert begun.returncode == 0, begun.stderr
    assert rows(tmp_path) == ["STL"]
    run = tmp_path / "t3" / "STL" / "seeds_0_1"
    assert {line["seed"] for line in records(run)} == {0, 1}
    assert {path.name for path in (tmp_path / "t3").iterdir()} == {"STL", "report"}

    assert main(["variants=table3", "0,1", str(tmp_path / "t3"), *ARGUMENTS]) == 0
    assert capsys.readouterr().out == f"sweep folder: {tmp_path / 't3'} (1 runs, 1 of them complete)\n"

    stopped = {"seed": 1, "step": 70, "network": "critic", "cause": "the loss"}
    (run / "halted.json").write_text(json.dumps([stopped]))
    shutil.rmtree(tmp_path / "t3" / "report")
    again = table3(tmp_path, *ARGUMENTS, "seeds=0,1", "out=t3")
    assert again.returncode == 1, again.stderr
    assert "failed: STL/seeds_0_1: seed 1 " in again.stderr
    assert "start: " not in again.stdout
    assert rows(tmp_path) == ["STL"]


def rows(folder: Path) -> list[str]:
    with (folder / "t3" / "report" / "toy" / "table3.csv").open() as file:
        return [line["row"] for line in csv.DictReader(file)]


def test_a_row_that_there_is_not(tmp_path):
    done = table3(tmp_path, "experiment=smoke", "env=toy", "only=ls,pcgrat")
    assert done.returncode == 2
    assert done.stderr == "error: only=ls,pcgrat: no variant pcgrat; did you mean pcgrad?\n"
    assert not list(tmp_path.iterdir())


BAD = {
    "no row": (["only="], ["only=", "no variant without a name", "soft_modularization"]),
    "a row twice": (["only=LS,ls"], ["only=LS,ls", "ls is named twice"]),
    "no such row": (["only=mgda"], ["only=mgda", "there are ls, stl", "conicgrad"]),
    "jobs of a launcher": (["jobs=2", "hydra/launcher=basic"], ["jobs=2", "hydra.launcher.n_jobs"]),
    "Hydra's other settings": (["hydra.sweep.dir=x"], ["hydra.sweep.dir=x", "only hydra/launcher"]),
    "no folder for the report": (["report=", "only=ls"], ["report=", "empty"]),
    "report where none can be": (["report=/proc/x", "only=ls"], ["report=/proc/x", "cannot be written"]),
    "no such launcher": (["hydra/launcher=mars", "only=ls"], ["hydra/launcher=mars", "basic"]),
    "no such setting of the launcher": (
        ["hydra/launcher=basic", "hydra.launcher.speed=2", "only=ls"],
        ["hydra.launcher.speed"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, words = BAD[name]
    assert main(["variants=table3", "0", "new", "experiment=smoke", "env=toy", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert all(word in error for word in words), error
    assert not list(tmp_path.iterdir())


def test_combiners_are_chosen_by_naming_them(tmp_path, capsys):
    assert main(["ls pcgrad", "0", str(tmp_path / "new"), "env=toy", "only=ls"]) == 2
    assert "only=ls: chooses among variants" in capsys.readouterr().err


def test_some_rows_in_the_order_of_the_table(tmp_path):
    given = ["experiment=smoke", "env=toy"]
    only = "famo, NashMTL (every 50),PCGRAD"
    runs = list_runs("variants=table3", ["0", "1"], str(tmp_path), given, only)
    assert [run.name for run in runs] == [
        f"{row}/seed_{seed}" for row in ("PCGrad", "NashMTL_every_50", "FAMO") for seed in (0, 1)
    ]
