"""The weight of the entropy in soft actor-critic, one per seed and task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtrl_conic.agents.losses import temperature_losses
from mtrl_conic.agents.optimizer import MakeOptimizer
from mtrl_conic.agents.protocol import Setting

REDUCTIONS = {"mean": torch.mean, "sum": torch.sum}  # of losses over the tasks


class Temperatures:
    """Temperatures that hold the policy's entropy at a target.

    Args:
        setting: the agent's.
        initial: at first.
        target_entropy: in nats per task.
        make_optimizer: of the logarithms [S, K].
        shared: the tasks of a seed have one temperature, which is in all K places.
        reduction: the step follows the "mean" of the tasks' losses, or their "sum".

    Attributes:
        log: logarithms [S, K].
    """

    def __init__(
        self,
        setting: Setting,
        initial: float,
        target_entropy: float,
        make_optimizer: MakeOptimizer,
        shared: bool = False,
        reduction: str = "mean",
    ) -> None:
        start = torch.tensor(initial, dtype=setting.dtype).log().item()
        self.target_entropy, self._shared = target_entropy, shared
        self._reduce = REDUCTIONS[reduction]
        self.log = torch.full(setting.cells, start, device=setting.device, dtype=setting.dtype)
        self._gradient = torch.zeros_like(self.log)
        self._optimizer = make_optimizer(self.log, self._gradient)

    def update(self, log_prob: Tensor, halted: Tensor) -> None:
        """One step towards the target by the log-densities [S, K, B] of the policy's actions."""
        log_temperature = self.log.detach().requires_grad_()
        losses = temperature_losses(log_temperature, log_prob, self.target_entropy)
        # The seeds' losses are added: a mean over them would shrink each one's step.
        gradient = torch.autograd.grad(self._reduce(losses, 1).sum(), log_temperature)[0]
        self._gradient.copy_(gradient.sum(1, keepdim=True) if self._shared else gradient)
        self._optimizer.step(halted)

    def state_dict(self) -> dict[str, Any]:
        return {"log_temperature": self.log, "temperature_optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.log.copy_(state["log_temperature"])
        self._optimizer.load_state_dict(state["temperature_optimizer"])
