"""What an agent's networks will take, told before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mtrl_conic.networks.protocol import Network, layout_of, weights_per_row

FLOAT = 4  # bytes
_COPIES = 4  # of each weight: itself, its gradient, Adam's two moments

NetworksBy = Mapping[str, Sequence[Network]]  # set up, by the hyperparameter that describes them


def weight_bytes(networks: NetworksBy) -> dict[str, int]:
    """Bytes of the weights and of what moves them, by the hyperparameter."""
    return {name: layout_of(nets).size * _COPIES * FLOAT for name, nets in networks.items()}


def multiplications(networks: NetworksBy, rows: int) -> float:
    """Those of a forward pass of the largest network in the layers that tasks share, which are nearly all of it.

    Where each task has its own layers, in those.
    """
    return rows * max(weights_per_row(nets[0]) for nets in networks.values())
