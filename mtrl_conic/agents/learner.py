"""One network's flat parameters and what moves them: gradients, combiner, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.agents.health import Health
from mtrl_conic.agents.optimizer import SeedwiseAdam
from mtrl_conic.combiners.base import Combiner
from mtrl_conic.gradients.recorder import TaskGradients
from mtrl_conic.networks.layout import Layout
from mtrl_conic.system.streams import SeedStreams


@dataclass
class AgentConfig:
    """Settings of `MultiTaskSAC`; the defaults are the Meta-World baselines' (docs/protocols.md)."""

    hidden_sizes: list[int]
    num_critics: int = 2
    layer_norm: bool = False
    task_id_input: bool = True
    learning_rate: float = 3e-4
    adam_epsilon: float = 1e-5
    max_grad_norm: float = 1.0
    discount: float = 0.99
    tau: float = 0.005
    initial_temperature: float = 1.0
    target_entropy: float | None = None
    reward_scale: float = 1.0
    gradient_scope: str = "shared"  # or "all"


class Learner:
    """One network's flat parameters with the gradients, the combiner and the optimizer that move them.

    Attributes:
        params: [S, P].
        diagnostics: what the combiner has last shown under each name of the log, always in the same tensors: an update
            that shows nothing leaves them as they are, also where it is replayed from a recording.
    """

    def __init__(
        self,
        layout: Layout,
        combiner: Combiner,
        config: AgentConfig,
        streams: SeedStreams,
        num_tasks: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        num_seeds = len(streams.generators)
        self.name, self.layout, self.combiner = combiner.network, layout, combiner
        self.max_grad_norm = config.max_grad_norm
        self.params = torch.zeros(num_seeds, layout.size, device=device, dtype=dtype)
        layout.initialize(self.params, streams)
        self.gradients = TaskGradients(
            layout, num_seeds, num_tasks, config.gradient_scope, combiner.requires != "losses", device, dtype
        )
        self.views = layout.views(self.params)
        self.optimizer = SeedwiseAdam(self.params, self.gradients.flat, config.learning_rate, config.adam_epsilon)
        self.diagnostics: dict[str, Tensor] = {}

    def step(self, losses: Tensor, health: Health, losses_again: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Turn losses [S, K] into one step of the optimizer; of a seed that is or becomes halted, nothing moves.

        `losses_again` gives the losses of the same batch and noise after the step, for combiners that look back.

        Returns:
            Metrics of the step, [S] or [S, K] each, `diagnostics` aside.
        """
        self.combiner.diagnostics.clear()
        detached = losses.detach()
        memory = self.combiner.snapshot()
        self._fill_gradients(losses, detached)
        norm = torch.linalg.vector_norm(self.gradients.flat, dim=1)
        self.gradients.flat.mul_((self.max_grad_norm / norm.clamp_min(1e-12)).clamp_max(1).unsqueeze(1))
        name = self.name
        health.check(name, detached, norm)
        self.optimizer.step(health.halted)
        if self.combiner.looks_back:
            with torch.no_grad():
                self.combiner.look_back(losses_again())
        self.combiner.restore(memory, health.halted.bool())
        for key, value in self.combiner.diagnostics.items():
            shown = self.diagnostics.setdefault(f"combiner/{name}/{key}", torch.empty_like(value))
            shown.copy_(value)
        return {f"loss/{name}": detached, f"grad_norm/{name}": norm}

    def _fill_gradients(self, losses: Tensor, detached: Tensor) -> None:
        gradients = self.gradients
        gradients.keep_tasks = self.combiner.needs_jacobian()
        if self.combiner.requires == "losses":
            (self.combiner.loss_weights(detached) * losses).sum().backward()
            return
        gradients.task_weights = None if gradients.keep_tasks else self.combiner.loss_weights(detached)
        losses.sum().backward()
        gradients.finish()
        if gradients.jacobian is not None:
            self.combiner.combine(gradients.jacobian, detached, out=gradients.direction)

    def state_dict(self) -> dict[str, Any]:
        return {
            "params": self.params,
            "optimizer": self.optimizer.state_dict(),
            "combiner": self.combiner.state_dict(),
            "diagnostics": dict(self.diagnostics),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.params.copy_(state["params"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.combiner.load_state_dict(state["combiner"])
        shown = state.get("diagnostics", {})  # checkpoints of earlier versions have none
        self.diagnostics = {key: value.to(self.params.device, copy=True) for key, value in shown.items()}
