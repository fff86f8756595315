"""The memory of an on-policy agent: the last few steps of every environment, in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.system.streams import SeedStreams

_FIELDS = ("observation", "next_observation", "action", "log_prob", "reward", "terminated", "ended")


class Rollout:
    """T steps of S seeds, K tasks and N environments per task.

    Args:
        shape: S, K, N.
        length: T.
        observation_size, action_size: O, A.

    Attributes:
        observation, next_observation: [S, K, T, N, O].
        action: [S, K, T, N, A], as drawn.
        log_prob, reward, terminated, ended: [S, K, T, N].
        filled: steps in it, from 0 to T.
    """

    observation: Tensor
    next_observation: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    terminated: Tensor
    ended: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        length: int,
        observation_size: int,
        action_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        num_seeds, num_tasks, num_envs = shape
        sizes: dict[str, tuple[int, ...]] = dict.fromkeys(_FIELDS, ())
        sizes |= {"observation": (observation_size,), "next_observation": (observation_size,), "action": (action_size,)}
        for name, size in sizes.items():
            empty = torch.zeros(num_seeds, num_tasks, length, num_envs, *size, device=device, dtype=dtype)
            setattr(self, name, empty)
        self.length, self.filled = length, 0

    @property
    def full(self) -> bool:
        return self.filled == self.length

    def add(self, **step: Tensor) -> None:
        """Append a step: each of the fields, without the axis of time."""
        for name in _FIELDS:
            getattr(self, name)[:, :, self.filled] = step[name]
        self.filled += 1

    def restart(self) -> None:
        """Be empty."""
        self.filled = 0

    def state_dict(self) -> dict[str, Any]:
        return {"filled": self.filled} | {name: getattr(self, name) for name in _FIELDS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _FIELDS:
            getattr(self, name).copy_(state[name])
        self.filled = state["filled"]


class Minibatches:
    """The rows of a rollout in a random order per seed, task and pass; each minibatch has as many of every task.

    Args:
        cells: S, K.
        count: rows per seed and task, which `minibatches` divides.
        columns: sizes of the fields of a row.
        epochs: passes over the rows.
        minibatches: parts of a pass.
        streams: draw the orders.
    """

    def __init__(
        self,
        cells: tuple[int, int],
        count: int,
        columns: Sequence[int],
        epochs: int,
        minibatches: int,
        streams: SeedStreams,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._columns, self._streams = list(columns), streams
        self._rows = torch.zeros(*cells, count, sum(columns), device=device, dtype=dtype)
        order = (epochs, minibatches, *cells, count // minibatches)
        self._order = torch.zeros(order, dtype=torch.int64, device=device)  # numbers of rows, counted through all cells
        self._first = torch.arange(0, math.prod(cells) * count, count, device=device).view(*cells, 1)  # of each cell
        self._next = torch.zeros(1, dtype=torch.int64, device=device)  # on the device, where `take` reads it
        self._draws = torch.zeros(*cells, count, dtype=torch.float64, device=device)

    def fill(self, *fields: Tensor) -> None:
        """Take fields [S, K, count, ·] and draw the orders anew."""
        torch.cat(fields, -1, out=self._rows)
        minibatches = self._order.shape[1]
        for epoch in self._order:
            order = self._streams.uniform_(self._draws).argsort(-1) + self._first
            epoch.copy_(order.unflatten(-1, (minibatches, -1)).permute(2, 0, 1, 3))
        self._next.zero_()

    def take(self) -> tuple[Tensor, ...]:
        """The fields [S, K, B, ·] of the next minibatch."""
        index = self._order.flatten(0, 1).index_select(0, self._next)[0]
        self._next.add_(1)
        rows = self._rows.flatten(0, 2).index_select(0, index.flatten()).unflatten(0, index.shape)
        return rows.split(self._columns, -1)
