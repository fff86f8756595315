"""A loss or a gradient that is not finite: the call leaves the model alone, and the combiner forgets it."""

import functools
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from supervised import Example, Rows

from mtrl_conic.combiners import DWA, FAMO, LS, SI, ConicGrad, NashMTL

METHODS = sorted((Path(__file__).resolve().parent.parent / "configs" / "combiner").glob("*.yaml"))
DRAWS = {"graddrop", "pcgrad", "rlw"}  # what they drew is spent


def infinite_slope(losses, reach):
    """The first loss as it is, with an infinite gradient: √x at 0 of what it is to reach."""
    return torch.stack([losses[0] + reach.flatten()[0].sub(reach.flatten()[0].item()).sqrt(), *losses[1:]])


BAD = {
    "NaN loss": lambda example: example.losses() * torch.tensor([1, float("nan"), 1]),
    "infinite loss": lambda example: example.losses() + torch.tensor([0, 0, float("inf")]),
    "negative infinite loss": lambda example: example.losses() - torch.tensor([float("inf"), 0, 0]),
    "shared gradient": lambda example: infinite_slope(example.losses(), example.trunk[0].weight),
    "head's gradient": lambda example: infinite_slope(example.losses(), example.heads[0].weight),
}


def train(combiner, bad=None, steps=6):
    """Parameters and combiner after some steps, with one bad call before the fifth."""
    example = Example()
    backward = example.backward(combiner)
    optimizer = torch.optim.SGD(example.parameters, lr=0.05)
    for step in range(steps):
        for losses in [bad] * (step == 4 and bad is not None) + [Example.losses]:
            backward(losses(example))
            assert bool(backward.finite) == (losses is Example.losses)
            assert all(bool(parameter.grad.any()) == bool(backward.finite) for parameter in example.parameters)
            optimizer.step()
            if backward.looks_back:
                backward.after_step(losses(example))
    return torch.cat([parameter.detach().flatten() for parameter in example.parameters]), backward


@functools.cache
def without_a_bad_call(path):
    return train(instantiate(OmegaConf.load(path)))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_bad_call_leaves_no_trace(path, bad):
    found, backward = train(instantiate(OmegaConf.load(path)), BAD[bad])
    expected, reference = without_a_bad_call(path)
    for name, tensor in reference.combiner.state.items():
        if path.stem not in DRAWS:
            torch.testing.assert_close(backward.combiner.state[name], tensor, rtol=1e-12, atol=0)
    if path.stem not in DRAWS:
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert found.isfinite().all()


def test_dwa_goes_on_after_a_nan():
    """With a window that the bad call falls into, so that the weights depend on it."""
    found, backward = train(DWA(window=2), BAD["NaN loss"], steps=8)
    expected, reference = train(DWA(window=2), steps=8)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    weights = backward.combiner.diagnostics["weight"]
    torch.testing.assert_close(weights, reference.combiner.diagnostics["weight"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [SI, FAMO])
def test_a_task_is_not_given_up_after_minus_infinity(make):
    _, backward = train(make(), BAD["negative infinite loss"])
    assert (backward.combiner.diagnostics["weight"] > 1e-3).all()


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_losses_after_the_step_that_are_not_finite(loss):
    """The step has happened; what the combiner would learn from them has not."""
    example, combiner = Example(), FAMO()
    backward = example.backward(combiner)
    backward(example.losses())
    before = combiner.state_dict()
    backward.after_step(example.losses() * torch.tensor([1.0, loss, 1.0]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in combiner.state.items())
    with torch.no_grad():
        example.trunk[0].weight -= example.trunk[0].weight.grad
    backward.after_step(example.losses())
    assert not torch.equal(combiner.state["logits"], before["logits"])


def test_a_solution_that_was_to_be_kept():
    """NashMTL solves in every third update: where that one is masked, the others still train."""
    example = Example()
    backward = example.backward(NashMTL(update_every=3))
    backward(BAD["NaN loss"](example))
    for _ in range(2):
        backward(example.losses())
        assert backward.finite
        assert all(parameter.grad.any() for parameter in example.trunk.parameters())


def test_what_is_large_is_not_infinite():
    """Gradients far beyond what is meant, but whose squares are numbers still."""
    example = Example(dtype=torch.float32)
    backward = example.backward(Rows())
    backward(example.losses() * 1e15)
    assert backward.finite
    assert any(parameter.grad.any() for parameter in example.parameters)


def test_a_bad_row_of_weight_zero_counts():
    example = Example()
    backward = example.backward(Rows())
    assert Rows.fixed[1] == 0
    backward(BAD["NaN loss"](example))
    assert not backward.finite


@pytest.mark.parametrize("make", [ConicGrad, LS])
def test_finite_is_a_tensor_on_the_device(make):
    backward = Example().backward(make())
    assert backward.finite.dtype == torch.bool
    assert backward.finite.shape == ()
