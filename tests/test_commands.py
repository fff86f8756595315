"""`mtrl-conic`, the one name of all commands, and what each of them does before any work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TOY, environment

import mtrl_conic.__main__
from mtrl_conic.__main__ import _MODULES, main
from mtrl_conic.system import console
from mtrl_conic.system.provenance import command

HELP = """
import sys
from mtrl_conic.__main__ import main
for arguments in [[], ["--help"], ["--version"], ["tran"], *([name, "--help"] for name in sys.argv[1:])]:
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == (0 if {"--help", "--version"} & set(arguments) else 2), arguments
    assert "torch" not in sys.modules, arguments
"""


def test_help_does_not_wait_for_torch(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", HELP, *_MODULES], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    for name in _MODULES:
        assert f"usage: python -m mtrl_conic.{name}" in process.stdout.replace(
            "sweep_seeds.sh", "python -m mtrl_conic.sweep"
        )
    assert f"mtrl_conic {mtrl_conic.__version__}\n" in process.stdout
    assert "error: tran: no such command (did you mean train?)\n" in process.stderr
    assert not list(tmp_path.iterdir())


def test_a_command_gets_its_arguments_and_gives_its_status(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "env=toi"]) == 2
    assert "env=toi" in capsys.readouterr().err
    assert main(["report", "runs=nowhere", "out=x"]) == 2
    assert "runs=nowhere" in capsys.readouterr().err


def test_the_script_finds_classes_where_it_is_started(tmp_path, monkeypatch, capsys):
    (tmp_path / "a_method_of_ones_own.py").write_text("from mtrl_conic.combiners.ls import LS as Own\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(console, "run", lambda main, printed: main())
    arguments = ["train", "--cfg", *TOY, "combiner=ls", "combiner._target_=a_method_of_ones_own.Own"]
    monkeypatch.setattr(sys, "argv", ["mtrl-conic", *arguments])
    assert mtrl_conic.__main__.command() == 0
    assert "a_method_of_ones_own.Own" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["/opt/venv/bin/mtrl-conic", Path(mtrl_conic.__file__).parent / "__main__.py"])
def test_provenance_has_a_line_to_paste(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(script), "train", "env=toy", "run_dir=a b"])
    assert command() == "python -m mtrl_conic train env=toy 'run_dir=a b'"


def test_cfg_prints_the_settings_and_stops(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--cfg", *TOY, "combiner=cagrad", "combiner.c=0.3"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["combiner"]["c"] == 0.3
    assert settings["choices"]["env"] == "toy"
    assert main(["train", "--cfg", "combiner.c=7"]) == 2
    assert main(["train", "--cfg", "--multirun", "combiner=ls,pcgrad"]) == 2
    assert not list(tmp_path.iterdir())
