"""Helpers for tests that run the real command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import warm
from warm import environment  # noqa: F401

# A toy run of a few seconds; one thread, as tests may run beside each other, and in one process, since four workers
# take longer to start than all else. What processes change is tested where they are the subject, with env.workers=N.
TOY = [
    "env=toy",
    "env.workers=0",
    "agent.hidden_sizes=[16]",
    "warmup_steps=60",
    "batch_size_per_task=8",
    "capacity_per_task=150",
    "metrics_every=40",
    "eval.every=100",
    "eval.episodes=1",
    "eval.final_episodes=2",
    "device=cpu",
    "threads=1",
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mtrl_conic.train", *arguments]


def run_command(*arguments: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run `python -m mtrl_conic.train` as a user would."""
    return warm.run(command(*arguments), cwd=cwd, timeout=timeout)


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 100.0) -> None:
    """Until the condition holds, while the process lives."""
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)


def evaluated(run_dir: Path) -> bool:
    """Whether the run has recorded an evaluation."""
    return (run_dir / "evaluations.jsonl").exists() and bool(records(run_dir))


def records(run_dir: Path, name: str = "evaluations") -> list[dict]:
    """The lines of a record file without what depends on the clock."""
    lines = [json.loads(text) for text in (run_dir / f"{name}.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key != "wall_seconds" and not key.startswith(("time/", "thr"))}
        for line in lines
    ]


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests compare bits and share the cores; a run in this process chooses both for itself."""
    import torch

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")


def train_here(*arguments: str, config_dirs: Sequence[str] = ()) -> Path:
    """A run in this process, which is faster than the command; gives its folder."""
    from mtrl_conic.runs.folder import open_run
    from mtrl_conic.settings.compose import compose_config
    from mtrl_conic.training.trainer import Trainer

    config = compose_config(arguments, config_dirs)
    with open_run(config, False) as folder:
        trainer = Trainer(config, folder)
        try:
            assert trainer.run()
        finally:
            trainer.close()
    return folder


@pytest.fixture
def without_numbers(monkeypatch):
    """Lets an agent live on the "meta" device."""
    from meta_device import let_agents_live_there

    let_agents_live_there(monkeypatch)
