"""One network's flat parameters and what moves them: gradients, combiner, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.jacobian import TaskGradients
from mtrl_conic.networks import Layout, initialize
from mtrl_conic.runtime import SeedStreams


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


def make_adam(params: Tensor, config: AgentConfig) -> torch.optim.Adam:
    """The fused Adam of one flat tensor; on CUDA it counts its steps on the device, as a graph needs."""
    rate, epsilon, on_cuda = config.learning_rate, config.adam_epsilon, params.device.type == "cuda"
    return torch.optim.Adam([params], lr=rate, eps=epsilon, fused=True, capturable=on_cuda)


def load_adam(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """Take over a saved state, also one of another device."""
    capturable = optimizer.param_groups[0]["capturable"]
    optimizer.load_state_dict(state)
    optimizer.param_groups[0]["capturable"] = capturable


def masked_step(optimizer: torch.optim.Adam, halted: Tensor) -> None:
    """A step of a fused Adam that leaves everything as it is where `halted` is 1, without asking the host."""
    optimizer.found_inf = halted  # type: ignore[attr-defined]  # what torch.amp.GradScaler sets
    optimizer.step()


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
        self.layout, self.combiner, self.max_grad_norm = layout, combiner, config.max_grad_norm
        self.params = torch.zeros(num_seeds, layout.size, device=device, dtype=dtype)
        initialize(layout, self.params, streams)
        self.gradients = TaskGradients(
            layout, num_seeds, num_tasks, config.gradient_scope, combiner.requires != "losses", device, dtype
        )
        self.params.grad = self.gradients.flat
        self.views = layout.views(self.params)
        self.optimizer = make_adam(self.params, config)
        self.diagnostics: dict[str, Tensor] = {}

    def step(self, losses: Tensor, halted: Tensor, losses_again: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Turn losses [S, K] into one step of the optimizer; where `halted` is or becomes 1, nothing moves.

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
        all_finite = torch.isfinite(detached).all() & torch.isfinite(norm).all()
        halted.copy_(torch.maximum(halted, (~all_finite).to(halted.dtype)))
        masked_step(self.optimizer, halted)
        if self.combiner.looks_back:
            with torch.no_grad():
                self.combiner.look_back(losses_again())
        self.combiner.restore(memory, halted.bool().expand(len(detached)))
        name = self.combiner.network
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
        load_adam(self.optimizer, state["optimizer"])
        self.combiner.load_state_dict(state["combiner"])
        shown = state.get("diagnostics", {})  # checkpoints of earlier versions have none
        self.diagnostics = {key: value.to(self.params.device, copy=True) for key, value in shown.items()}
