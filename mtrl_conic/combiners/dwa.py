"""Dynamic weight average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtrl_conic.combiners._positive import PositiveLosses
from mtrl_conic.system import validation


class DWA(PositiveLosses):
    """More weight for the tasks whose losses fall more slowly.

    "End-to-End Multi-Task Learning with Attention", arXiv 1803.10704, Eq 7: the weights are the softmax of r/T, r
    being the ratio of a loss to itself one epoch before. The paper's weights sum to K and its losses are summed;
    here they sum to 1. Builds no Jacobian.

    Reinforcement learning has no epochs: losses are averaged over windows of a fixed number of updates, and the
    weights are uniform until two windows are full. Negative losses are seen from a lower bound (`PositiveLosses`).

    Args:
        temperature: T, > 0; the authors' is 2.
        window: updates a window, at least 1.

    Raises:
        ValueError: for a hyperparameter out of its range.
    """

    requires: ClassVar[Literal["losses", "gramian", "jacobian"]] = "losses"

    def __init__(self, temperature: float = 2.0, window: int = 1000) -> None:
        super().__init__()
        self.temperature = validation.number("temperature", temperature, 0, low_included=False)
        self.window = validation.whole("window", window, 1)

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        zeros = torch.zeros(len(seeds), num_tasks, dtype=torch.float64, device=device)
        self.state = self.positive_state(zeros)
        self.state |= {name: zeros.clone() for name in ("total", "last", "before_last")}
        self.state |= {"updates": zeros[:, :1].clone()}

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        self._close_window()
        self.state["total"] += losses
        self.state["updates"] += 1
        self.positive(losses)
        last, before = (self.positive(self.state[name], learn=False) for name in ("last", "before_last"))
        ratio = torch.where(self.state["updates"] > 2 * self.window, last / before, 1)
        return (ratio / self.temperature).softmax(-1)

    def _close_window(self) -> None:
        """Where the running window is full, its mean becomes the last one."""
        full = (self.state["updates"] > 0) & (self.state["updates"] % self.window == 0)
        last, total = self.state["last"], self.state["total"]
        self.state["before_last"].copy_(torch.where(full, last, self.state["before_last"]))
        last.copy_(torch.where(full, total / self.window, last))
        total.mul_(~full)
