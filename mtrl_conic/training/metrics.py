"""What the training log is made of."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl_conic.envs.vector import VectorStep

Values = dict[str, NDArray[np.float64]]


def to_values(metrics: Mapping[str, Tensor]) -> Values:
    """Metrics of an update, [S] or [S, K] each, copied to the host: the next update writes into some of the tensors."""
    return {key: value.detach().to("cpu", torch.float64, copy=True).numpy() for key, value in metrics.items()}


class EpisodeStatistics:
    """Mean return and success rate of the training episodes that ended since the last line, per seed and task."""

    def __init__(self, num_seeds: int, num_tasks: int) -> None:
        self._sums = {name: np.zeros((num_seeds, num_tasks)) for name in ("return", "success", "count")}

    def add(self, step: VectorStep) -> None:
        ended = step.terminated | step.truncated
        if not ended.any():
            return
        self._sums["return"] += np.where(ended, step.episode_return, 0).sum(2)
        self._sums["success"] += (ended & step.success).sum(2)
        self._sums["count"] += ended.sum(2)

    def take(self) -> Values:
        """The means [S, K], NaN where no episode ended; counting starts anew."""
        count = self._sums["count"]
        means = {
            f"train/{name}": np.divide(self._sums[name], count, out=np.full(count.shape, np.nan), where=count > 0)
            for name in ("return", "success")
        }
        for value in self._sums.values():
            value[...] = 0
        return means

    def state_dict(self) -> dict[str, Any]:
        return {name: torch.from_numpy(value.copy()) for name, value in self._sums.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in self._sums.items():
            value[...] = state[name]


class Stopwatch:
    """Seconds spent in named parts of the loop since the last line."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(("env", "update", "eval"), 0.0)
        self._since = time.perf_counter()
        self._step: int | None = None

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - start

    def take(self, step: int, num_seeds: int) -> Values:
        """`time/<part>` in seconds and steps per task and second, the same for all seeds; timing starts anew."""
        now = time.perf_counter()
        values = {f"time/{part}": np.full(num_seeds, seconds) for part, seconds in self._seconds.items()}
        if self._step is not None:
            speed = (step - self._step) / (now - self._since)
            values["throughput/steps_per_second"] = np.full(num_seeds, speed)
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self._since, self._step = now, step
        return values
