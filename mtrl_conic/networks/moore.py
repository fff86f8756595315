"""A mixture of experts whose outputs are orthogonal to each other.

Source: Hendawy et al., "Multi-Task Reinforcement Learning with Mixture of Orthogonal Experts" (arXiv 2311.11385) and
its public code. Where this departs from them: docs/architectures.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor

from mtrl_conic.networks.initial import Initial, uniform
from mtrl_conic.networks.layers import Recorder, Views, head, linear_parameters, task_vectors
from mtrl_conic.networks.layout import Parameter
from mtrl_conic.networks.mlp import Experts
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.validation import choice, whole, widths

_SMALLEST = 1e-6  # length of a vector below which it counts as zero


class MOORE(Network):
    """Experts that all tasks share, their outputs made orthonormal, mixed by a vector of the task's own; then a head.

    Args:
        hidden_sizes: widths of an expert's layers, of which the last has no ReLU.
        experts: how many, at most as many as the last layer is wide.
        heads: one for each "task", or one "shared" by all.
    """

    def __init__(self, hidden_sizes: Sequence[int], experts: int = 4, heads: str = "task") -> None:
        self.hidden_sizes = widths("hidden_sizes", hidden_sizes)
        self.experts = whole("experts", experts, 1, self.hidden_sizes[-1])
        self.heads = choice("heads", heads, ("shared", "task"))

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        self._vectors, self._last = f"{name}.vectors", f"{name}.head"
        self._experts = Experts(f"{name}.experts", self.experts, [input_size, *self.hidden_sizes])
        initial = _xavier_uniform(num_tasks, self.experts)
        self.parameters = {
            **self._experts.parameters,
            self._vectors: Parameter((num_tasks, self.experts), initial, per_task=True),
        }
        tasks, width = num_tasks if self.heads == "task" else None, self.hidden_sizes[-1]
        initial = _xavier_uniform(width, output_size)
        self.parameters |= linear_parameters(self._last, width, output_size, initial, tasks)
        if self.heads == "task":
            self.head = self._last  # the name under which a head per task is looked for

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        tasks_and_rows = x.shape[1:3]
        outputs = self._experts(params, x.flatten(1, 2), recorder).unflatten(1, tasks_and_rows)
        shares = task_vectors(params, self._vectors, recorder).split(1, -1)  # [S, K, 1, 1] each
        basis = orthonormal(outputs.unbind(3))
        mixed = reduce(torch.add, map(torch.mul, shares, basis))
        return head(params, self._last, mixed.tanh(), self.heads == "task", recorder)


def orthonormal(vectors: Iterable[Tensor]) -> list[Tensor]:
    """Vectors [..., D] made orthogonal to those before them and of length 1, by the modified Gram-Schmidt process.

    What of a vector is left by those before it counts as zero, and has no gradient, where rounding may have made it
    up: zeros stay zeros.
    """
    basis: list[Tensor] = []
    for vector in vectors:
        left = vector
        for other in basis:
            left = torch.addcmul(left, (left * other).sum(-1, keepdim=True), other, value=-1)
        squared = left.square().sum(-1, keepdim=True)
        least = torch.finfo(left.dtype).eps * vector.detach().square().sum(-1, keepdim=True)
        kept = squared > least.clamp_min(_SMALLEST**2)
        basis.append(left * torch.where(kept, squared.clamp_min(_SMALLEST**2).rsqrt(), 0))
    return basis


def _xavier_uniform(fan_in: int, fan_out: int) -> Initial:
    """Uniform with a variance of 2/(fan_in + fan_out) (Glorot and Bengio, 2010)."""
    return uniform(math.sqrt(6 / (fan_in + fan_out)))
