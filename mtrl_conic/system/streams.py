"""Random streams: one per seed and purpose."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor


class SeedStreams:
    """One random stream per seed, so that a seed draws the same numbers alone and among others.

    Args:
        seeds: the S seeds.
        purpose: a name; streams of one seed with different purposes are independent.
        device: where the numbers are drawn.
    """

    _all: ClassVar[weakref.WeakSet[SeedStreams]] = weakref.WeakSet()

    def __init__(self, seeds: Sequence[int], purpose: str, device: torch.device | str = "cpu") -> None:
        self._all.add(self)
        self.generators = [
            torch.Generator(device).manual_seed(_mix(seed, zlib.crc32(purpose.encode()))) for seed in seeds
        ]

    @classmethod
    def all_generators(cls) -> list[torch.Generator]:
        """Those of all streams in use: a CUDA graph must know the generators that it draws from."""
        return [generator for streams in cls._all for generator in streams.generators]

    def normal_(self, out: Tensor) -> Tensor:
        """Fill `out` [S, ...] with standard normal numbers."""
        for row, generator in zip(out, self.generators, strict=True):
            row.normal_(generator=generator)
        return out

    def uniform_(self, out: Tensor) -> Tensor:
        """Fill `out` [S, ...] with numbers uniform in [0, 1)."""
        for row, generator in zip(out, self.generators, strict=True):
            row.uniform_(generator=generator)
        return out

    def state_dict(self) -> dict[str, Any]:
        return {"streams": [generator.get_state() for generator in self.generators]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["streams"]) != len(self.generators):
            raise ValueError(
                f"the state is of {len(state['streams'])} seeds, of another run than {len(self.generators)}"
            )
        for generator, saved in zip(self.generators, state["streams"], strict=True):
            saved = saved.cpu()
            if saved.shape == generator.get_state().shape:
                generator.set_state(saved)
            else:  # the run moves between CPU and CUDA, whose generators differ: start a stream of its own
                generator.manual_seed(_mix(zlib.crc32(saved.numpy().tobytes())))


def _mix(*numbers: int) -> int:
    """A 63-bit generator seed that depends on all the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
