"""The records of a run: JSON lines, the only input of reports, and TensorBoard."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard.summary import custom_scalars

from mtrl_conic.envs.evaluation import Evaluation
from mtrl_conic.runs.event_files import EventFile
from mtrl_conic.runs.files import GrowingFile, write_whole
from mtrl_conic.runs.wandb_logging import WandbWriter, check_access
from mtrl_conic.settings.errors import ConfigError

HALTED_FILE = "halted.json"  # which seeds of a run learn no more, and why; absent while all do


def check_logger(logger: str | None) -> None:
    """See that the logger can be used, before anything starts.

    Raises:
        ConfigError: it cannot.
    """
    if logger == "wandb":
        try:
            check_access()
        except RuntimeError as error:
            raise ConfigError(f"logger=wandb: {error}") from error


class Records:
    """A file of JSON lines, each with a "step".

    Args:
        path: the file; made when absent.
        last_step: lines beyond it, and lines cut short, are removed first: an interrupted run left them.

    Raises:
        WriteError: here and in `flush` and `close`, the disk does not take them.
    """

    def __init__(self, path: Path, last_step: int = -1) -> None:
        lines = [line for line in read_records(path) if line["step"] <= last_step] if path.exists() else []
        write_whole(path, "".join(map(_text, lines)))
        self._file = GrowingFile(path)

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(_text(line).encode())

    def flush(self) -> None:
        """Have all lines on the disk."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line) + "\n"


def read_records(path: Path) -> list[dict[str, Any]]:
    """The lines of a record file; one that was cut short or damaged is left out."""
    lines = []
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class Board(Protocol):
    """What else shows the values as they come."""

    def add(self, step: int, values: Mapping[str, NDArray[np.float64]]) -> None:
        """Take values [S] each; NaN stands for "nothing to report"."""

    def flush(self) -> None:
        """Have everything on the disk or on its way."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files: a folder per seed, and `mean` where all seeds have a value.

    Args:
        folder: made when absent.
        seeds: the S seeds.
        tasks: the K task names.
        networks: the names of those that have a combiner.
        last_step: events beyond it are hidden; -1 in a new run.
    """

    def __init__(
        self, folder: Path, seeds: Sequence[int], tasks: Sequence[str], networks: Sequence[str], last_step: int
    ) -> None:
        purge = last_step + 1 if last_step >= 0 else None
        self._seeds = [EventFile(folder / f"seed_{seed}", purge) for seed in seeds]
        self._mean = EventFile(folder / "mean", purge)
        self._pushed = time.monotonic()
        if last_step < 0:
            self._mean.add(custom_scalars(_overview(tasks, networks)))

    def add(self, step: int, values: Mapping[str, NDArray[np.float64]]) -> None:
        for key, value in values.items():
            for row, board in enumerate(self._seeds):
                if np.isfinite(value[row]):
                    board.add_scalar(key, float(value[row]), step)
            if np.isfinite(value).all():
                self._mean.add_scalar(key, float(value.mean()), step)
        if time.monotonic() - self._pushed > _PUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        for board in (*self._seeds, self._mean):
            board.push()
        self._pushed = time.monotonic()

    def close(self) -> None:
        with ExitStack() as stack:
            for board in (*self._seeds, self._mean):
                stack.callback(board.close)


_PUSH_SECONDS = 30  # how old values may be that TensorBoard shows


def _overview(tasks: Sequence[str], networks: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """The tab "Custom Scalars": what matters on one page, a chart per task, the seeds and their mean in each."""

    def chart(key: str) -> list[Any]:
        return ["Multiline", [re.escape(key) + "$"]]

    single = {"cosine": "cosine with the mean gradient", "conflict": "share of conflicting pairs"}
    return {
        "success rate": {
            "mean over tasks": chart("eval/success_rate"),
            **{task: chart(f"eval/success_rate/{task}") for task in tasks},
        },
        "combiner": {
            f"{network}: {title}": chart(f"combiner/{network}/{key}")
            for key, title in single.items()
            for network in networks
        },
        **{
            f"weight of each task's {network} gradient": {
                task: chart(f"combiner/{network}/weight/{task}") for task in tasks
            }
            for network in networks
        },
    }


class RunLogger:
    """Writes the evaluations and training metrics of S seeds: the two record files, TensorBoard and `logger`.

    Args:
        run_dir: the run folder.
        seeds: the S seeds.
        tasks: the K task names.
        networks: the names of those that have a combiner, for TensorBoard's overview.
        last_step: records beyond this step are removed first; -1 in a new run.
        last_evaluation: the same for evaluations, which at `last_step` itself may be still to come.
        logger: "wandb" or None.
    """

    def __init__(
        self,
        run_dir: Path,
        seeds: Sequence[int],
        tasks: Sequence[str],
        networks: Sequence[str] = (),
        last_step: int = -1,
        last_evaluation: int | None = None,
        logger: str | None = None,
    ) -> None:
        self.seeds, self.tasks = list(seeds), list(tasks)
        self._halted = run_dir / HALTED_FILE
        self._halted.unlink(missing_ok=True)  # written anew where the checkpoint holds halted seeds
        last_evaluation = last_step if last_evaluation is None else min(last_step, last_evaluation)
        self.evaluations = Records(run_dir / "evaluations.jsonl", last_evaluation)
        self.training = Records(run_dir / "metrics.jsonl", last_step)
        self._boards: list[Board] = [TensorBoard(run_dir / "tensorboard", seeds, tasks, networks, last_step)]
        if logger == "wandb":
            self._boards.append(WandbWriter(run_dir, seeds))

    def evaluation(
        self, step: int, result: Evaluation, wall_seconds: float, halted: Mapping[int, int] | None = None
    ) -> None:
        """Record an evaluation: a line per seed.

        Args:
            halted: seeds that learn no more, and since which step; their lines say so and no board shows them.
        """
        halted = halted or {}
        for line in result.lines(step, self.seeds, self.tasks):
            line["wall_seconds"] = round(wall_seconds, 3)
            if line["seed"] in halted:
                line["halted"] = halted[line["seed"]]
            self.evaluations.write(line)
        learning = np.array([seed not in halted for seed in self.seeds])
        values = {"eval/success_rate": np.where(learning, result.success_rate.mean(1), np.nan)}
        for column, task in enumerate(self.tasks):
            values[f"eval/success_rate/{task}"] = np.where(learning, result.success_rate[:, column], np.nan)
            values[f"eval/return/{task}"] = np.where(learning, result.episode_return[:, column], np.nan)
        self._to_boards(step, values)
        self.flush()

    def metrics(self, step: int, values: Mapping[str, NDArray[np.float64]]) -> None:
        """Record training metrics, each [S] or, one per task, [S, K]; NaN stands for "nothing to report"."""
        flat: dict[str, NDArray[np.float64]] = {}
        for key, value in values.items():
            if value.ndim == 1:
                flat[key] = value
            else:
                flat |= {f"{key}/{task}": value[:, column] for column, task in enumerate(self.tasks)}
        for row, seed in enumerate(self.seeds):
            line = {key: float(value[row]) for key, value in flat.items() if np.isfinite(value[row])}
            self.training.write({"step": step, "seed": seed, **line})
        self._to_boards(step, flat)

    def halted(self, seeds: Sequence[Mapping[str, Any]]) -> None:
        """Write down which seeds learn no more and why, in place of what was there."""
        write_whole(self._halted, json.dumps(list(seeds), indent=2) + "\n")

    def _to_boards(self, step: int, values: Mapping[str, NDArray[np.float64]]) -> None:
        for board in self._boards:
            board.add(step, values)

    def flush(self) -> None:
        """Have everything on the disk."""
        for records in (self.evaluations, self.training):
            records.flush()
        for board in self._boards:
            board.flush()

    def close(self) -> None:
        with ExitStack() as stack:  # all of them, whatever one raises
            closing = [each.close for each in (self.evaluations, self.training)]
            for close in [*closing, *(board.close for board in self._boards)]:
                stack.callback(close)
            self.flush()
