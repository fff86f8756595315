"""The weight of the entropy in soft actor-critic, one per seed and task, or one per seed that all its tasks share."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from mtrl_conic.agents.clipping import NetworkClip
from mtrl_conic.agents.health import Health
from mtrl_conic.agents.learner import Learner
from mtrl_conic.agents.losses import linear_temperature_losses, temperature_losses
from mtrl_conic.agents.optimizer import MakeOptimizer
from mtrl_conic.agents.protocol import Setting
from mtrl_conic.networks.initial import constant
from mtrl_conic.networks.layers import Recorder, Views, shared_vectors
from mtrl_conic.networks.layout import Parameter
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.streams import SeedStreams

REDUCTIONS = {"mean": torch.mean, "sum": torch.sum}  # of losses over the tasks
KINDS = ("task", "shared", "combined")
NETWORK = "temperature"  # the name of the number that a combiner moves


class EntropyWeight(Protocol):
    """Holds the policy's entropy at a target.

    Attributes:
        log: logarithms of the temperatures [S, K]; changes with them.
        target_entropy: in nats per task.
        learners: those that have a combiner.
    """

    log: Tensor
    target_entropy: float
    learners: tuple[Learner, ...]

    def update(self, log_prob: Tensor, health: Health) -> dict[str, Tensor]:
        """One step towards the target by the log-densities [S, K, B] of the policy's actions; metrics of it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Temperatures:
    """Temperatures that follow the mean or the sum of the tasks' losses; an `EntropyWeight`.

    Args:
        setting: the agent's.
        initial: at first.
        target_entropy: in nats per task.
        make_optimizer: of the logarithms [S, K].
        shared: the tasks of a seed have one temperature, which is in all K places.
        reduction: the step follows the "mean" of the tasks' losses, or their "sum".
    """

    learners: tuple[Learner, ...] = ()

    def __init__(
        self,
        setting: Setting,
        initial: float,
        target_entropy: float,
        make_optimizer: MakeOptimizer,
        shared: bool = False,
        reduction: str = "mean",
    ) -> None:
        self.target_entropy, self._shared = target_entropy, shared
        self._reduce = REDUCTIONS[reduction]
        self.log = torch.full(setting.cells, _start(initial, setting), device=setting.device, dtype=setting.dtype)
        self._gradient = torch.zeros_like(self.log)
        self._optimizer = make_optimizer(self.log, self._gradient)

    def update(self, log_prob: Tensor, health: Health) -> dict[str, Tensor]:
        log_temperature = self.log.detach().requires_grad_()
        losses = temperature_losses(log_temperature, log_prob, self.target_entropy)
        # The seeds' losses are added: a mean over them would shrink each one's step.
        gradient = torch.autograd.grad(self._reduce(losses, 1).sum(), log_temperature)[0]
        self._gradient.copy_(gradient.sum(1, keepdim=True) if self._shared else gradient)
        self._optimizer.step(health.halted)
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"log_temperature": self.log, "temperature_optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.log.copy_(state["log_temperature"])
        self._optimizer.load_state_dict(state["temperature_optimizer"])


class CombinedTemperature:
    """One temperature per seed, which its tasks' gradients move by way of a combiner; an `EntropyWeight`.

    So it is in the public code of the papers around CAGrad (MTRL), where critics, actor and temperature have their
    gradients combined, each by itself. The losses are those of that code, -α (log π + H); the Jacobian is [S, K, 1].

    Args:
        setting: the agent's.
        initial, target_entropy: see `Temperatures`.
        make_optimizer: of the logarithm [S, 1].
        reduction: see `Learner`.
        streams: the agent's initial values; none is drawn.
    """

    def __init__(
        self,
        setting: Setting,
        initial: float,
        target_entropy: float,
        make_optimizer: MakeOptimizer,
        reduction: str,
        streams: SeedStreams,
    ) -> None:
        self.target_entropy = target_entropy
        self._number = SharedNumber(_start(initial, setting)).made(NETWORK, 1, 1, setting.num_tasks)
        how = (streams, make_optimizer, NetworkClip(math.inf), "shared", reduction)
        self._learner = Learner(NETWORK, [self._number], setting.make_combiner(NETWORK), setting, *how)
        self.learners: tuple[Learner, ...] = (self._learner,)
        self.log = self._learner.params.expand(setting.cells)  # a view

    def update(self, log_prob: Tensor, health: Health) -> dict[str, Tensor]:
        def losses(recorder: Recorder | None = None) -> Tensor:
            log_temperature = self._number(self._learner.views, log_prob.unsqueeze(-1), recorder)[..., 0, 0]
            return linear_temperature_losses(log_temperature, log_prob, self.target_entropy)

        return self._learner.step(losses(self._learner.gradients), health, losses)

    def state_dict(self) -> dict[str, Any]:
        return {NETWORK: self._learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._learner.load_state_dict(state[NETWORK])


class SharedNumber(Network):
    """A number that all tasks share, whatever the input is.

    Args:
        initial: at first.
    """

    def __init__(self, initial: float) -> None:
        self.initial = initial

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        self.name = f"{name}.log"
        self.parameters = {self.name: Parameter((output_size,), constant(self.initial))}

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        """The number [S, K, 1, 1] for inputs [S, K, B, I]."""
        return shared_vectors(params, self.name, x.shape[1], recorder)


def _start(initial: float, setting: Setting) -> float:
    """The logarithm, rounded as the parameters are."""
    return torch.tensor(initial, dtype=setting.dtype).log().item()


def make_temperatures(
    kind: str,
    setting: Setting,
    initial: float,
    target_entropy: float,
    make_optimizer: MakeOptimizer,
    reduction: str,
    streams: SeedStreams,
) -> EntropyWeight:
    """Temperatures of one of the `KINDS`; see the classes."""
    shared = (setting, initial, target_entropy, make_optimizer)
    if kind == "combined":
        return CombinedTemperature(*shared, reduction, streams)
    return Temperatures(*shared, kind == "shared", reduction)
