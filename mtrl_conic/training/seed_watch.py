"""What a run says of seeds that go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtrl_conic.agents.health import Health
from mtrl_conic.runs.records import HALTED_FILE
from mtrl_conic.training.metrics import Values

HUGE_LOSS = 1e10  # a loss beyond it is hardly meant: returns of 1e4 make critic losses of 1e8


class HaltedSeed(NamedTuple):
    """Where and why a seed stopped learning; `step` counts environment steps per task."""

    step: int
    seed: int
    network: str
    cause: str

    def __str__(self) -> str:
        return f"seed {self.seed} stopped learning at step {self.step}: {self.network}: {self.cause} is not finite"


def read_halted(run_dir: Path) -> list[HaltedSeed]:
    """The seeds of a run that stopped learning; none where the file that says so cannot be read."""
    try:
        return [HaltedSeed(**line) for line in json.loads((run_dir / HALTED_FILE).read_text())]
    except (OSError, ValueError, TypeError):
        return []


class SeedWatch:
    """Remembers which seeds have stopped learning, and which losses were warned of.

    Args:
        health: the agent's.
        seeds, tasks: names of its rows and columns.
        steps_since: how many environment steps per task ago the update so many updates ago was.

    Attributes:
        halted: by seed.
    """

    def __init__(
        self,
        health: Health,
        seeds: Sequence[int],
        tasks: Sequence[str],
        steps_since: Callable[[int], int],
    ) -> None:
        self._health, self._seeds, self._tasks = health, list(seeds), list(tasks)
        self._steps_since = steps_since
        self._warned: set[tuple[str, int]] = set()
        self.halted: dict[int, HaltedSeed] = {}

    def look(self, step: int) -> list[HaltedSeed]:
        """The seeds that stopped learning since the last look, at `step`; waits for the device."""
        new = []
        for row, halt in self._health.halts(self._tasks).items():
            seed = self._seeds[row]
            if seed not in self.halted:
                since = step - self._steps_since(halt.updates)
                self.halted[seed] = HaltedSeed(since, seed, halt.network, halt.cause)
                new.append(self.halted[seed])
        return new

    @property
    def since(self) -> dict[int, int]:
        """The step at which each halted seed stopped."""
        return {seed: halted.step for seed, halted in self.halted.items()}

    def records(self) -> list[dict[str, Any]]:
        """The halted seeds for `halted.json`."""
        return [halted._asdict() for halted in self.halted.values()]

    @property
    def all_halted(self) -> bool:
        """Whether no seed learns any more."""
        return len(self.halted) == len(self._seeds)

    def mask(self, values: Values) -> Values:
        """Values [S, ...] of an update, NaN for the halted seeds, whose updates do not happen."""
        rows = [self._seeds.index(seed) for seed in self.halted]
        masked = {key: value.copy() for key, value in values.items()}
        for value in masked.values():
            value[rows] = np.nan
        return masked

    def huge_losses(self, values: Mapping[str, np.ndarray]) -> Iterator[str]:
        """A line for each seed and network whose loss [S, K] is beyond `HUGE_LOSS` for the first time."""
        for key, value in values.items():
            if not key.startswith("loss/"):
                continue
            for row, column in np.argwhere(np.abs(value) > HUGE_LOSS):
                seed, network = self._seeds[row], key.removeprefix("loss/")
                if (key, seed) not in self._warned:
                    self._warned.add((key, seed))
                    task = self._tasks[column]
                    yield f"the {network}'s loss of seed {seed}, {task}, is {value[row, column]:.3g}: does it diverge?"
