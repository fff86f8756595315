"""What a network is."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, Self, final

from torch import Tensor

from mtrl_conic.networks.layers import Recorder, Views
from mtrl_conic.networks.layout import Layout, Parameter
from mtrl_conic.networks.trial import try_out
from mtrl_conic.system.trial import explained, is_own


class Network(ABC):
    """A pure function of parameters and input, which draws no random numbers and keeps none.

    It is made in two phases. The constructor takes the hyperparameters as keyword arguments and raises `ValueError`
    that names the value and the range; `setup` is told the sizes and names the parameters. An agent that needs
    several networks of one kind takes them from one object, by `made`.

    Attributes:
        parameters: by name, set by `setup`.
        composed: of the n matrices of a shared parameter [n, O, I] each task makes one of its own, which its rows meet;
            otherwise each row meets all n.
    """

    parameters: dict[str, Parameter]
    composed: ClassVar[bool] = False

    @abstractmethod
    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        """Name the parameters; each name begins with `name` and a dot, as several networks can share one flat tensor.

        Args:
            name: of this network.
            input_size: I, a one-hot task number included where the agent adds one.
            output_size: O.
            num_tasks: K.

        Raises:
            ValueError: the hyperparameters do not fit these sizes.
        """

    @abstractmethod
    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        """Map inputs [S, K, B, I] to outputs [S, K, B, O].

        Args:
            params: a view [S, *shape] of each of `parameters`.
            x: inputs.
            recorder: is handed what the parameters' gradients are made of during the backward pass; without one the
                parameters get no gradient, and the input does all the same.
        """

    @final
    def made(self, name: str, input_size: int, output_size: int, num_tasks: int) -> Self:
        """A copy of this network, set up; see `setup`. One of a user's own is tried out, once for each of its uses.

        Raises:
            ValueError: as `setup`, or the network does what none may (`networks.trial`).
        """
        network = copy.deepcopy(self)
        if not is_own(type(self)):
            network.setup(name, input_size, output_size, num_tasks)
            return network
        with explained(type(self).__name__):
            network.setup(name, input_size, output_size, num_tasks)
        use, tried = (name, input_size, output_size, num_tasks), self.__dict__.setdefault("_tried", set())
        if use not in tried:
            try_out(network, *use)
            tried.add(use)
        return network


def layout_of(nets: Iterable[Network]) -> Layout:
    """The order of all parameters of several networks in one flat vector."""
    return Layout({name: parameter for net in nets for name, parameter in net.parameters.items()})


def shared_matrices(network: Network) -> list[tuple[int, ...]]:
    """The shapes (O, I) of the matrices that all tasks share, in the order in which the network names them."""
    return [shape[-2:] for shape in _shared_weights(network) for _ in range(math.prod(shape[:-2]))]


def met_matrices(network: Network) -> tuple[list[tuple[int, ...]], bool]:
    """The shapes (O, I) of the matrices that a row meets, and whether they are its task's own.

    They are those that all tasks share and, only where there are none, those of single tasks: heads are small.
    """
    if network.composed:
        return [shape[-2:] for shape in _shared_weights(network)], True
    shared = shared_matrices(network)
    return (shared, False) if shared else (_own_matrices(network), True)


def weights_per_row(network: Network) -> int:
    """How many numbers a row is multiplied by: those of `met_matrices`, or of its task's own matrices if more."""
    met, _ = met_matrices(network)
    return max(sum(map(math.prod, shapes)) for shapes in (met, _own_matrices(network)))


def _shared_weights(network: Network) -> list[tuple[int, ...]]:
    named = network.parameters.items()
    return [each.shape for name, each in named if name.endswith(".weight") and not each.per_task]


def _own_matrices(network: Network) -> list[tuple[int, ...]]:
    return [each.shape[1:] for each in network.parameters.values() if each.per_task and len(each.shape) == 3]
