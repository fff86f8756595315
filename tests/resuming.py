"""Interrupted and resumed runs, for the tests that compare them with uninterrupted ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from conftest import environment, records, run_command

from mtrl_conic.runs.checkpoint import read_file
from mtrl_conic.runs.folder import open_run
from mtrl_conic.settings.compose import CONFIG_DIR
from mtrl_conic.training.trainer import Trainer

COMBINERS = sorted(path.stem for path in (CONFIG_DIR / "combiner").glob("*.yaml"))
# Interrupted at 190: in mid-episode (horizon 50), between evaluations, with the replay's ring already overwritten.
TOTAL, CUT = 240, 190


def assert_same_state(one, other, path="state"):
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            if key != "wall_seconds":
                assert_same_state(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same_state(*pair, f"{path}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


def assert_same_run(one: Path, other: Path, step: int) -> None:
    assert_same_state(*(read_file(run / "checkpoints" / f"step_{step}.pt") for run in (one, other)))
    for name in ("evaluations", "metrics"):
        assert records(one, name) == records(other, name)
    assert_same_state(*(read_file(run / "checkpoints" / "best.pt") for run in (one, other)))


def train(run: Path, *arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    process = run_command(*arguments, f"run_dir={run}", cwd=run.parent, timeout=timeout)
    assert process.returncode == 0, process.stderr
    return process


def resume(run: Path, *arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    process = run_command(f"resume={run}", *arguments, cwd=run.parent, timeout=timeout)
    assert process.returncode == 0, process.stderr
    return process


INTERRUPT = """
import sys
from pathlib import Path
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.runs.folder import open_run
from mtrl_conic.training.trainer import Trainer

cut, run, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
with open_run(compose_config([*arguments, f"run_dir={run}"]), resume=False) as folder:
    trainer = Trainer(compose_config([*arguments, f"run_dir={run}"]), folder)
    assert not trainer.run(lambda: trainer.step >= cut)
    trainer.close()
"""


def interrupted_at(cut: int, run: Path, *arguments: str) -> None:
    """A run that is asked to stop at an exact step."""
    subprocess.run(
        [sys.executable, "-c", INTERRUPT, str(cut), str(run), *arguments],
        cwd=run.parent,
        env=environment(),
        check=True,
        timeout=200,
    )
    assert read_file(max((run / "checkpoints").glob("step_*.pt"), key=lambda path: path.stat().st_mtime))["step"] == cut


def run_here(config, stop: int | None = None, resume: bool = False) -> None:
    """A run in this process, which is faster than the command."""
    with open_run(config, resume) as folder:
        trainer = Trainer(config, folder, resume)
        try:
            assert trainer.run(lambda: stop is not None and trainer.step >= stop) == (stop is None)
        finally:
            trainer.close()
