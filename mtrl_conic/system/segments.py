"""What a checkpoint needs of a memory that is too large to be written anew each time."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Memory(Protocol):
    """The newest rows of an endless stream of transitions, such as a replay.

    Attributes:
        storage: [S, K, capacity, ·].
        total: rows ever added per task.
        origin: the first row that it can hold: 0, unless what came before was lost with a damaged file.
        capacity: rows kept per task.
    """

    storage: Tensor
    total: int
    origin: int
    capacity: int

    def __len__(self) -> int: ...

    @property
    def start(self) -> int:
        """The number of the oldest row that it holds."""

    def restart(self, origin: int) -> None:
        """Be empty, with `origin` as the number of the next row."""

    def read_rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the stream, [S, K, stop - start, ·]; it must still hold them."""

    def write_rows(self, start: int, rows: Tensor) -> None:
        """Put rows [S, K, n, ·] at `start` of the stream; the last `capacity` of them are kept."""

    def state_dict(self) -> dict[str, Any]:
        """All but the rows."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
