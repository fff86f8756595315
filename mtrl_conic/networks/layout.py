"""Named parameters in one flat tensor [S, P]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from mtrl_conic.networks.initial import Initial
from mtrl_conic.system.streams import SeedStreams


class Parameter(NamedTuple):
    """One named tensor of a network.

    Args:
        shape: of a seed's; the first axis of a per-task one is K.
        initial: draws the initial values.
        per_task: row k belongs to task k alone.
    """

    shape: tuple[int, ...]
    initial: Initial
    per_task: bool = False


class Block(NamedTuple):
    """Where one parameter lies in the flat vector."""

    shape: tuple[int, ...]
    start: int
    stop: int


class Layout:
    """The order of named parameters in a flat vector: the shared ones first, then those of single tasks.

    Args:
        parameters: by name.

    Attributes:
        shared_size, size: P of the shared parameters, and of all.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self.parameters = {name: each for name, each in parameters.items() if not each.per_task}
        self.parameters |= {name: each for name, each in parameters.items() if each.per_task}
        self.blocks: dict[str, Block] = {}
        self.shared_size = self.size = 0
        for name, parameter in self.parameters.items():
            start, self.size = self.size, self.size + math.prod(parameter.shape)
            self.blocks[name] = Block(parameter.shape, start, self.size)
            if not parameter.per_task:
                self.shared_size = self.size

    def view(self, flat: Tensor, name: str) -> Tensor:
        """The parameter `name` of `flat` [S, P], as a view [S, *shape]; of rows [S, K, P] as [S, K, *shape]."""
        block = self.blocks[name]
        return flat[..., block.start : block.stop].unflatten(-1, block.shape)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """All parameters of `flat` [S, P], as views."""
        return {name: self.view(flat, name) for name in self.blocks}

    def initialize(self, flat: Tensor, streams: SeedStreams) -> None:
        """Fill `flat` [S, P] with initial values."""
        for name, parameter in self.parameters.items():
            parameter.initial(self.view(flat, name), streams)
