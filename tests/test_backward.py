"""Combiners outside of reinforcement learning: the example of the docs, and what `.grad` must hold."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from supervised import NUM_TASKS, Example, Rows
from torch import nn

from mtrl_conic import MultiTaskBackward
from mtrl_conic.combiners import LS, CAGrad, Combiner, ConicGrad, PCGrad
from mtrl_conic.combiners.products import gramian

ROOT = Path(__file__).resolve().parent.parent
METHODS = sorted((ROOT / "configs" / "combiner").glob("*.yaml"))


class Sometimes(Rows):
    """The same direction, built from the Jacobian in every other update only."""

    updates = 0

    def needs_jacobian(self):
        return self.updates % 2 == 0

    def weights(self, gramian, losses):
        assert (gramian is None) == (not self.needs_jacobian())
        self.updates += 1
        return super().weights(gramian, losses)


class LooksBack(Combiner):
    """Weighs each task by how little its loss fell in the last step."""

    requires, looks_back = "losses", True

    def setup(self, seeds, num_tasks, device="cpu"):
        self.state = {"logits": torch.zeros(len(seeds), num_tasks), "before": torch.zeros(len(seeds), num_tasks)}

    def weights(self, gramian, losses):
        self.state["before"].copy_(losses)
        return self.state["logits"].softmax(-1)

    def after_step(self, losses):
        self.state["logits"] += losses - self.state["before"]


def flat_grad(module):
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


def docs_example():
    """The first code block of the section in docs/combiners.md."""
    section = (ROOT / "docs" / "combiners.md").read_text().partition("## Outside reinforcement learning\n")[2]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def run_docs_example(steps):
    code = docs_example()
    assert "range(200)" in code
    torch.manual_seed(0)
    namespace = {}
    exec(code.replace("range(200)", f"range({steps})"), namespace)
    return torch.stack(namespace["losses"])


def test_the_example_of_the_docs():
    assert len([line for line in docs_example().splitlines() if line.strip()]) < 20
    before, after = run_docs_example(1), run_docs_example(200)
    assert (after < 0.2 * before).all(), (before, after)


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_every_method_trains_the_example(path):
    example = Example(dtype=torch.float32)
    backward = example.backward(instantiate(OmegaConf.load(path)))
    optimizer = torch.optim.Adam(example.parameters, lr=1e-3)
    before = example.losses().detach()
    for _ in range(60):
        backward(example.losses())
        optimizer.step()
        if backward.looks_back:
            backward.after_step(example.losses())
    after = example.losses().detach()
    assert after.isfinite().all()
    assert after.mean() < before.mean()


@pytest.mark.parametrize("make", [Rows, ConicGrad, CAGrad, PCGrad])
def test_direction_is_the_combiners(make):
    example, reference = Example(), make()
    backward = example.backward(make(), seed=7)
    reference.setup([7], NUM_TASKS)
    for _ in range(3):
        losses = example.losses()
        backward(losses)
        expected = reference.direction(example.jacobian(), losses.detach().unsqueeze(0))
        torch.testing.assert_close(flat_grad(example.trunk), expected[0], rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            for parameter in example.parameters:
                parameter -= 0.01 * parameter.grad


def test_rows_are_the_tasks_gradients():
    example, combiner = Example(), Rows()
    example.backward(combiner, seed=7)(example.losses())
    assert combiner.made_for == ([7], NUM_TASKS, torch.device("cpu"))
    torch.testing.assert_close(combiner.seen, example.jacobian(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("combiner", [LS(), Rows()], ids=["LS", "Jacobian"])
def test_heads_follow_the_mean_loss(combiner):
    example = Example()
    example.losses().mean().backward()
    expected_trunk, expected_heads = flat_grad(example.trunk), flat_grad(example.heads)
    example.backward(combiner)(example.losses())
    torch.testing.assert_close(flat_grad(example.heads), expected_heads, rtol=1e-10, atol=1e-14)
    if isinstance(combiner, LS):
        torch.testing.assert_close(flat_grad(example.trunk), expected_trunk, rtol=1e-10, atol=1e-14)


def test_an_update_without_jacobian_is_the_same_update():
    example, combiner = Example(), Sometimes()
    backward = example.backward(combiner)
    grads = []
    for _ in range(4):
        backward(example.losses())
        grads.append((flat_grad(example.trunk).clone(), flat_grad(example.heads).clone()))
    assert combiner.updates == 4
    for trunk, heads in grads[1:]:
        torch.testing.assert_close(trunk, grads[0][0], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(heads, grads[0][1], rtol=1e-10, atol=1e-14)


def test_without_heads():
    example = Example()
    (torch.tensor(Rows.fixed) * example.losses()).sum().backward()
    expected = [parameter.grad for parameter in example.parameters]
    backward = MultiTaskBackward(Sometimes(), example.parameters, num_tasks=NUM_TASKS)
    for _ in range(2):
        backward(example.losses())
        torch.testing.assert_close([parameter.grad for parameter in example.parameters], expected)


def test_parameters_that_a_loss_does_not_reach():
    lone, both, idle = (nn.Parameter(torch.ones(2)) for _ in range(3))
    combiner = Rows()
    backward = MultiTaskBackward(combiner, [lone, both, idle], num_tasks=3)
    backward([(lone * both * idle).sum()] * 3)  # fills what is to be zero the next time
    backward([(lone * both).sum(), both.sum(), torch.tensor(1.0)])
    assert torch.equal(combiner.seen[0], torch.tensor([[1.0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]))
    assert torch.equal(idle.grad, torch.zeros(2))
    assert torch.equal(lone.grad, torch.full((2,), 0.5))


def test_separate_losses_leave_each_other_alone(monkeypatch):
    """The gradient of √x at 0 is infinite; in a pass from a stacked tensor it meets zeros from the other tasks."""
    weight = nn.Parameter(torch.tensor([1.0]))
    combiner = Rows()  # which is never shown such numbers
    monkeypatch.setattr(combiner, "combine", combiner.direction)
    MultiTaskBackward(combiner, [weight], num_tasks=3)([weight.sum(), (weight - 1).sum().sqrt(), 2 * weight.sum()])
    assert torch.equal(combiner.seen.flatten(), torch.tensor([1.0, float("inf"), 2.0]))


def test_scalars_and_stacked_losses_agree():
    example, combiner = Example(), Rows()
    backward = example.backward(combiner)
    backward(example.losses())
    stacked, grad = combiner.seen, flat_grad(example.heads).clone()
    backward([loss.reshape(1) if index else loss for index, loss in enumerate(example.losses())])
    assert torch.equal(combiner.seen, stacked)
    assert torch.equal(flat_grad(example.heads), grad)


@pytest.mark.parametrize("make", [LS, ConicGrad])
@pytest.mark.parametrize("zero_grad", [{"set_to_none": True}, {"set_to_none": False}, None], ids=str)
def test_zero_grad_is_allowed_and_not_needed(make, zero_grad):
    example = Example()
    backward = example.backward(make())
    optimizer = torch.optim.SGD(example.parameters, lr=0)
    backward(example.losses())
    first = flat_grad(example.trunk).clone()
    pointers = [parameter.grad.data_ptr() for parameter in example.parameters]
    if zero_grad is not None:
        optimizer.zero_grad(**zero_grad)
    second = example.backward(make())  # with fresh weights, as ConicGrad's move
    second(example.losses())
    assert torch.equal(flat_grad(example.trunk), first)
    backward(example.losses())
    assert [parameter.grad.data_ptr() for parameter in example.parameters] == pointers
    start = pointers[0]
    for parameter, pointer in zip(example.parameters, pointers, strict=True):  # one flat vector
        assert pointer == start
        start += parameter.numel() * parameter.element_size()


def test_a_combiner_that_looks_back():
    example, combiner = Example(dtype=torch.float32), LooksBack()
    backward = example.backward(combiner)
    assert backward.looks_back
    assert not example.backward(ConicGrad()).looks_back
    optimizer = torch.optim.SGD(example.parameters, lr=0.1)
    losses = example.losses()
    backward(losses)
    optimizer.step()
    again = example.losses()
    backward.after_step(again)
    torch.testing.assert_close(combiner.state["logits"], (again - losses).detach().unsqueeze(0))
    backward(again)
    torch.testing.assert_close(combiner.diagnostics["weight"], combiner.state["logits"].softmax(-1))


def test_state_round_trip():
    example = Example()
    first, second = example.backward(ConicGrad()), example.backward(ConicGrad())
    for _ in range(3):
        first(example.losses())
    second.load_state_dict(first.state_dict())
    first(example.losses())
    expected = flat_grad(example.trunk).clone()
    second(example.losses())
    assert torch.equal(flat_grad(example.trunk), expected)


def test_half_precision():
    example = Example(dtype=torch.bfloat16)
    example.backward(ConicGrad())(example.losses())
    assert flat_grad(example.trunk).dtype == torch.bfloat16
    assert flat_grad(example.trunk).isfinite().all()


def test_gramian_of_the_same_rows():
    """The weights come from the Gramian of the very Jacobian that the direction is made of."""
    example, combiner = Example(), ConicGrad()
    example.backward(combiner)(example.losses())
    weights = combiner.diagnostics["weight"]
    products = gramian(example.jacobian())
    norm = (weights.unsqueeze(1) @ products @ weights.unsqueeze(2)).sqrt().item()
    assert flat_grad(example.trunk).norm().item() == pytest.approx(norm, rel=1e-9)


def parameter(*shape, **settings):
    return nn.Parameter(torch.ones(*shape, **settings))


def frozen():
    return nn.Parameter(torch.ones(2, 3), requires_grad=False)


TWICE = parameter(2)
BAD = {
    "no shared parameters": ([], [parameter(2)], 2),
    r"\[2, 3\] does not require grad": ([parameter(2), frozen()], [], 2),
    "one dtype, not torch.float32, torch.float64": ([parameter(2)], [parameter(2, dtype=torch.float64)], 2),
    "one device, not cpu, meta": ([parameter(2)], [parameter(2, device="meta")], 2),
    "given twice": ([TWICE], [TWICE], 2),
    "num_tasks must be at least 1, not 0": ([parameter(2)], [], 0),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_parameters_are_named(message):
    shared, heads, num_tasks = BAD[message]
    with pytest.raises(ValueError, match=message) as caught:
        MultiTaskBackward(LS(), shared, heads, num_tasks=num_tasks)
    assert "\n" not in str(caught.value)


def test_bad_losses_are_named():
    weight = parameter(3)
    backward = MultiTaskBackward(ConicGrad(), [weight], num_tasks=3)
    for losses in (weight.unsqueeze(1), weight[:2], weight.sum(), [weight.sum()], [weight, weight, weight]):
        with pytest.raises(ValueError, match=r"losses must have shape \[3\]"):
            backward(losses)
        with pytest.raises(ValueError, match=r"losses must have shape \[3\]"):
            backward.after_step(losses)
    with pytest.raises(ValueError, match="do not require grad"):
        backward(weight.detach())


def test_importing_the_package_stays_cheap():
    code = "import sys, mtrl_conic; assert 'torch' not in sys.modules; mtrl_conic.MultiTaskBackward; mtrl_conic.nothing"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "AttributeError: module 'mtrl_conic' has no attribute 'nothing'" in process.stderr
