"""Checkpoints that survive an interruption at any moment.

`step_<n>.pt` holds everything but the replay; the last two are kept. The replay lies beside them in segments,
each written once: `replay_<first>_<last>.pt` holds those rows of the stream of transitions. A file appears
under its name only when it is whole.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtrl_conic.replay import ReplayBuffer

KEPT = 2


class CheckpointError(RuntimeError):
    """No checkpoint of the run folder can be loaded."""


class RunLocked(RuntimeError):
    """Another process works in the run folder."""


def lock(run_dir: Path) -> int:
    """Take the run folder for this process; the kernel lets go of it however the process ends.

    Raises:
        RunLocked: another process has it.
    """
    descriptor = os.open(run_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise RunLocked(f"{run_dir} is in use by another process") from error
    return descriptor


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made at the first `save`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved_rows: int | None = None  # the replay's rows below this number are in segments

    def save(self, step: int, state: dict[str, Any], replay: ReplayBuffer) -> None:
        """Write the state at `step` and the replay's new rows; drop what the last two do not need."""
        self.folder.mkdir(exist_ok=True)
        start = max(self._saved_rows or 0, replay.total - replay.capacity)
        if start < replay.total:
            rows = replay.read_rows(start, replay.total).cpu()
            write_file(self.folder / f"replay_{start}_{replay.total}.pt", {"rows": rows})
        self._saved_rows = replay.total
        state = {**state, "step": step, "replay": replay.state_dict(), "capacity": replay.capacity}
        write_file(self.folder / f"step_{step}.pt", to_plain(state))
        self._prune()

    def load(self, replay: ReplayBuffer) -> tuple[dict[str, Any], list[str]]:
        """The newest checkpoint that can be read, its replay rows put in place.

        Returns:
            The state given to `save`, and a message for each newer checkpoint that is damaged.

        Raises:
            CheckpointError: none can be read.
        """
        messages: list[str] = []
        for step in sorted(self.steps(), reverse=True):
            path = self.folder / f"step_{step}.pt"
            try:
                state = read_file(path)
                self._load_replay(state["replay"], replay)
            except Exception as error:  # whatever is wrong with the file, the one before it may be whole
                messages.append(f"{path.name} is damaged ({_reason(error)}), going back to the one before it")
                continue
            self._forget_after(step, replay.total)
            return state, messages
        raise CheckpointError(
            f"no usable checkpoint in {self.folder}" + "".join(f"; {message}" for message in messages)
        )

    def steps(self) -> list[int]:
        """The steps of the checkpoints present."""
        found = (re.fullmatch(r"step_(\d+)\.pt", path.name) for path in self.folder.glob("step_*.pt"))
        return [int(match[1]) for match in found if match]

    def _segments(self) -> dict[Path, tuple[int, int]]:
        found = {path: re.fullmatch(r"replay_(\d+)_(\d+)\.pt", path.name) for path in self.folder.glob("replay_*.pt")}
        return {path: (int(match[1]), int(match[2])) for path, match in found.items() if match}

    def _load_replay(self, state: dict[str, Any], replay: ReplayBuffer) -> None:
        total = state["total"]
        needed = max(0, total - replay.capacity)
        for path, (start, stop) in sorted(self._segments().items(), key=lambda item: item[1]):
            if start >= total or stop <= needed:
                continue
            if start > needed or stop > total:
                raise CheckpointError(f"{path.name} does not join rows {needed} to {total}")
            replay.write_rows(start, read_file(path)["rows"].to(replay.storage.device))
            needed = stop
        if needed < total:
            raise CheckpointError(f"replay rows {needed} to {total} are missing")
        replay.load_state_dict(state)
        self._saved_rows = total

    def _forget_after(self, step: int, total: int) -> None:
        """Remove what an interrupted run left beyond the loaded checkpoint."""
        for path, (start, _) in self._segments().items():
            if start >= total:
                path.unlink()
        for later in self.steps():
            if later > step:
                (self.folder / f"step_{later}.pt").unlink()
        for path in self.folder.glob("*.tmp"):
            path.unlink()

    def _prune(self) -> None:
        kept = sorted(self.steps())[-KEPT:]
        for step in self.steps():
            if step not in kept:
                (self.folder / f"step_{step}.pt").unlink()
        oldest = read_file(self.folder / f"step_{kept[0]}.pt")
        for path, (_, stop) in self._segments().items():
            if stop <= oldest["replay"]["total"] - oldest["capacity"]:
                path.unlink()


def write_file(path: Path, content: Any) -> None:
    """Write with `torch.save` so that the file appears whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_file(path: Path) -> Any:
    """Read what `write_file` wrote; no code in the file is run."""
    return torch.load(path, map_location="cpu", weights_only=True)


def to_plain(state: Any) -> Any:
    """Replace numpy arrays, which `weights_only=True` refuses, by tensors."""
    return _map_leaves(state, lambda leaf: torch.from_numpy(leaf.copy()) if isinstance(leaf, np.ndarray) else leaf)


def to_numpy(state: Any) -> Any:
    """Replace tensors by numpy arrays: the inverse of `to_plain` for the states of environments."""
    return _map_leaves(state, lambda leaf: leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf)


def _map_leaves(state: Any, function: Any) -> Any:
    if isinstance(state, dict):
        return {key: _map_leaves(value, function) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_map_leaves(value, function) for value in state)
    return function(state)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
