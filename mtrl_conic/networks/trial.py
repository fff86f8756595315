"""A network of a user's own tried on a few rows, so that what is wrong with it is said at once and in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mtrl_conic.networks.layout import Layout, Parameter
from mtrl_conic.system.streams import SeedStreams
from mtrl_conic.system.trial import TrialError, check_tensor, explained

if TYPE_CHECKING:
    from mtrl_conic.networks.protocol import Network

_SEEDS, _ROWS = (0, 1), 3
_MOST_PARAMETERS = 2**24  # of a network that is tried in passing; whether a larger one has room is said elsewhere


def try_out(network: Network, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
    """Run a network that is set up forwards and backwards; the default generators of torch are left alone.

    Raises:
        TrialError: it raises something, gives what does not fit, or a parameter gets no gradient.
    """
    kind = type(network).__name__
    _check_parameters(kind, getattr(network, "parameters", None), name, num_tasks)
    with torch.random.fork_rng([]), torch.enable_grad(), explained(kind):
        layout = Layout(network.parameters)
        if layout.size > _MOST_PARAMETERS:
            return
        flat = torch.zeros(len(_SEEDS), layout.size)
        layout.initialize(flat, SeedStreams(_SEEDS, "trial"))
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(len(_SEEDS), num_tasks, _ROWS, input_size, generator=draws)
        _run(network, layout.views(flat), x, output_size)


def _check_parameters(kind: str, parameters: Any, name: str, num_tasks: int) -> None:
    if not isinstance(parameters, Mapping):
        raise TrialError(f"{kind}.setup must set `parameters`, a dict of Parameter by name")
    for key, each in parameters.items():
        if not isinstance(key, str) or not key.startswith(f"{name}."):
            raise TrialError(f"{kind}.parameters[{key!r}]: its name must begin with that of the network, {name!r} here")
        if not isinstance(each, Parameter):
            raise TrialError(f"{kind}.parameters[{key!r}] must be a Parameter, not {type(each).__name__}")
        if each.per_task and tuple(each.shape[:1]) != (num_tasks,):
            wanted = f"[K, ...] = [{num_tasks}, ...]"
            raise TrialError(f"{kind}.parameters[{key!r}] is per task: must be {wanted}, not {list(each.shape)}")


def _run(network: Network, views: Mapping[str, Tensor], x: Tensor, output_size: int) -> None:
    kind, shape = type(network).__name__, torch.Size([*x.shape[:3], output_size])
    recorder = _Seen(network.parameters, x.shape[1])
    output = network(views, x.clone(), recorder)
    check_tensor(f"{kind}.__call__", output, "[S, K, B, O]", shape, x.dtype)
    if not output.requires_grad:
        raise TrialError(f"{kind}.__call__ returns what has no gradient; must not detach it or turn gradients off")
    output.backward(torch.ones_like(output))
    missing = [name for name in network.parameters if name not in recorder.seen]
    if missing:
        raise TrialError(
            f"{kind}: no gradient of {missing[0]} gets to the recorder; its layer must be given `recorder`"
        )
    alone = network(views, x.clone().requires_grad_())
    check_tensor(f"{kind}.__call__", alone, "[S, K, B, O]", shape, x.dtype)
    if not torch.allclose(alone, output, rtol=1e-3, atol=1e-5):
        raise TrialError(f"{kind}.__call__ must return the same for the same input, with and without a recorder")
    looks_at_input = not torch.equal(alone[:, :, :1].expand_as(alone), alone)
    if looks_at_input and not alone.requires_grad:
        raise TrialError(f"{kind}.__call__ must give its input a gradient without a recorder, too")


class _Seen:
    """A recorder that only looks at what it is handed."""

    def __init__(self, parameters: Mapping[str, Parameter], num_tasks: int) -> None:
        self.anchor = torch.zeros((), requires_grad=True)
        self.parameters, self.num_tasks = parameters, num_tasks
        self.seen: set[str] = set()

    def shared_matrix(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        self._see(name, False, delta)

    def shared_vector(self, name: str, delta: Tensor) -> None:
        self._see(name, False, delta)

    def shared_tensor(self, name: str, gradient: Tensor, shares: Tensor | None = None) -> None:
        self._see(name, False, gradient)

    def task_matrix(self, name: str, inputs: Tensor, delta: Tensor) -> None:
        self._see(name, True, delta)

    def task_vector(self, name: str, delta: Tensor) -> None:
        self._see(name, True, delta)

    def _see(self, name: str, per_task: bool, delta: Tensor) -> None:
        parameter = self.parameters.get(name)
        if parameter is None:
            raise TrialError(f"{name} gets a gradient and is not among `parameters`")
        if parameter.per_task is not per_task:
            used = "by tasks apart, so it must be" if per_task else "by all tasks, so it must not be"
            raise TrialError(f"{name} is used {used} per_task")
        if name in self.seen:
            raise TrialError(f"{name} is used by two layers, of which each needs a name of its own")
        if delta.shape[1] % self.num_tasks:
            raise TrialError(f"{name} is used for {delta.shape[1]} rows, which must be as many for each of the tasks")
        self.seen.add(name)
