"""What goes to the device of the updates and back in each vector step: one copy each way."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        self._columns = (observation_size, observation_size, 1, 1)
        self._step = torch.zeros(*shape, sum(self._columns), pin_memory=on_cuda)
        self._action = torch.zeros(*shape, action_size, pin_memory=on_cuda)
        self._copied = torch.cuda.Event() if on_cuda else None

    def observation(self, array: NDArray[np.float32]) -> Tensor:
        """A copy on the device: the vector's arrays change at its next step."""
        return torch.tensor(array, device=self.device)

    def step(self, step: VectorStep) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Observation and next observation [S, K, N, O], reward and terminated [S, K, N], float32 on the device."""
        if self._copied is not None:
            self._copied.synchronize()  # before the pinned memory is written again
        columns = self._step.split(self._columns, -1)
        columns[0].copy_(torch.from_numpy(step.observation))
        columns[1].copy_(torch.from_numpy(step.next_observation))
        columns[2].squeeze(-1).copy_(torch.from_numpy(step.reward))
        columns[3].squeeze(-1).copy_(torch.from_numpy(step.terminated))
        copy = self._step.to(self.device, non_blocking=True, copy=True)
        if self._copied is not None:
            self._copied.record()
        observation, following, reward, terminated = copy.split(self._columns, -1)
        return observation, following, reward.squeeze(-1), terminated.squeeze(-1)

    def action(self, action: Tensor) -> NDArray[np.float32]:
        """The action [S, K, N, A] on the host; waits for the device, and is valid until the next call."""
        self._action.copy_(action, non_blocking=True)
        if self._copied is not None:
            torch.cuda.current_stream(self.device).synchronize()
        return self._action.numpy()
