"""Micro-batches: the rows of the Jacobian add up, and the combiner sees their mean once."""

import functools
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from supervised import NUM_TASKS, Example, Rows

from mtrl_conic.combiners import FAMO, LS, SI, ConicGrad, NashMTL

METHODS = sorted((Path(__file__).resolve().parent.parent / "configs" / "combiner").glob("*.yaml"))
STEPS = 4


def train(combiner, parts, device_losses=lambda losses: losses):
    """The parameters and combiner after a few steps whose batch comes in so many parts."""
    example = Example()
    backward = example.backward(combiner, seed=5)
    optimizer = torch.optim.SGD(example.parameters, lr=0.1)
    for _ in range(STEPS):
        for part in range(parts - 1):
            backward.accumulate(device_losses(example.losses(part=part, parts=parts)))
        backward(device_losses(example.losses(part=parts - 1, parts=parts)))
        optimizer.step()
        if backward.looks_back:
            backward.after_step(sum(example.losses(part=part, parts=parts).detach() for part in range(parts)) / parts)
    return torch.cat([parameter.detach().flatten() for parameter in example.parameters]), backward


@functools.cache
def whole_batch(path):
    return train(instantiate(OmegaConf.load(path)), 1)[0]


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_micro_batches_are_the_whole_batch(path, parts):
    found, _ = train(instantiate(OmegaConf.load(path)), parts)
    torch.testing.assert_close(found, whole_batch(path), rtol=1e-8, atol=1e-10)


def test_updates_without_a_jacobian_take_micro_batches():
    whole, _ = train(NashMTL(update_every=3), 1)
    found, _ = train(NashMTL(update_every=3), 2)
    torch.testing.assert_close(found, whole, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("make", [ConicGrad, SI])
def test_micro_batches_as_scalars(make):
    stacked, _ = train(make(), 2)
    scalars, _ = train(make(), 2, list)
    torch.testing.assert_close(scalars, stacked, rtol=1e-12, atol=1e-14)


class Counts(Rows):
    calls = 0

    def direction(self, jacobian, losses, out=None):
        self.calls += 1
        self.losses = losses
        return super().direction(jacobian, losses, out)


def test_the_combiner_is_called_once_with_the_means():
    example, combiner = Example(), Counts()
    backward = example.backward(combiner)
    for part in range(3):
        backward.accumulate(example.losses(part=part, parts=4))
        assert combiner.calls == 0
    backward(example.losses(part=3, parts=4))
    assert combiner.calls == 1
    torch.testing.assert_close(combiner.seen, example.jacobian(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(combiner.losses[0], example.losses().detach(), rtol=1e-12, atol=0)
    backward(example.losses(part=0, parts=4))  # begins anew
    torch.testing.assert_close(combiner.losses[0], example.losses(part=0, parts=4).detach(), rtol=0, atol=0)


@pytest.mark.parametrize("make", [ConicGrad, FAMO])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_nothing_in_between_disturbs_the_sums(make, set_to_none):
    """Neither zero_grad nor a step by mistake between two micro-batches."""
    example = Example()
    backward = example.backward(make())
    optimizer = torch.optim.SGD(example.parameters, lr=0.1)
    backward(example.losses())
    expected = [parameter.grad.clone() for parameter in example.parameters]
    again = example.backward(make())
    again(example.losses())
    again.combiner.load_state_dict(example.backward(make()).state_dict())  # as at the start
    before = [parameter.detach().clone() for parameter in example.parameters]
    again.accumulate(example.losses(part=0, parts=2))
    optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    again(example.losses(part=1, parts=2))
    for parameter, start, grad in zip(example.parameters, before, expected, strict=True):
        assert torch.equal(parameter, start)
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-9, atol=1e-12)


def test_an_error_half_way_discards_what_was_added():
    class Raises(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("out of memory")

    example, combiner = Example(), Rows()
    backward = example.backward(combiner)
    backward.accumulate(example.losses(part=0, parts=2))
    with pytest.raises(RuntimeError, match="out of memory"):
        backward.accumulate([*example.losses()[:2], Raises.apply(example.losses()[2])])
    backward(example.losses())
    torch.testing.assert_close(combiner.seen, example.jacobian(), rtol=1e-10, atol=1e-12)


def test_a_bad_micro_batch_masks_the_update():
    for make in (ConicGrad, LS):
        example = Example()
        backward = example.backward(make())
        backward.accumulate(example.losses() * torch.tensor([1, float("nan"), 1]))
        backward(example.losses())
        assert not backward.finite
        assert not any(parameter.grad.any() for parameter in example.parameters)
        assert len(example.losses()) == NUM_TASKS
