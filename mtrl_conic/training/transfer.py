"""What goes to the device of the updates and back in each vector step: one copy each way."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl_conic.agents.protocol import Transition
from mtrl_conic.envs.vector import VectorStep


class StepTransfer:
    """Copies of observations and actions between the vector's shared memory and the device.

    On CUDA both go through pinned memory, and the copy to the device does not keep the host waiting.

    Args:
        shape: S, K, N.
        observation_size, action_size: O, A.
    """

    def __init__(
        self, shape: tuple[int, int, int], observation_size: int, action_size: int, device: torch.device
    ) -> None:
        on_cuda = device.type == "cuda"
        self.device = device
        self._columns = (observation_size, observation_size, 1, 1, 1)
        self._step = torch.zeros(*shape, sum(self._columns), pin_memory=True) if on_cuda else None
        self._action = torch.zeros(*shape, action_size, pin_memory=on_cuda)
        self._copied = torch.cuda.Event() if on_cuda else None

    def observation(self, array: NDArray[np.float32]) -> Tensor:
        """A copy on the device: the vector's arrays change at its next step."""
        return torch.tensor(array, device=self.device)

    def step(self, observation: Tensor, action: Tensor, step: VectorStep) -> tuple[Transition, Tensor]:
        """The transition from `observation` by `action`, and the next observations, of new episodes where one ended.

        All are float32 on the device.
        """
        given = torch.from_numpy(step.transition)
        if self._step is None or self._copied is None:
            copy = given.to(self.device, copy=True)
        else:
            self._copied.synchronize()  # before the pinned memory is written again
            copy = self._step.copy_(given).to(self.device, non_blocking=True)
            self._copied.record()
        following, reached, *rest = copy.split(self._columns, -1)
        reward, terminated, truncated = (column.squeeze(-1) for column in rest)
        return Transition(observation, action, reward, reached, terminated, truncated), following

    def action(self, action: Tensor) -> NDArray[np.float32]:
        """The action [S, K, N, A] on the host; waits for the device, and is valid until the next call."""
        self._action.copy_(action, non_blocking=True)
        if self._copied is not None:
            torch.cuda.current_stream(self.device).synchronize()
        return self._action.numpy()
