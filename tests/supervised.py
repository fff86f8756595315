"""A small supervised problem of three tasks, for the tests of `MultiTaskBackward`."""

import torch
from torch import nn

from mtrl_conic import MultiTaskBackward
from mtrl_conic.combiners import Combiner

NUM_TASKS = 3


class Rows(Combiner):
    """Keeps the Jacobian it was given; the direction is that of fixed weights."""

    fixed = (0.5, 0.0, 2.0)

    def setup(self, seeds, num_tasks, device="cpu"):
        self.made_for = (list(seeds), num_tasks, device)

    def weights(self, gramian, losses):
        return torch.tensor([self.fixed], dtype=losses.dtype)

    def direction(self, jacobian, losses, out=None):
        self.seen, self.pointer = jacobian.clone(), jacobian.data_ptr()
        return super().direction(jacobian, losses, out)


class Example:
    """One trunk, a head per task, one of them of two layers, and a fixed batch."""

    def __init__(self, seed=0, width=16, dtype=torch.float64, rows=32):
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()).to(dtype)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(NUM_TASKS - 1)).to(dtype)
        self.heads.append(nn.Sequential(nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype))
        self.inputs = torch.randn(rows, 5, dtype=dtype)
        self.targets = [self.inputs.sum(1), self.inputs.prod(1), -self.inputs.abs().sum(1)]

    @property
    def parameters(self):
        return [*self.trunk.parameters(), *self.heads.parameters()]

    def losses(self, shared=None, part=0, parts=1, trunk=None):
        """Of one of so many equal parts of the batch; the trunk's parameters, or what it is called by, may be other."""
        inputs, *targets = (whole.chunk(parts)[part] for whole in (self.inputs, *self.targets))
        trunk = self.trunk if trunk is None else trunk
        features = trunk(inputs) if shared is None else torch.func.functional_call(trunk, shared, inputs)
        pairs = zip(self.heads, targets, strict=True)
        return torch.stack([(head(features).squeeze(1) - target).square().mean() for head, target in pairs])

    def backward(self, combiner, **settings):
        return MultiTaskBackward(
            combiner, self.trunk.parameters(), self.heads.parameters(), num_tasks=NUM_TASKS, **settings
        )

    def jacobian(self):
        """[1, K, P] of the trunk by forward definition: torch.func.jacrev of the losses."""
        rows = torch.func.jacrev(self.losses)({name: p.detach() for name, p in self.trunk.named_parameters()})
        return torch.cat([rows[name].flatten(1) for name, _ in self.trunk.named_parameters()], 1).unsqueeze(0)
