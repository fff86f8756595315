"""What a run says for itself: what it waits for at its start, what came out and what to do next at its end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mtrl_conic.runs.records import read_records
from mtrl_conic.runs.sealed import read_file
from mtrl_conic.runs.table import success_table
from mtrl_conic.settings.schema import TrainConfig


def starting(config: TrainConfig) -> str:
    """What the run is about to spend seconds on."""
    workers, envs = config.workers, config.num_envs
    where = f"in {workers} process{'es' * (workers > 1)}" if workers else "in this process"
    counts = config.make_agent().parameter_counts(config.setting())
    learned = "".join(f"\n{name}: {count:,} parameters per seed" for name, count in counts.items())
    return f"starting: goals are drawn, {envs} environment{'s' * (envs > 1)} built {where} ...{learned}"


def too_short(config: TrainConfig) -> str | None:
    """What a run has to be told that ends before its first update."""
    first = config.make_agent().first_update(config.setting())
    if config.steps_per_task >= first:
        return None
    return f"warning: steps_per_task={config.steps_per_task}: nothing is learnt, an update takes {first} steps at least"


def summary(run_dir: Path) -> str:
    """The last evaluation as a table, where the best weights lie, and commands that go on from here.

    Args:
        run_dir: the folder of a run with an evaluation.
    """
    evaluations = read_records(run_dir / "evaluations.jsonl")
    last = max(line["step"] for line in evaluations)
    lines = [line for line in evaluations if line["step"] == last]
    heading = f"last evaluation: step {last}, {episodes(lines[0]['episodes'])} per task and seed"
    return f"\n{heading}\n{success_table(lines)}\n{_best(run_dir)}{_next(run_dir)}"


def episodes(count: int) -> str:
    """Their number in words."""
    return f"{count} episode{'s' * (count > 1)}"


def _best(run_dir: Path) -> str:
    path = run_dir / "checkpoints" / "best.pt"
    if not path.is_file():
        return ""
    found: dict[str, Any] = read_file(path)
    return f"best weights: {path} (step {found['step']}, success rate {found['success_rate']:.3f})\n"


def _next(run_dir: Path) -> str:
    folder = str(run_dir)
    commands = (
        ["python", "-m", "mtrl_conic.evaluate", f"run={folder}"],
        ["python", "-m", "mtrl_conic.report", f"runs={folder}", f"out={folder}/report"],
        ["tensorboard", "--logdir", f"{folder}/tensorboard"],
    )
    return "next:\n" + "".join(f"  {shlex.join(words)}\n" for words in commands)
