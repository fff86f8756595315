"""Layers of modules that all tasks share, mixed by weights that depend on task and observation.

Source: "Multi-Task Reinforcement Learning with Soft Modularization" (Yang et al., arXiv 2003.13661) and its public
code. Where they differ, all is as in the code:

1. The product of observation and task passes through the layers of `gating_sizes` before anything is routed by it.
2. The modules' input is the ReLU of what the observation's layers give; in the paper there is none.
3. A layer's routing depends on the routings of all layers before it; in the paper on that of the last one.
4. Module outputs are mixed, then comes the ReLU; in the paper the ReLU comes first.
5. The last layer's outputs are mixed by weights, too; in the paper they are added.

It departs from both in this:

6. The code's linear layer on the one-hot task number is a vector for each task, its bias folded in: the same functions.
   The vectors are the tasks' own parameters, and not combined unless all are.
7. Weights are He-uniform and biases 0, as in this package's other networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl_conic.networks.initial import he_uniform, uniform
from mtrl_conic.networks.layers import (
    Recorder,
    Views,
    expert_linear,
    expert_parameters,
    linear,
    linear_parameters,
    mixture,
    task_vectors,
)
from mtrl_conic.networks.layout import Parameter
from mtrl_conic.networks.mlp import MLP
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.validation import whole, widths

_HEAD_BOUND = 3e-3  # of the head's initial weights, as in the code
_MOST = 100  # layers, or modules in one


class SoftModularization(Network):
    """Linear modules in layers, whose inputs are mixed by a softmax for each task and row; one head for all tasks.

    Args:
        layers: of modules.
        modules: in each layer.
        width: of a module's output.
        hidden_sizes: of the layers before the modules, with ReLU in between.
        gating_sizes: of the layers before the routing, with ReLU in between.
    """

    def __init__(
        self,
        layers: int = 2,
        modules: int = 2,
        width: int = 256,
        hidden_sizes: Sequence[int] = (400, 400),
        gating_sizes: Sequence[int] = (256, 256),
    ) -> None:
        self.layers = whole("layers", layers, 1, _MOST)
        self.modules = whole("modules", modules, 1, _MOST)
        self.width = whole("width", width, 1)
        self.hidden_sizes = widths("hidden_sizes", hidden_sizes)
        self.gating_sizes = widths("gating_sizes", gating_sizes)

    def setup(self, name: str, input_size: int, output_size: int, num_tasks: int) -> None:
        self.parameters = {}
        features, gate = self.hidden_sizes[-1], self.gating_sizes[-1]
        self._base = MLP(f"{name}.base", [input_size, *self.hidden_sizes])
        self._task = f"{name}.task"
        self.parameters[self._task] = Parameter((num_tasks, features), he_uniform(num_tasks), per_task=True)
        self._gating = MLP(f"{name}.gating", [features, *self.gating_sizes])
        self.parameters |= self._base.parameters | self._gating.parameters
        routes = [self.modules**2] * (self.layers - 1) + [self.modules]  # weights that each layer's outputs get
        self._conditions = [
            self._linear(f"{name}.condition.{index}", sum(routes[:index]), gate) for index in range(1, self.layers)
        ]
        self._routes = [self._linear(f"{name}.route.{index}", gate, size) for index, size in enumerate(routes)]
        self._first = self._linear(f"{name}.modules.0", features, self.modules * self.width)  # all have the same input
        self._later = [f"{name}.modules.{layer}" for layer in range(1, self.layers)]
        for layer in self._later:
            self.parameters |= expert_parameters(layer, self.modules, self.width, self.width, he_uniform(self.width))
        self._head = f"{name}.head"
        self.parameters |= linear_parameters(self._head, self.width, output_size, uniform(_HEAD_BOUND))

    def _linear(self, layer: str, fan_in: int, fan_out: int) -> str:
        self.parameters |= linear_parameters(layer, fan_in, fan_out, he_uniform(fan_in))
        return layer

    def __call__(self, params: Views, x: Tensor, recorder: Recorder | None = None) -> Tensor:
        tasks_and_rows = x.shape[1:3]
        features = self._base(params, x.flatten(1, 2), recorder)
        seen_as_task = features.unflatten(1, tasks_and_rows) * task_vectors(params, self._task, recorder)
        gating = self._gating(params, torch.relu_(seen_as_task).flatten(1, 2), recorder)
        first, *routes = self._routing(params, gating, recorder)
        outputs = linear(params, self._first, torch.relu(features), recorder).unflatten(2, (self.modules, -1))
        inputs = torch.relu_(mixture(first, outputs.movedim(2, 0)))
        for layer, route in zip(self._later, routes, strict=True):
            outputs = expert_linear(params, layer, inputs.movedim(0, 2), recorder)
            inputs = torch.relu_(mixture(route, outputs.movedim(2, 0)))
        return linear(params, self._head, inputs.squeeze(0), recorder).unflatten(1, tasks_and_rows)

    def _routing(self, params: Views, gating: Tensor, recorder: Recorder | None) -> list[Tensor]:
        """Weights [S, K·B, M, M] of each layer's outputs in the inputs of the next, and [S, K·B, 1, M] of the last."""
        routes: list[Tensor] = []
        signal = torch.relu(gating)
        for index, layer in enumerate(self._routes):
            if index > 0:
                before = torch.cat([route.flatten(2) for route in routes], -1)
                signal = torch.relu_(linear(params, self._conditions[index - 1], before, recorder) * gating)
            routes.append(linear(params, layer, signal, recorder).unflatten(2, (-1, self.modules)).softmax(-1))
        return routes
