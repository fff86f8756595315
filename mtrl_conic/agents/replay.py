"""Replay memory of all seeds and tasks, on the device of the updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl_conic.system.streams import SeedStreams


class Batch(NamedTuple):
    """Transitions: observations [S, K, B, O], action [S, K, B, A], reward and terminated [S, K, B]."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor


class ReplayBuffer:
    """A ring of transitions per seed and task.

    A transition is one row of `storage` [S, K, capacity, 2·O + A + 2], so that a batch is one gather and a
    checkpoint's segment one slice. Row number `t` of the endless stream of transitions lies at
    `(t - origin) % capacity`.

    Args:
        seeds: the S seeds; each samples from its own stream.
        num_tasks: K.
        observation_size, action_size: O, A.
        capacity_per_task: rows kept per task.

    Attributes:
        total: rows ever added per task.
        origin: the first row that it can hold: 0, unless what came before was lost with a damaged file.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        num_tasks: int,
        observation_size: int,
        action_size: int,
        capacity_per_task: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.columns = (observation_size, action_size, 1, observation_size, 1)
        self.capacity = capacity_per_task
        self.storage = torch.zeros(len(seeds), num_tasks, capacity_per_task, sum(self.columns), device=device)
        self.streams = SeedStreams(seeds, "replay", device)
        rows = torch.arange(len(seeds) * num_tasks, device=device) * capacity_per_task
        self._first_row = rows.view(len(seeds), num_tasks, 1)
        self.size = torch.zeros((), device=device)  # on the device, where sampling reads it
        self.total = self.origin = 0

    def __len__(self) -> int:
        return min(self.total - self.origin, self.capacity)

    @property
    def start(self) -> int:
        """The number of the oldest row in the ring."""
        return self.total - len(self)

    def restart(self, origin: int) -> None:
        """Be empty, with `origin` as the number of the next row."""
        self.origin = self.total = origin
        self.size.fill_(0)

    def add(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        next_observation: Tensor,
        terminated: Tensor,
    ) -> None:
        """Append N transitions per task: arguments as in `Batch` with N for B."""
        rows = torch.cat((observation, action, reward.unsqueeze(-1), next_observation, terminated.unsqueeze(-1)), -1)
        self.write_rows(self.total, rows.to(self.storage))

    def sample(self, batch_size: int) -> Batch:
        """Draw `batch_size` transitions per seed and task, with replacement."""
        shape = (*self.storage.shape[:2], batch_size)
        uniform = self.streams.uniform_(torch.empty(shape, device=self.storage.device))
        # float32 can round u · size up to size itself
        index = torch.minimum(uniform * self.size, self.size - 1).long() + self._first_row
        rows = self.storage.flatten(0, 2).index_select(0, index.flatten()).view(*shape, -1)
        observation, action, reward, next_observation, terminated = rows.split(self.columns, -1)
        return Batch(observation, action, reward.squeeze(-1), next_observation, terminated.squeeze(-1))

    def read_rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the stream, [S, K, stop - start, ·]; they must still be in the ring."""
        index = (torch.arange(start, stop, device=self.storage.device) - self.origin) % self.capacity
        return self.storage.index_select(2, index)

    def write_rows(self, start: int, rows: Tensor) -> None:
        """Put rows [S, K, n, ·] at `start` of the stream; the ring keeps the last `capacity` of them."""
        stop = start + rows.shape[2]
        rows = rows[:, :, -self.capacity :]
        numbers = torch.arange(stop - rows.shape[2], stop, device=self.storage.device)
        index = (numbers - self.origin) % self.capacity
        self.storage.index_copy_(2, index, rows)
        self.total = stop
        self.size.fill_(len(self))

    def state_dict(self) -> dict[str, Any]:
        """All but the rows."""
        return {"total": self.total, "origin": self.origin, "streams": self.streams.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.origin = state["total"], state.get("origin", 0)
        self.size.fill_(len(self))
        self.streams.load_state_dict(state["streams"])
