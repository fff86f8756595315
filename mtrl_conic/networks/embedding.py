"""What a network learns of a task apart from all observations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mtrl_conic.networks.initial import normal
from mtrl_conic.networks.layers import Recorder, Views, task_vectors
from mtrl_conic.networks.layout import Parameter
from mtrl_conic.networks.protocol import Network


class TaskEmbedding(Network):
    """Puts a learned vector of length 1 for the task beside each input; it has O - I numbers.

    Its parameter is the vector before it is scaled to length 1.
    """

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        size = output_size - input_size
        self.vectors = f"{name}.vectors"
        self.parameters = {self.vectors: Parameter((num_tasks, size), normal(size**-0.5), per_task=True)}

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        vectors = F.normalize(task_vectors(params, self.vectors, recorder), dim=-1)
        return torch.cat((x, vectors.expand(-1, -1, x.shape[2], -1)), -1)
