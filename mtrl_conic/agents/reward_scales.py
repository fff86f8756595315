"""In what units an agent learns rewards."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from mtrl_conic.agents.protocol import Transition
from mtrl_conic.agents.temperature import EntropyWeight

_LEAST = 1e-8  # of the largest return, before there is one, and beside a deviation
_LEAST_SHARE, _LONGEST = 1e-3, 10_000  # of a return: what its last rewards are at least worth, and its steps


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

    So the values of each task stay within the limit. Returns are added up forwards, from each episode's start;
    `SoftReturnScale` has those from every step to the episode's end.

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


class DeviationScale:
    """Rewards divided by the running deviation of their task's, times a factor; they are not moved.

    Mean and variance move by a thousandth per reward, the variance by the square of its distance from the new mean.
    They start at 0 and 1. So did the code base that the papers from PCGrad on measured with, which scaled a reward when
    it came; here the replay keeps it as it was, and it is scaled by the present deviation when it is learned from.

    Args:
        cells: S, K.
        step: the share of a reward in the moments.
        factor: the same for all tasks.
    """

    def __init__(
        self, cells: tuple[int, int], device: torch.device | str = "cpu", step: float = 1e-3, factor: float = 1.0
    ) -> None:
        self.step, self.factor = step, factor
        self._mean, self._variance = torch.zeros(cells, device=device), torch.ones(cells, device=device)

    def observe(self, transition: Transition) -> None:
        for reward in transition.reward.unbind(2):  # one environment after another
            self._mean.lerp_(reward, self.step)
            self._variance.lerp_((reward - self._mean).square(), self.step)

    def __call__(self, reward: Tensor) -> Tensor:
        return self.factor * reward / (self._variance.sqrt() + _LEAST).unsqueeze(-1).to(reward.dtype)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean, "variance": self._variance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean.copy_(state["mean"])
        self._variance.copy_(state["variance"])


class SoftReturnScale:
    """Rewards divided by the largest return and entropy of their task so far, times a limit (BRC, arXiv 2505.23150).

    The returns are those from every step to the end of its episode. Where the clock ended it, it is taken to go on
    with its mean reward for ever. To them comes what half of the entropy aimed at is worth as long, α H / (2 (1 - γ)).

    Returns are added up as the rewards come: there is one sum for each of the last steps, as many as it takes until γ
    has made them worth a thousandth. Sums of steps before are complete but for that.

    Args:
        shape: S, K, N.
        discount: γ, below 1.
        limit: what the largest return becomes.
        temperatures: α and H; read anew each time.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        discount: float,
        limit: float,
        temperatures: EntropyWeight,
        device: torch.device | str = "cpu",
    ) -> None:
        self.discount, self.limit, self._temperatures = discount, limit, temperatures
        steps = min(math.ceil(math.log(_LEAST_SHARE) / math.log(discount)), _LONGEST)
        self._returns = torch.zeros(*shape, steps, device=device)  # from a step until now
        self._weights = torch.zeros_like(self._returns)  # of the next reward in it; 0 where no step is
        self._total, self._length = (torch.zeros(shape, device=device) for _ in range(2))  # of the episode until now
        self._largest = torch.zeros(shape[:2], device=device)
        self._place = 0  # of the next step

    def observe(self, transition: Transition) -> None:
        self._start_a_return()
        self._returns.addcmul_(self._weights, transition.reward.unsqueeze(-1))
        self._weights.mul_(self.discount)
        self._total += transition.reward
        self._length += 1
        terminated, ended = transition.terminated, torch.maximum(transition.terminated, transition.truncated)
        goes_on_with = (1 - terminated) * self._total / self._length / (1 - self.discount)
        whole = torch.addcmul(self._returns, self._weights, goes_on_with.unsqueeze(-1))
        self._take(whole.abs().amax(-1) * ended)
        for kept in (self._total, self._length, self._returns.movedim(-1, 0), self._weights.movedim(-1, 0)):
            kept.mul_(1 - ended)

    def _start_a_return(self) -> None:
        """In the place of the oldest."""
        oldest = self._returns[..., self._place]
        self._take(oldest.abs())
        oldest.zero_()
        self._weights[..., self._place].fill_(1)
        self._place = (self._place + 1) % self._returns.shape[-1]

    def _take(self, sizes: Tensor) -> None:
        torch.maximum(self._largest, sizes.amax(2), out=self._largest)

    def __call__(self, reward: Tensor) -> Tensor:
        temperature = self._temperatures.log.exp()
        entropy = temperature * (self._temperatures.target_entropy / (2 * (1 - self.discount)))
        scale = self.limit / (self._largest - entropy).clamp_min(_LEAST)
        return reward * scale.unsqueeze(-1).to(reward.dtype)

    def state_dict(self) -> dict[str, Any]:
        return {**self._tensors(), "place": self._place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])
        self._place = state["place"]

    def _tensors(self) -> dict[str, Tensor]:
        tensors = (self._returns, self._weights, self._total, self._length, self._largest)
        return dict(zip(("returns", "weights", "total", "length", "largest"), tensors, strict=True))
