"""Checkpoints that survive an interruption at any moment.

`step_<n>.pt` holds everything but the replay; the last two are kept, and the last healthy one. The replay lies
beside them in segments, each written once: `replay_<first>_<last>.pt` holds those rows of the stream of
transitions. A file appears under its name only when it is whole.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

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


class _Facts(NamedTuple):
    """What pruning must know of a checkpoint."""

    healthy: bool
    start: int  # of the replay's rows that it needs
    stop: int


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made at the first `save`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved_rows: int | None = None  # the replay's rows below this number are in segments
        self._facts: dict[int, _Facts | None] = {}  # by step; None where the file cannot be read

    def save(self, step: int, state: dict[str, Any], replay: ReplayBuffer, healthy: bool = True) -> None:
        """Write the state at `step` and the replay's new rows; drop what no kept checkpoint needs.

        Args:
            step: environment steps per task.
            state: everything but the replay.
            replay: its rows that no segment holds yet are written.
            healthy: the run can go on from here; the last such checkpoint outlives any number of others.
        """
        self.folder.mkdir(exist_ok=True)
        start = max(self._saved_rows or 0, replay.total - replay.capacity)
        if start < replay.total:
            rows = replay.read_rows(start, replay.total).cpu()
            write_file(self.folder / f"replay_{start}_{replay.total}.pt", {"rows": rows})
        self._saved_rows = replay.total
        state = {**state, "step": step, "replay": replay.state_dict(), "capacity": replay.capacity, "healthy": healthy}
        write_file(self.folder / f"step_{step}.pt", to_plain(state))
        self._facts[step] = _facts(state)
        self._prune()

    def load(self, replay: ReplayBuffer, step: int | None = None) -> tuple[dict[str, Any], list[str]]:
        """The newest checkpoint that can be read, its replay rows put in place; later ones are forgotten.

        Args:
            replay: where the rows go.
            step: load the checkpoint of exactly this step, and no other.

        Returns:
            The state given to `save`, with its "step" and whether it is "healthy", and a message for each newer
            checkpoint that is damaged.

        Raises:
            CheckpointError: none can be read, or not the one of `step`.
        """
        messages: list[str] = []
        for candidate in self._candidates(step):
            path = self.folder / f"step_{candidate}.pt"
            try:
                state = read_file(path)
                self._load_replay(state["replay"], replay)
            except Exception as error:  # whatever is wrong with the file, the one before it may be whole
                if step is not None:
                    raise CheckpointError(f"{path} is damaged ({_reason(error)})") from error
                messages.append(f"{path.name} is damaged ({_reason(error)}), going back to the one before it")
                continue
            self._facts = {candidate: _facts(state)}
            self._forget_after(candidate, replay.total)
            return state, messages
        raise CheckpointError(
            f"no usable checkpoint in {self.folder}" + "".join(f"; {message}" for message in messages)
        )

    def _candidates(self, step: int | None) -> list[int]:
        present = sorted(self.steps(), reverse=True)
        if step is None or step in present:
            return present if step is None else [step]
        listed = ", ".join(map(str, sorted(present))) or "none"
        raise CheckpointError(f"{self.folder} has no checkpoint of step {step}; there are {listed}")

    def steps(self) -> list[int]:
        """The steps of the checkpoints present."""
        found = (re.fullmatch(r"step_(\d+)\.pt", path.name) for path in self.folder.glob("step_*.pt"))
        return [int(match[1]) for match in found if match]

    def last_healthy(self) -> int | None:
        """The step of the last checkpoint that the run can go on from."""
        return max((step for step in self.steps() if (facts := self._read_facts(step)) and facts.healthy), default=None)

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
        """Keep the last two that can be read, the last healthy one, and the rows of the replay that they need."""
        found = {step: facts for step in sorted(self.steps()) if (facts := self._read_facts(step)) is not None}
        healthy = [step for step, facts in found.items() if facts.healthy]
        kept = {*list(found)[-KEPT:], *healthy[-1:]}
        for step in self.steps():
            if step not in kept:
                (self.folder / f"step_{step}.pt").unlink()
                self._facts.pop(step, None)
        for path, (start, stop) in self._segments().items():
            if not any(start < found[step].stop and stop > found[step].start for step in kept):
                path.unlink()

    def _read_facts(self, step: int) -> _Facts | None:
        """From the file only where this process has neither written nor read it: it can be large."""
        if step not in self._facts:
            try:
                self._facts[step] = _facts(read_file(self.folder / f"step_{step}.pt"))
            except Exception:  # whatever is wrong with the file, nobody can go on from it
                self._facts[step] = None
        return self._facts[step]


def _facts(state: dict[str, Any]) -> _Facts:
    total = state["replay"]["total"]
    return _Facts(bool(state.get("healthy", True)), max(0, total - state["capacity"]), total)


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
