"""What an agent's networks will take, told before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mtrl_conic.networks.protocol import Network, layout_of, met_matrices, weights_per_row

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


class Product(NamedTuple):
    """A matrix that all tasks share, or one of each task's own, and what one update multiplies with it.

    Args:
        rows: of all tasks of a seed.
        inputs, outputs: sides of the matrix.
        forward: how often rows [rows, inputs] are multiplied by it.
        to_inputs: how often gradients [rows, outputs] are multiplied by its transpose.
        to_weights: how often its own gradient is formed of the two.
        matrices: 1 where all tasks share it, or the number of tasks, which have as many rows each.
    """

    rows: int
    inputs: int
    outputs: int
    forward: int = 1
    to_inputs: int = 1
    to_weights: int = 1
    matrices: int = 1


def products_of(
    network: Network,
    rows: int,
    *,
    num_tasks: int,
    forward: int = 1,
    to_inputs: int = 1,
    to_first: int = 0,
    to_weights: int = 1,
) -> list[Product]:
    """Those of a network's passes with so many rows each; heads of single tasks beside a shared trunk are left out.

    Args:
        network: set up; the first of its matrices is the one that its input meets.
        rows: of all tasks of a seed.
        num_tasks: K.
        forward, to_inputs, to_weights: see `Product`.
        to_first: `to_inputs` of the first matrix.
    """
    shapes, own = met_matrices(network)
    matrices = num_tasks if own else 1
    return [
        Product(rows, inputs, outputs, forward, to_inputs if index else to_first, to_weights, matrices)
        for index, (outputs, inputs) in enumerate(shapes)
    ]
