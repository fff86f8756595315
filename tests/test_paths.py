"""Paths of any name, as a shell passes them: one argument, no quotes of Hydra's."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOY, environment, records, run_command

from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.overrides import as_hydra_has_them, parse
from mtrl_conic.settings.paths import expand
from mtrl_conic.train import main

NAMES = [
    "/data/müller/s",
    "proj(1)",
    "a#b",
    "a&b",
    "lr=1,c=2",
    "a space",
    " before and after ",
    "it's",
    'say "so"',
    "'quoted'",
    '"quoted"',
    "back\\slash\\",
    "both\\'",
    "[1]",
    "{a: 1}",
    "a$b",
    "$HOME",
    "a~b",
    "~nobody_of_that_name/x",
    "1e3",
    "0x10",
    "true",
    "-1",
    "a;b|c>d*?!",
    "a:b@c%d",
    "日本",
    "two\nlines",
    "range(3)",
    "a=b",
]
NASTY = 'it\'s a (1) #1 & [x] {y} $z, lr=1~ "q" müller'
RUNS = [*TOY, "steps_per_task=100", "combiner=ls"]


@pytest.fixture(autouse=True)
def _handlers():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_folder_of_any_name(name):
    assert compose_config(["env=toy", f"run_dir={name}"]).run_dir == name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["run_dir", "hydra.sweep.dir", "hydra.sweep.subdir"])
def test_hydra_reads_what_the_shell_passed(key, name):
    (override,) = parse(as_hydra_has_them([f"{key}={name}"]), sweeps=True)
    assert (override.key_or_group, override.value()) == (key, name)


def test_other_settings_are_left_to_hydra():
    arguments = ["seeds=[0,1]", "combiner.c=0.5", "run_dir=null", "resume=x"]
    assert as_hydra_has_them(arguments) == arguments


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand("~/x") == "/home/me/x"
    assert compose_config(["env=toy", "run_dir=~/a b"]).run_dir == "/home/me/a b"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nrun_dir: ~/x\n")
    assert compose_config(["env=toy", "experiment=mine"], [str(tmp_path)]).run_dir == "/home/me/x"


def test_interpolations_stay(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch")
    arguments = ["env=toy", "run_dir=${oc.env:SCRATCH}/${combiner.schedule} 1"]
    assert compose_config(arguments).run_dir == "/scratch/constant 1"


def test_a_name_that_is_no_text():
    with pytest.raises(ConfigError, match="UTF-8"):
        compose_config(["env=toy", "run_dir=\udcff"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of a nasty name with a combiner of the user's own, and a run made from it."""
    place = tmp_path_factory.mktemp("paths") / NASTY
    (place / "my configs" / "combiner").mkdir(parents=True)
    (place / "my configs" / "combiner" / "even.yaml").write_text("_target_: mtrl_conic.combiners.ls.LS\n")
    return place


def test_each_command(place, capsys, monkeypatch):
    from mtrl_conic.evaluate import main as evaluate
    from mtrl_conic.report.__main__ import main as report

    run, configs = place / NASTY, place / "my configs"
    assert main(["--config-dir", str(configs), *RUNS, "combiner=even", f"run_dir={run}"]) == 0
    assert main([f"resume={run}", "steps_per_task=150"]) == 0
    assert [line["step"] for line in records(run)] == [100, 150]
    assert evaluate([f"run={run}", "episodes=1", f"out={place / 'x, y.json'}"]) == 0
    assert "(even)" in capsys.readouterr().out
    assert report([f"runs={run}", f"out={place / 'report'}"]) == 0
    assert f"{place / 'report' / 'index.html'}" in capsys.readouterr().out
    monkeypatch.setenv("HOME", str(place))
    assert report([f"runs=~/{NASTY}", "out=~/another report"]) == 0
    assert (place / "another report" / "index.html").is_file()


def pasted(run: Path, place: Path, moved: Path) -> None:
    """Run the command of the run's provenance in a shell, the run itself out of the way, and compare."""
    command = json.loads((run / "provenance.json").read_text())["pieces"][0]["command"]
    run.rename(moved)
    shell = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}; {command}'
    process = subprocess.run(["bash", "-c", shell], cwd=place, env=environment(), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert records(run, "metrics") == records(moved, "metrics")


def test_the_command_of_the_provenance_runs_when_pasted(place, tmp_path):
    arguments = ["--config-dir", "my configs", *RUNS, "combiner=even", f"run_dir=b {NASTY}"]
    process = run_command(*arguments, cwd=place)
    assert process.returncode == 0
    pasted(place / f"b {NASTY}", place, tmp_path / "before")


@pytest.mark.slow
def test_a_sweep_of_hydras(place, tmp_path, monkeypatch, capsys):
    """Two runs, whose folders' commands start each alone; then they are told to be complete."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    sweep = ["-m", "--config-dir", "my configs", *RUNS, "combiner=even", "seeds=[0],[1]"]
    sweep += ["hydra.sweep.dir=~/lr=1,c=2 (x)", "hydra.sweep.subdir=seed #${hydra:job.num}"]
    assert main(sweep) == 0
    runs = [place / "lr=1,c=2 (x)" / f"seed #{number}" for number in (0, 1)]
    assert [records(run)[0]["seed"] for run in runs] == [0, 1]
    capsys.readouterr()
    assert main(sweep) == 0
    assert "2 runs, 2 of them complete" in capsys.readouterr().out
    pasted(runs[1], tmp_path, tmp_path / "before")


def test_a_sweep_folder_out_of_a_yaml_file(place, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (place / "my configs" / "experiment").mkdir()
    text = "# @package _global_\nhydra: {sweep: {dir: ~/my sweep}}\n"
    (place / "my configs" / "experiment" / "mine.yaml").write_text(text)
    assert main(["-m", "--config-dir", str(place / "my configs"), *RUNS, "experiment=mine"]) == 0
    assert records(tmp_path / "my sweep" / "combiner=ls")
    assert os.listdir(tmp_path) == ["my sweep"]


def test_a_sweep_of_ours(place, capsys):
    from mtrl_conic.sweep import main as sweep

    folder = place / "sweep"
    arguments = ["even", "0", str(folder), "--config-dir", str(place / "my configs"), *RUNS[:-1]]
    assert sweep(arguments) == 0
    assert records(folder / "even" / "seed_0")
    assert sweep(arguments) == 0
    assert "1 of them complete" in capsys.readouterr().out


def test_several_folders_of_a_report_whose_names_hold_commas(tmp_path, monkeypatch):
    from mtrl_conic.report.options import find_runs

    names = ["lr=1,c=2", "b", "c=3,lr=1,x", "d[1]"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert [str(run) for run in find_runs(",".join(names), [])] == names
    assert {str(run) for run in find_runs("lr*,d[1]", [])} == {"lr=1,c=2", "d[1]"}
