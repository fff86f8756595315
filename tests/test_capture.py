"""Recorded steps: on the CPU with a graph that computes anew at each replay, on a GPU with the real one."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from conftest import TOY, records
from meta_device import OneDevice, update_and_act
from resuming import COMBINERS, CUT, TOTAL, assert_same_run, assert_same_state, run_here
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mtrl_conic.agents.sac
import mtrl_conic.training.trainer
from mtrl_conic.agents.protocol import Setting
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.system.capture import Captured, CaptureError
from mtrl_conic.training.device_steps import device_steps

K, O, A, B = 3, 5, 2, 8
# An update that builds no Jacobian in between is another recording; a schedule counts on the device, where observations
# have their moments too.
VARIANTS = {
    "nashmtl": ["combiner.update_every=3"],
    "conicgrad": ["combiner.schedule=conflict", "combiner.c_end=0.5"],
    "ls": ["agent.normalise_observations=true"],
}
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Made(TorchDispatchMode):
    """Notes which memory is first seen as a result: what a graph makes, and so can write again at a replay."""

    def __init__(self):
        super().__init__()
        self.tensors, self.given, self.made = [], set(), set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self._note((args, kwargs), self.given, self.made)
        result = operation(*args, **(kwargs or {}))
        self._note(result, self.made, self.given)
        return result

    def _note(self, tree, to, unless_in):
        for tensor in tree_leaves(tree):
            if isinstance(tensor, torch.Tensor) and address(tensor) not in unless_in:
                self.tensors.append(tensor)  # so that the address is not used again
                to.add(address(tensor))


def address(tensor):
    return tensor.untyped_storage().data_ptr()


class RecordedOnTheHost:
    """A `Graph` without a device: capturing is the first execution, which the replay after it must not repeat.

    As with a real one, what a replay computes is found in tensors made while it was captured, and in those older ones
    that the function itself writes to.
    """

    def __init__(self):
        self.function, self.result, self.replays, self.made = None, None, 0, Made()

    def capture(self, function):
        with self.made:
            self.function, self.result = function, function()
        return self.result

    def replay(self):
        self.replays += 1
        if self.replays == 1:
            return
        result = self.function()
        if not isinstance(result, dict):
            self.result.copy_(result)
            return
        for name, tensor in self.result.items():
            if address(tensor) in self.made.made:
                tensor.copy_(result[name])


class Quiet(RecordedOnTheHost):
    """Undoes what a second execution counts on the host, which a graph's replay does not."""

    def __init__(self, combiners):
        super().__init__()
        self.combiners = combiners

    def replay(self):
        before = [vars(combiner).get("_updates") for combiner in self.combiners]
        super().replay()
        for combiner, count in zip(self.combiners, before, strict=True):
            if count is not None and self.replays > 1:
                combiner._updates = count


def make(combiner, device="cpu", *settings):
    sizes = ["agent.hidden_sizes=[16,16]", "capacity_per_task=100", f"batch_size_per_task={B}", "warmup_steps=0"]
    config = compose_config(["env=toy", f"combiner={combiner}", *sizes, *settings])
    agent = config.make_agent()
    agent.setup(Setting([3, 5], K, O, A, make_combiner=config.make_combiner, device=device))
    rows = torch.randn(2, K, 100, 2 * O + A + 2, generator=torch.Generator().manual_seed(0))
    rows[..., -1] = 0
    agent.memory.write_rows(0, rows.to(device))
    return agent


def updates(steps, count):
    return [{name: value.clone() for name, value in steps.update().items()} for _ in range(count)]


@pytest.mark.parametrize(
    ("combiner", "settings"), [*((name, []) for name in COMBINERS), *VARIANTS.items()], ids=lambda value: str(value)
)
def test_recorded_updates_equal_plain_ones(combiner, settings):
    plain, agent = (make(combiner, "cpu", *settings) for _ in range(2))
    expected = updates(device_steps(plain), 12)
    graphs = []

    def make_graph():
        graphs.append(Quiet(agent.combiners))
        return graphs[-1]

    found = updates(device_steps(agent, make_graph=make_graph), 12)
    assert any(graph.replays for graph in graphs) == (combiner != "torchjd")
    assert_same_state(found, expected)
    assert_same_state(agent.state_dict(), plain.state_dict())
    assert_same_state(agent.memory.state_dict(), plain.memory.state_dict())


def test_a_recording_takes_new_inputs():
    agent = make("ls")
    steps = device_steps(agent, make_graph=RecordedOnTheHost)
    for number in range(8):
        observation = torch.randn(2, K, 1, O, generator=torch.Generator().manual_seed(number))
        assert torch.equal(steps.exploit(observation), agent.exploit(observation))


def test_there_is_a_recording_for_each_kind():
    made = []

    def make_graph():
        made.append(RecordedOnTheHost())
        return made[-1]

    kinds = iter([0, 1] * 8)
    captured = Captured(lambda x: x + 1, kind=lambda: next(kinds), make_graph=make_graph)
    for number in range(16):
        assert captured(torch.tensor(float(number))).item() == number + 1
    assert [graph.replays for graph in made] == [5, 5]  # of eight calls each, three came before the recording


def test_what_cannot_be_recorded_is_one_line():
    class Refuses(RecordedOnTheHost):
        def capture(self, function):
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    captured = Captured(lambda x: x, make_graph=Refuses)
    x = torch.zeros(())
    for _ in range(3):
        captured(x)
    with pytest.raises(CaptureError, match=r"^operation not permitted when stream is capturing$"):
        captured(x)


def test_a_recorded_run_equals_a_plain_one_and_resumes(tmp_path, monkeypatch):
    more = ["seeds=[3,5]", "env.workers=0", "agent.normalise_observations=true"]
    arguments = [*TOY, "combiner=conicgrad", f"steps_per_task={TOTAL}", *more]
    plain, recorded = tmp_path / "plain", tmp_path / "recorded"
    run_here(compose_config([*arguments, f"run_dir={plain}"]))
    monkeypatch.setattr(
        mtrl_conic.training.trainer, "device_steps", functools.partial(device_steps, make_graph=RecordedOnTheHost)
    )
    run_here(compose_config([*arguments, f"run_dir={recorded}"]), stop=CUT)
    run_here(resume_config(str(recorded), []), resume=True)
    assert_same_run(plain, recorded, TOTAL)


@pytest.mark.parametrize(
    ("combiner", "settings"),
    [*((name, []) for name in COMBINERS if name != "torchjd"), *VARIANTS.items()],
    ids=lambda value: str(value),
)
def test_no_step_reads_or_moves_a_number(combiner, settings, without_numbers):
    steps = device_steps(make(combiner, "meta", *settings))
    steps.update()  # what is kept for later may come from the host
    with OneDevice():
        update_and_act(steps, torch.zeros(2, K, 1, O, device="meta"), A)


def test_a_step_that_reads_or_moves_a_number_is_found():
    number = torch.zeros((), device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        number.item()
    with OneDevice(), pytest.raises(AssertionError, match="mul"):
        number * torch.zeros(())
    with OneDevice(), pytest.raises(AssertionError, match="copy"):
        torch.zeros(()).to("meta")


@needs_a_gpu
@pytest.mark.parametrize(
    ("combiner", "settings"), [*((name, []) for name in COMBINERS), *VARIANTS.items()], ids=lambda value: str(value)
)
def test_cuda_graphs_equal_eager_steps(combiner, settings):
    eager, agent = (make(combiner, "cuda", *settings) for _ in range(2))
    expected = updates(device_steps(eager, graphs=False), 12)
    recorded = device_steps(agent)
    found = updates(recorded, 12)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    same = device_steps(eager, graphs=False)
    for number in range(6):
        observation = torch.randn(2, K, 1, O, generator=torch.Generator().manual_seed(number)).cuda()
        for name in ("explore", "exploit"):
            one, other = (getattr(steps, name)(observation) for steps in (recorded, same))
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for name in ("actor", "critic"):
        torch.testing.assert_close(
            getattr(agent, name).params, getattr(eager, name).params, rtol=1e-4, atol=1e-6, msg=name
        )
    assert_same_state(
        agent.memory.state_dict(), eager.memory.state_dict()
    )  # the streams of random numbers are at the same place


@needs_a_gpu
@pytest.mark.parametrize("combiner", [name for name in COMBINERS if name != "torchjd"])
def test_an_update_never_waits_for_the_gpu(combiner):
    steps = device_steps(make(combiner, "cuda"), graphs=False)
    updates(steps, 1)  # libraries may wait once, when they start
    torch.cuda.set_sync_debug_mode("error")
    try:
        updates(steps, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_a_gpu
def test_a_run_on_cuda_with_graphs(tmp_path):
    arguments = [*TOY[:-2], "device=cuda", "combiner=conicgrad", f"steps_per_task={TOTAL}", "seeds=[3,5]"]
    cut, whole, eager = tmp_path / "cut", tmp_path / "whole", tmp_path / "eager"
    run_here(compose_config([*arguments, f"run_dir={whole}"]))
    run_here(compose_config([*arguments, f"run_dir={cut}"]), stop=CUT)
    run_here(resume_config(str(cut), []), resume=True)
    run_here(compose_config([*arguments, "cuda_graphs=false", f"run_dir={eager}"]))
    returns = {run: [[*line["return"].values()] for line in records(run)] for run in (whole, cut, eager)}
    for run in (cut, eager):  # rounding grows over the episodes
        assert np.asarray(returns[run]) == pytest.approx(np.asarray(returns[whole]), rel=0.02, abs=0.5)
