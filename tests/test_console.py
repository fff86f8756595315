"""Readers, terminals and disks that go away under what a command prints."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import TOY, command, environment, evaluated, records, train_here, wait_for

from mtrl_conic.runs.checkpoint import Checkpoints, read_file
from mtrl_conic.system import console

RUN = [*TOY, "combiner=ls", "steps_per_task=200", "env.workers=2"]
ENDLESS = [*TOY, "combiner=ls", "steps_per_task=10000000", "env.workers=2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train_here(*RUN, f"run_dir={tmp_path_factory.mktemp('undisturbed') / 'run'}")


def start(arguments: list[str], folder: Path, **streams) -> subprocess.Popen[str]:
    return subprocess.Popen(arguments, cwd=folder, env=environment(), text=True, **streams)


def assert_undisturbed(run: Path, undisturbed: Path) -> None:
    for name in ("evaluations", "metrics"):
        assert records(run, name) == records(undisturbed, name)
    assert Checkpoints(run / "checkpoints").steps() == Checkpoints(undisturbed / "checkpoints").steps()


def test_a_run_whose_reader_has_had_enough_goes_on(undisturbed, tmp_path):
    """`python -m mtrl_conic.train ... 2>&1 | head -1`"""
    arguments = command(*RUN, f"run_dir={tmp_path / 'run'}")
    process = start(arguments, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("run folder:")
    process.stdout.close()
    assert process.wait(timeout=100) == 0
    assert_undisturbed(tmp_path / "run", undisturbed)


def test_a_run_on_a_full_disk_for_what_it_prints_goes_on(undisturbed, tmp_path):
    arguments = command(*RUN, f"run_dir={tmp_path / 'run'}")
    with open("/dev/full", "w") as full:
        process = start(arguments, tmp_path, stdout=full, stderr=subprocess.PIPE)
        _, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    assert error == f"note: standard output could not be written ({os.strerror(errno.ENOSPC)})\n"
    assert_undisturbed(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_run_started_without_any_stream_goes_on(undisturbed, tmp_path):
    """Nothing that the run opens may take the numbers of its standard streams, which its workers write to."""
    arguments = command(*RUN, f"run_dir={tmp_path / 'run'}")
    process = start(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *arguments], tmp_path)
    assert process.wait(timeout=100) == 0
    assert_undisturbed(tmp_path / "run", undisturbed)


def test_a_closed_terminal_leaves_a_checkpoint(tmp_path):
    """As a closed ssh: SIGHUP, and from then on every write to the terminal fails. The workers outlive the signal."""
    run = tmp_path / "run"
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        command(*ENDLESS, f"run_dir={run}"),
        cwd=tmp_path,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        wait_for(lambda: evaluated(run) or drain(ours), process)
    finally:
        os.close(ours)
    assert process.wait(timeout=100) == 128 + signal.SIGHUP
    newest = max(Checkpoints(run / "checkpoints").steps())
    assert read_file(run / "checkpoints" / f"step_{newest}.pt")["envs"] is not None


def drain(descriptor: int) -> None:
    """Read, so that the terminal has room for more."""
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 1 << 16)


PROGRAM = """
import os, sys
from mtrl_conic.system import console

def main():
    os.open("/proc/self/exe", os.O_RDONLY)  # would take the number of a closed stream
    for number in range(20_000):
        print("line", number)
    print("said", file=sys.stderr)
    open("result", "w").write("whole")
    return {status}

sys.exit(console.run(main, printed={printed}))
"""


def run_program(folder: Path, redirection: str, status: int = 0, printed: bool = False, **streams) -> int:
    """The exit status of a program started by a shell with redirections."""
    source = PROGRAM.format(status=status, printed=printed)
    shell = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", source]
    found = start(shell, folder, **streams).wait(timeout=100)
    assert (folder / "result").read_text() == "whole"
    return found


def test_what_is_read_is_read_in_full(tmp_path):
    assert run_program(tmp_path, ">seen 2>said", status=3) == 3
    assert len((tmp_path / "seen").read_text().splitlines()) == 20_000
    assert (tmp_path / "said").read_text() == "said\n"


@pytest.mark.parametrize(
    "redirection", ["2>/dev/null", "2>&1", ">/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", "<&- >&- 2>&-"]
)
def test_what_is_not_read_costs_nothing(redirection, tmp_path):
    """Where the shell does not say otherwise the output goes into a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        assert run_program(tmp_path, redirection, status=3, stdout=write) == 3
    finally:
        os.close(write)


@pytest.mark.parametrize(("redirection", "status"), [(">/dev/full", 1), (">&-", 0)])
def test_a_printed_result_that_found_no_room_is_an_error(redirection, status, tmp_path):
    assert run_program(tmp_path, redirection, printed=True, stderr=subprocess.DEVNULL) == status


def test_an_unbuffered_program(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    with open(os.devnull, "w") as nothing:
        assert run_program(tmp_path, ">/dev/full", status=3, stderr=nothing) == 3


def test_streams_that_something_else_has_put_in_place_stay(capsys):
    ours = sys.stdout
    console.protect()
    assert sys.stdout is ours
