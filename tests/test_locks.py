"""The lock of a run folder, and file systems that have none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOY, environment, records

from mtrl_conic.runs.lock import RunLocked, lock

ABSENT = ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EIO"]
COMMAND = """
import errno, fcntl, os, sys

code = getattr(errno, sys.argv[1])

def flock(descriptor, operation):
    raise OSError(code, os.strerror(code))

fcntl.flock = flock
from mtrl_conic.{module} import main
sys.exit(main(sys.argv[2:]))
"""


def fail_with(monkeypatch, name: str) -> None:
    def flock(descriptor, operation):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr("mtrl_conic.runs.lock.fcntl.flock", flock)


@pytest.mark.parametrize("name", ABSENT)
def test_without_locks_there_is_one_warning(tmp_path, monkeypatch, capsys, name):
    fail_with(monkeypatch, name)
    for _ in range(3):
        os.close(lock(tmp_path))
    warning = capsys.readouterr().err
    assert len(warning.splitlines()) == 1
    for words in ("warning", str(tmp_path), os.strerror(getattr(errno, name))):
        assert words in warning


@pytest.mark.parametrize("name", ["EWOULDBLOCK", "EAGAIN"])
def test_only_a_lock_that_is_taken_is_refused(tmp_path, monkeypatch, name):
    fail_with(monkeypatch, name)
    with pytest.raises(RunLocked, match="in use by another process"):
        lock(tmp_path)


def test_a_second_process_is_refused(tmp_path):
    descriptor = lock(tmp_path)
    try:
        with pytest.raises(RunLocked, match="in use by another process"):
            lock(tmp_path)
    finally:
        os.close(descriptor)
    os.close(lock(tmp_path))


def run(module: str, name: str, *arguments: str, cwd: Path) -> str:
    """What a command on such a file system says on standard error; it must succeed."""
    process = subprocess.run(
        [sys.executable, "-c", COMMAND.format(module=module), name, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    return process.stderr


@pytest.mark.parametrize("name", ["ENOLCK", pytest.param("EIO", marks=pytest.mark.slow)])
def test_a_run_is_started_and_resumed_without_locks(tmp_path, name):
    whole = [*TOY, "combiner=ls", "run_dir=run", "resume=auto"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "provenance.json").write_text("{}")  # killed before its first checkpoint: it is cleared first
    for steps in (100, 200):
        error = run("train", name, *whole, f"steps_per_task={steps}", cwd=tmp_path)
        assert error.count("gives no lock") == 1
    assert [line["step"] for line in records(tmp_path / "run")] == [100, 200]


def test_hydras_sweeps_do_without_locks(tmp_path):
    arguments = ["-m", *TOY, "combiner=ls,uw", "steps_per_task=100", "hydra.sweep.dir=s"]
    assert run("train", "ENOSYS", *arguments, cwd=tmp_path).count("gives no lock") == 2  # one per run folder
    assert len(list(tmp_path.glob("s/*/evaluations.jsonl"))) == 2
