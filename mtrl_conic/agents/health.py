"""Which seeds still learn, and what stopped the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl_conic.system.looks import may_look, seen_finite


class Halt(NamedTuple):
    """What stopped a seed: in which network, what was not finite, and how many updates ago."""

    network: str
    cause: str
    updates: int


class Health:
    """Halts a seed at its first loss or gradient that is not finite; the others go on.

    Everything stays on the device: `check` is part of an update and reads nothing back from there.

    Args:
        num_seeds, num_tasks: S, K.
        networks: the names that `check` is called with.

    Attributes:
        halted: [S], 1 from the first update on in which something of that seed was not finite; none of it moves then.
        masked_updates: [S], the number of updates since then, that one included.
    """

    def __init__(
        self, num_seeds: int, num_tasks: int, networks: Sequence[str], device: torch.device | str = "cpu"
    ) -> None:
        self.halted = torch.zeros(num_seeds, device=device)
        self.masked_updates = torch.zeros(num_seeds, device=device)
        self._losses = {name: torch.zeros(num_seeds, num_tasks, dtype=torch.bool, device=device) for name in networks}
        self._gradients = {name: torch.zeros(num_seeds, dtype=torch.bool, device=device) for name in networks}

    def check(self, network: str, losses: Tensor, gradient_norm: Tensor) -> None:
        """Halt the seeds of which a loss [S, K] or the norm [S] of the gradient is not finite."""
        if seen_finite(losses, gradient_norm):
            return
        learning = ~self.halted.bool()
        bad_losses = ~torch.isfinite(losses) & learning.unsqueeze(1)
        bad_gradients = ~torch.isfinite(gradient_norm) & learning
        self._losses[network] |= bad_losses
        self._gradients[network] |= bad_gradients
        self.halted += (bad_losses.any(1) | bad_gradients).to(self.halted)

    def may_be_halted(self) -> bool:
        """Whether a seed is halted or, on a device, where to look would wait, may be."""
        return not may_look(self.halted) or bool(self.halted.any())

    def count(self) -> None:
        """Count an update of the halted seeds; called once per update, at its end."""
        self.masked_updates += self.halted

    def halts(self, tasks: Sequence[str]) -> dict[int, Halt]:
        """What stopped each halted seed, by its row; waits for the device."""
        return {row: self._halt(row, tasks) for row in self.halted.nonzero().flatten().tolist()}

    def _halt(self, row: int, tasks: Sequence[str]) -> Halt:
        updates = int(self.masked_updates[row].item())
        for network, losses in self._losses.items():
            bad = losses[row].nonzero().flatten().tolist()
            if bad:
                return Halt(network, f"the loss of {' and '.join(tasks[column] for column in bad)}", updates)
        network = next(name for name, gradients in self._gradients.items() if gradients[row].item())
        return Halt(network, "the gradient", updates)

    def state_dict(self) -> dict[str, Any]:
        return {
            "halted": self.halted,
            "masked_updates": self.masked_updates,
            "losses": dict(self._losses),
            "gradients": dict(self._gradients),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.halted.copy_(state["halted"])
        self.masked_updates.copy_(state["masked_updates"])
        for name in self._losses:
            self._losses[name].copy_(state["losses"][name])
            self._gradients[name].copy_(state["gradients"][name])
