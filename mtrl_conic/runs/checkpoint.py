"""Checkpoints that survive an interruption at any moment.

`step_<n>.pt` holds everything but the replay; the last two are kept, and the last healthy one. The replay lies
beside them in segments, each written once: `replay_<first>_<last>.pt` holds those rows of the stream of
transitions. A file appears under its name only when it is whole, and is believed only when its digest is right.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mtrl_conic.runs.files import WriteError
from mtrl_conic.runs.sealed import DamagedError, is_sealed, read_file, write_file
from mtrl_conic.system.segments import Memory

KEPT = 2
PARTIAL = "replay=partial"  # on the command line, with resume=RUN_DIR
UNSEALED = "was written by an earlier version, without a digest: damage to it may go unnoticed"


class CheckpointError(RuntimeError):
    """No checkpoint of the run folder can be loaded."""


class Start(NamedTuple):
    """Where a run goes on from: arguments of `Checkpoints.load`."""

    step: int | None = None
    partial: bool = False


NEWEST = Start()


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

    def save(self, step: int, state: dict[str, Any], replay: Memory | None, healthy: bool = True) -> None:
        """Write the state at `step` and the replay's new rows; drop what no kept checkpoint needs.

        Args:
            step: environment steps per task.
            state: everything but the replay.
            replay: its rows that no segment holds yet are written; None where the state has everything.
            healthy: the run can go on from here; the last such checkpoint outlives any number of others.

        Raises:
            WriteError: the disk does not take it; the checkpoints that there are stay.
        """
        state = {**state, "step": step, "healthy": healthy}
        segment = None
        if replay is not None:
            state |= {"replay": replay.state_dict(), "capacity": replay.capacity}
            segment = self._save_rows(replay)
        try:
            write_file(self.folder / f"step_{step}.pt", to_plain(state))
        except WriteError:
            if segment is not None:
                segment.unlink(missing_ok=True)  # of use to no checkpoint, and somebody needs the room
            raise
        self._saved_rows = None if replay is None else replay.total
        self._facts[step] = _facts(state)
        self._prune()

    def _save_rows(self, replay: Memory) -> Path:
        """Write the rows that no segment holds yet."""
        start = max(self._saved_rows or 0, replay.start)
        segment = self.folder / f"replay_{start}_{replay.total}.pt"
        if start < replay.total:
            write_file(segment, {"rows": replay.read_rows(start, replay.total).cpu()})
        return segment

    def load(
        self, replay: Memory | None, step: int | None = None, partial: bool = False
    ) -> tuple[dict[str, Any], list[str]]:
        """The newest checkpoint that is whole, its replay rows put in place; later ones are forgotten.

        Args:
            replay: where the rows go; None where the state has everything.
            step: load the checkpoint of exactly this step, and no other.
            partial: where none is whole, take the newest whose state is, with those of its newest rows that are.

        Returns:
            The state given to `save`, with its "step" and whether it is "healthy", and what is to be said: which
            newer checkpoints are damaged, which rows are lost.

        Raises:
            CheckpointError: none can be used, or not the one of `step`.
        """
        candidates, messages = self._candidates(step), list[str]()
        for allow_loss in (False, True) if partial else (False,):
            for candidate in candidates:
                try:
                    state, said = self._load(candidate, replay, allow_loss)
                except (CheckpointError, OSError) as error:
                    messages.append(str(error))
                    continue
                self._facts = {candidate: _facts(state)}
                self._forget_after(candidate, self._saved_rows or 0)
                if messages:
                    said.append(f"going {'on without them from' if allow_loss else 'back to'} step {candidate}")
                return state, list(dict.fromkeys([*messages, *said]))
        listed = "".join(f"; {message}" for message in dict.fromkeys(messages))
        raise CheckpointError(f"no usable checkpoint in {self.folder}{listed}{self._offer(replay, candidates)}")

    def _load(self, step: int, replay: Memory | None, allow_loss: bool) -> tuple[dict[str, Any], list[str]]:
        path = self.folder / f"step_{step}.pt"
        try:
            state = read_file(path)
            said = [] if is_sealed(path) else [f"{path.name} {UNSEALED}"]
            lost = [] if replay is None else self._load_replay(state["replay"], replay)
        except DamagedError as error:
            raise CheckpointError(f"{path.name} is damaged ({error})") from error
        except (LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path.name} is not a checkpoint of this program ({error!r})") from error
        if replay is not None and lost:
            total = min(state["replay"]["total"] - state["replay"].get("origin", 0), replay.capacity)
            said.append(f"{path.name} has {len(replay)} of its {total} transitions per task: {'; '.join(lost)}")
            if not allow_loss:
                raise CheckpointError(said[-1])
        return state, said

    def _candidates(self, step: int | None) -> list[int]:
        present = sorted(self.steps(), reverse=True)
        if step is None or step in present:
            return present if step is None else [step]
        listed = ", ".join(map(str, sorted(present))) or "none"
        raise CheckpointError(f"{self.folder} has no checkpoint of step {step}; there are {listed}")

    def _offer(self, replay: Memory | None, candidates: list[int]) -> str:
        """How to go on without the lost part of the replay, where that is all that is lost."""
        for step in candidates if replay is not None else ():
            with suppress(CheckpointError, OSError):
                self._load(step, replay, allow_loss=True)
                assert replay is not None
                return f"; {PARTIAL} goes on from step {step} with {len(replay)} transitions per task"
        return ""

    def steps(self) -> list[int]:
        """The steps of the checkpoints present."""
        found = (re.fullmatch(r"step_(\d+)\.pt", path.name) for path in self.folder.glob("step_*.pt"))
        return [int(match[1]) for match in found if match]

    def last_healthy(self) -> int | None:
        """The step of the last checkpoint that the run can go on from."""
        return max((step for step in self.steps() if (facts := self._read_facts(step)) and facts.healthy), default=None)

    def keep_best(self, step: int) -> bool:
        """Whether `best.pt` is whole and not of a later step; otherwise it is removed, to be written anew."""
        path = self.folder / "best.pt"
        with suppress(DamagedError, OSError, LookupError, TypeError):
            if read_file(path)["step"] <= step:
                return True
        path.unlink(missing_ok=True)
        return False

    def _segments(self) -> dict[Path, tuple[int, int]]:
        found = {path: re.fullmatch(r"replay_(\d+)_(\d+)\.pt", path.name) for path in self.folder.glob("replay_*.pt")}
        return {path: (int(match[1]), int(match[2])) for path, match in found.items() if match}

    def _load_replay(self, state: dict[str, Any], replay: Memory) -> list[str]:
        """Fill the ring with what is whole, up to the newest row without a gap; says what is lost."""
        total, origin = state["total"], state.get("origin", 0)
        needed = max(origin, total - replay.capacity)
        replay.restart(origin)
        lost = []
        for path, (start, stop) in sorted(self._segments().items(), key=lambda item: item[1]):
            if start >= total or stop <= needed:
                continue
            if start > needed:
                lost.append(f"rows {needed} to {start} are missing")
                replay.restart(start)
            try:
                replay.write_rows(start, self._rows(path, start, stop, replay))
            except (DamagedError, OSError) as error:
                lost.append(f"{path.name} is damaged ({error})")
                replay.restart(min(stop, total))
            needed = stop
        if needed < total:
            lost.append(f"rows {needed} to {total} are missing")
            replay.restart(total)
        replay.load_state_dict({**state, "origin": replay.origin})
        self._saved_rows = total
        return lost

    @staticmethod
    def _rows(path: Path, start: int, stop: int, replay: Memory) -> torch.Tensor:
        rows, (seeds, tasks, _, columns) = read_file(path)["rows"], replay.storage.shape
        if rows.shape != (seeds, tasks, stop - start, columns):
            raise DamagedError("its rows are of another run")
        return rows.to(replay.storage.device)

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
            except (DamagedError, OSError, LookupError, TypeError):  # nobody can go on from it
                self._facts[step] = None
        return self._facts[step]


def _facts(state: dict[str, Any]) -> _Facts:
    healthy, replay = bool(state.get("healthy", True)), state.get("replay")
    if replay is None:
        return _Facts(healthy, 0, 0)
    start = max(replay.get("origin", 0), replay["total"] - state["capacity"])
    return _Facts(healthy, start, replay["total"])


def to_plain(state: Any) -> Any:
    """Replace numpy's arrays and numbers, which `weights_only=True` refuses, by tensors."""

    def plain(leaf: Any) -> Any:
        return torch.from_numpy(np.array(leaf, order="C")) if isinstance(leaf, np.ndarray | np.generic) else leaf

    return _map_leaves(state, plain)


def to_numpy(state: Any) -> Any:
    """Replace tensors by numpy arrays: the inverse of `to_plain` for the states of environments."""
    return _map_leaves(state, lambda leaf: leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf)


def _map_leaves(state: Any, function: Any) -> Any:
    if isinstance(state, dict):
        return {key: _map_leaves(value, function) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_map_leaves(value, function) for value in state)
    return function(state)
