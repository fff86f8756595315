"""In what units an agent learns rewards."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from mtrl_conic.agents.protocol import Transition

_LEAST = 1e-8  # of the largest return, before there is one


class RewardScale(Protocol):
    """Scales rewards; may learn the scale from what it observes."""

    def observe(self, transition: Transition) -> None:
        """See a vector step."""

    def __call__(self, reward: Tensor) -> Tensor:
        """Rewards [S, K, B] in the units that are learned."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class ConstantScale:
    """Rewards times a factor.

    Args:
        factor: the same for all tasks.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def observe(self, transition: Transition) -> None:
        """Learns nothing."""

    def __call__(self, reward: Tensor) -> Tensor:
        return self.factor * reward

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Has no state."""


class ReturnScale:
    """Rewards divided by the largest discounted return of their task so far, times a limit.

    So the values of each task stay within the limit. Returns are added up forwards, from each episode's start, where
    BRC (arXiv 2505.23150) adds up those to each episode's end from the replay.

    Args:
        shape: S, K, N.
        discount: γ.
        limit: what the largest return becomes.
    """

    def __init__(
        self, shape: tuple[int, int, int], discount: float, limit: float, device: torch.device | str = "cpu"
    ) -> None:
        self.discount, self.limit = discount, limit
        self._running = torch.zeros(shape, device=device)
        self._largest = torch.zeros(shape[:2], device=device)

    def observe(self, transition: Transition) -> None:
        self._running.mul_(self.discount).add_(transition.reward)
        torch.maximum(self._largest, self._running.abs().amax(2), out=self._largest)
        self._running.mul_(1 - torch.maximum(transition.terminated, transition.truncated))

    def __call__(self, reward: Tensor) -> Tensor:
        return reward * (self.limit / self._largest.clamp_min(_LEAST)).unsqueeze(-1).to(reward.dtype)

    def state_dict(self) -> dict[str, Any]:
        return {"running": self._running, "largest": self._largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._running.copy_(state["running"])
        self._largest.copy_(state["largest"])
