"""A full or failing disk: one line that says what to do, nothing lost, and the same records in the end."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from conftest import TOY, command, environment, records

from mtrl_conic.evaluate import main as evaluate
from mtrl_conic.report.__main__ import main as report
from mtrl_conic.runs.checkpoint import Checkpoints
from mtrl_conic.runs.files import GrowingFile, WriteError, write_whole
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.training.session import resume, train

PACKAGE = Path(__file__).resolve().parent.parent / "mtrl_conic"
ARGUMENTS = [*TOY, "combiner=conicgrad", "seeds=[3,5]", "steps_per_task=200"]
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
LEVELS = range(5)


class NeverStopped:
    """Stands for `session.Signals`, without handlers."""

    received = None

    def __call__(self) -> bool:
        return False


class Disk:
    """Calls that write below a folder, counted; from one of them on all fail, the first after half its bytes."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder, self.calls = str(folder), 0
        self.last, self.error = 1 << 60, errno.ENOSPC
        self._write, self._fsync = os.write, os.fsync
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fill_after(self, calls: int, error: int = errno.ENOSPC) -> None:
        self.calls, self.last, self.error = 0, calls, error

    def write(self, descriptor: int, data) -> int:
        if self._is_ours(descriptor):
            self.calls += 1
            if self.calls == self.last and len(data) > 1:
                return self._write(descriptor, memoryview(data)[: len(data) // 2])
            self._check()
        return self._write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        if self._is_ours(descriptor):
            self.calls += 1
            self._check()
        self._fsync(descriptor)

    def _is_ours(self, descriptor: int) -> bool:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith(self.folder)

    def _check(self) -> None:
        if self.calls >= self.last:
            raise OSError(self.error, os.strerror(self.error))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run, and how many calls it took."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(run, patch)
        assert train(compose_config([*ARGUMENTS, f"run_dir={run}"]), False, NeverStopped()) == 0
    return run, disk.calls


def problem(capsys) -> str:
    """The one line that was written to standard error."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("level", LEVELS)
def test_a_run_on_a_disk_that_fills_up(whole, tmp_path, monkeypatch, capsys, level):
    undisturbed, calls = whole
    run = tmp_path / "run"
    disk = Disk(tmp_path, monkeypatch)
    disk.fill_after(1 + level * (calls - 1) // (len(LEVELS) - 1), ERRORS[level % len(ERRORS)])
    assert train(compose_config([*ARGUMENTS, f"run_dir={run}"]), False, NeverStopped()) == 1
    line = problem(capsys)
    pattern = r"error: (\S+) cannot be written: ([^;]+); (?:it needs [\d.]+ k?B, )?[\d.]+ [kMG]?B are free there; (.+)"
    path, reason, way_on = re.fullmatch(pattern, line).groups()
    assert Path(path).is_relative_to(run)
    assert reason == os.strerror(disk.error)
    assert not [each for each in tmp_path.rglob("*") if each.name.endswith(".tmp")]
    disk.fill_after(1 << 60)
    if not run.exists():  # not even its settings had room
        assert way_on == "nothing was begun: make room, and start again"
        assert train(compose_config([*ARGUMENTS, f"run_dir={run}"]), False, NeverStopped()) == 0
    else:
        newest = max(Checkpoints(run / "checkpoints").steps(), default=0)
        assert way_on == f"make room, and resume={run} goes on from step {newest}"
        assert resume(resume_config(str(run), []), NeverStopped()) == 0
    assert capsys.readouterr().err == ""
    for name in ("evaluations", "metrics"):
        assert records(run, name) == records(undisturbed, name)


def test_the_command_on_a_file_that_may_not_grow(tmp_path):
    """A limit of the kernel's own, which no stand-in has to imitate."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # noqa: E731
    process = subprocess.run(
        command(*ARGUMENTS, "run_dir=run"),
        cwd=tmp_path,
        env=environment(),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == 1, process.stderr
    (line,) = process.stderr.splitlines()
    assert "step_0.pt cannot be written: File too large; it needs" in line
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_full_disk_when_it_is_resumed(whole, tmp_path, monkeypatch, capsys):
    """Settings, records and checkpoints of before stay as they are."""
    run = tmp_path / "run"
    disk = Disk(tmp_path, monkeypatch)
    assert train(compose_config([*ARGUMENTS, f"run_dir={run}"]), False, NeverStopped()) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".json"}
    for calls in (1, 3, 5, 7):
        disk.fill_after(calls)
        assert resume(resume_config(str(run), ["steps_per_task=300"]), NeverStopped()) == 1
        assert f"resume={run} goes on from step 200" in problem(capsys)
        now = {path: path.read_bytes() for path in before if path.exists()}
        assert {path for path in before if now.get(path) != before[path]} <= {run / "config.yaml"}


OTHERS: dict[str, Callable[[Path, Path], int]] = {
    "evaluate": lambda run, out: evaluate([f"run={run}", "episodes=1", f"out={out / 'x.json'}"]),
    "report": lambda run, out: report([f"runs={run}", f"out={out}"]),
}


@pytest.mark.parametrize("calls", [1, 8, 25])
@pytest.mark.parametrize("name", OTHERS)
def test_the_other_commands(whole, tmp_path, monkeypatch, capsys, name, calls):
    disk = Disk(tmp_path, monkeypatch)
    assert OTHERS[name](whole[0], tmp_path) == 0
    needed, before = disk.calls, {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    disk.fill_after(min(calls, needed))
    assert OTHERS[name](whole[0], tmp_path) == 1
    assert re.match(rf"error: {tmp_path}/.+ cannot be written: No space left on device; ", problem(capsys))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    ended = [after[path].rstrip()[-7:] for path in after if path.suffix in (".json", ".html")]
    assert ended
    assert all(end == b"</html>" or end.endswith(b"}") for end in ended)


def test_the_toy_problem(tmp_path, monkeypatch, capsys):
    from mtrl_conic.toy.__main__ import main

    disk = Disk(tmp_path, monkeypatch)
    for calls in (1, 3, 5, 7):  # the pictures, then the table
        disk.fill_after(calls)
        arguments = ["combiners=ls", "steps=20", f"out={tmp_path}", f"json={tmp_path / 'x.json'}"]
        assert main(arguments) == 1
        assert f"error: {tmp_path}/" in problem(capsys)


@pytest.mark.slow
def test_a_gif_and_a_video(whole, tmp_path):
    """Their process is another one: it inherits the kernel's limit."""
    for kind in ("gif", "mp4"):
        folder = tmp_path / kind
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))  # noqa: E731
        arguments = [f"run={whole[0]}", "episodes=1", "video=true", f"video_format={kind}", f"video_dir={folder}"]
        process = subprocess.run(
            [sys.executable, "-m", "mtrl_conic.evaluate", *arguments, f"out={tmp_path / 'x.json'}"],
            env=environment(),
            preexec_fn=limit,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert process.returncode == 1, process.stderr
        (line,) = process.stderr.splitlines()
        assert f"{kind} cannot be written" in line
        assert list(folder.iterdir()) == []
        assert json.loads((tmp_path / "x.json").read_text())["seeds"] == [3, 5]  # the numbers are not lost


@pytest.mark.slow
def test_a_sweep_whose_log_cannot_be_written(tmp_path):
    """The run fails, and those that can go on."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "ls").write_text("in the way of a folder")
    arguments = ["ls uw", "0", "s", "jobs=2", *TOY, "steps_per_task=100"]
    process = warm.run([sys.executable, "-m", "mtrl_conic.sweep", *arguments], cwd=tmp_path, timeout=100)
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    assert "note: no s/ls/seed_0.log (" in process.stderr
    assert "failed: ls/seed_0: exit status 2" in process.stderr
    assert records(tmp_path / "s" / "uw" / "seed_0")[-1]["step"] == 100


def test_a_piece_that_has_no_room_is_not_there_in_part(tmp_path, monkeypatch):
    disk = Disk(tmp_path, monkeypatch)
    file = GrowingFile(tmp_path / "x")
    file.write(b"first\n")
    file.flush()
    file.write(b"second\n")
    disk.fill_after(1)
    with pytest.raises(WriteError, match="it needs 7 B"):
        file.flush()
    assert (tmp_path / "x").read_bytes() == b"first\n"
    disk.fill_after(1 << 60)
    file.write(b"third\n")
    file.close()  # what has failed once is not tried again on the way out
    assert (tmp_path / "x").read_bytes() == b"first\n"


def test_what_is_there_stays_until_its_successor_is_whole(tmp_path, monkeypatch):
    write_whole(tmp_path / "x", "before")
    disk = Disk(tmp_path, monkeypatch)
    for calls in (1, 2):  # the content, then its way to the disk
        disk.fill_after(calls)
        with pytest.raises(WriteError, match=r"x cannot be written: No space left on device; it needs 5 B"):
            write_whole(tmp_path / "x", "after")
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "before"}


def test_one_module_writes_all_files():
    """Another way to write would have errors of its own."""
    pictures, files = r"savefig\(|print_(?:svg|png)|SummaryWriter", r"\.write_text\(|\.write_bytes\("
    other_ways = re.compile(rf"{pictures}|{files}|open\([^)]*[\"'][wax]b?\+?[\"']")
    found = {
        (str(path.relative_to(PACKAGE)), line.strip())
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if other_ways.search(line) and path.name != "files.py"
    }
    assert found == {("system/console.py", 'return open(os.devnull, "w")')}  # where nobody reads
