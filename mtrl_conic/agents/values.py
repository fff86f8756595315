"""A critic of states that learns in the units of normalised returns."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mtrl_conic.agents.learner import Learner
from mtrl_conic.agents.normalisation import PopArt
from mtrl_conic.agents.protocol import Setting
from mtrl_conic.networks.layers import Recorder
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.seedwise import mean_of_rows


class ValueFunction:
    """Values of inputs, and losses to learn them by.

    Args:
        network: set up, with one output; under PopArt its last layer is the linear `head` of each task.
        learner: of its parameters.
        popart: the step of the returns' moments; None learns values as they are.
        setting: the agent's.
    """

    def __init__(self, network: Network, learner: Learner, popart: float | None, setting: Setting) -> None:
        self._network, self._learner = network, learner
        self._moments = None if popart is None else PopArt(setting.cells, popart, setting.device, setting.dtype)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Values [S, K, B] in the units of the reward, for inputs [S, K, B, I]."""
        values = self._network(self._learner.views, inputs).squeeze(-1)
        return values if self._moments is None else self._moments.restore(values)

    def targets(self, returns: Tensor, halted: Tensor) -> Tensor:
        """What the network is to predict for returns [S, K, B]; they move the moments, but of `halted` seeds [S]."""
        if self._moments is None:
            return returns
        views, head = self._learner.views, self._network.head  # type: ignore[attr-defined]
        self._moments.update(returns, views[f"{head}.weight"], views[f"{head}.bias"], halted)
        return self._moments.normalise(returns)

    def losses(self, inputs: Tensor, target: Tensor, recorder: Recorder | None = None) -> Tensor:
        """Half the mean squared error [S, K] of `targets` [S, K, B]."""
        values = self._network(self._learner.views, inputs, recorder).squeeze(-1)
        return 0.5 * mean_of_rows((values - target).square())

    def state_dict(self) -> dict[str, Any]:
        """The moments; the parameters are the learner's."""
        return {} if self._moments is None else self._moments.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._moments is not None:
            self._moments.load_state_dict(state)
