"""A mixture of encoders, to which each task attends by what is known of it.

Source: Sodhani et al., "Multi-Task Reinforcement Learning with Context-based Representations" (arXiv 2102.06177) and
its public code. Where this departs from them: docs/architectures.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl_conic.networks.initial import normal, uniform
from mtrl_conic.networks.layers import Recorder, Views, head, linear_parameters, task_vectors
from mtrl_conic.networks.layout import Parameter
from mtrl_conic.networks.mlp import MLP, Experts
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.validation import choice, whole, widths

_HEAD_BOUND = 3e-3  # of the heads' initial weights: the first values and actions are near 0


class CARE(Network):
    """ReLU layers over a context of the task and an encoding of the input, which encoders share as the context says.

    The context comes from a vector of the task's own. The loss does not reach it by way of the encoders' shares.

    Args:
        hidden_sizes: widths of the layers over context and encoding.
        encoders: how many.
        encoder_sizes: widths of the hidden layers of each encoder, of the context and of what shares out the encoders.
        encoding_size: of each encoding, of the context and of a task's vector.
        heads: one "shared" by all tasks, or one for each "task".
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int],
        encoders: int = 6,
        encoder_sizes: Sequence[int] = (50, 50),
        encoding_size: int = 50,
        heads: str = "shared",
    ) -> None:
        self.hidden_sizes = widths("hidden_sizes", hidden_sizes)
        self.encoders = whole("encoders", encoders, 1, 1000)
        self.encoder_sizes = widths("encoder_sizes", encoder_sizes)
        self.encoding_size = whole("encoding_size", encoding_size, 1)
        self.heads = choice("heads", heads, ("shared", "task"))

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        size, hidden, width = self.encoding_size, self.encoder_sizes, self.hidden_sizes[-1]
        self._vectors, self._last = f"{name}.vectors", f"{name}.head"
        self._encoders = Experts(f"{name}.encoders", self.encoders, [input_size, *hidden, size])
        self._context = MLP(f"{name}.context", [size, *hidden, size])
        self._attention = MLP(f"{name}.attention", [size, *hidden, self.encoders])
        self._torso = MLP(f"{name}.torso", [2 * size, *self.hidden_sizes])
        self.parameters = {self._vectors: Parameter((num_tasks, size), normal(1.0), per_task=True)}
        for part in (self._encoders, self._context, self._attention, self._torso):
            self.parameters |= part.parameters
        tasks = num_tasks if self.heads == "task" else None
        self.parameters |= linear_parameters(self._last, width, output_size, uniform(_HEAD_BOUND), tasks)
        if self.heads == "task":
            self.head = self._last  # the name under which a head per task is looked for

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        tasks_and_rows = x.shape[1:3]
        vectors = torch.relu(task_vectors(params, self._vectors, recorder)).squeeze(2)
        context = self._context(params, vectors, recorder)
        shares = self._attention(params, context.detach(), recorder).softmax(-1)  # [S, K, n]
        encodings = self._encoders(params, x.flatten(1, 2), recorder).unflatten(1, tasks_and_rows)
        encoding = (shares[:, :, None, :, None] * encodings).sum(3)
        rows = torch.cat((encoding, context.unsqueeze(2).expand_as(encoding)), -1)
        features = torch.relu_(self._torso(params, rows.flatten(1, 2), recorder))
        return head(params, self._last, features.unflatten(1, tasks_and_rows), self.heads == "task", recorder)
