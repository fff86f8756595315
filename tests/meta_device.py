"""Torch's "meta" device, where tensors have no numbers: agents take the GPU's branches, and to read one raises."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mtrl_conic.agents.sac
from mtrl_conic.system.streams import SeedStreams


class PlainSteps:
    """For Adam, whose fused kernel there is not for tensors without numbers."""

    def __init__(self, params, gradient, **_):
        self.params, self.gradient = params, gradient

    def step(self, halted):
        self.params.sub_(self.gradient * (1 - halted).unsqueeze(1))


class OneDevice(TorchDispatchMode):
    """Raises where an operation mixes devices, as a copy does and a number kept on the host."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        assert len({tensor.device.type for tensor in tensors}) < 2, operation
        return result


def let_agents_live_there(monkeypatch):
    with_streams_on = SeedStreams.__init__
    monkeypatch.setattr(SeedStreams, "__init__", lambda self, seeds, purpose, _: with_streams_on(self, seeds, purpose))
    monkeypatch.setattr(mtrl_conic.agents.sac, "SeedwiseAdam", PlainSteps)


def update_and_act(steps, observation, action_size):
    """Three updates, then both kinds of actions for observations [S, K, N, O]."""
    for _ in range(3):
        steps.update()
    for act in (steps.explore, steps.exploit):
        assert act(observation).shape == (*observation.shape[:3], action_size)
