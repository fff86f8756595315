"""What `MultiTaskBackward` says of arguments of the wrong kind, and of combiners that cannot work."""

import pytest
import torch
from supervised import NUM_TASKS, Example
from torch import nn

from mtrl_conic import MultiTaskBackward
from mtrl_conic.combiners import LS, Combiner, ConicGrad, NashMTL, PCGrad
from mtrl_conic.combiners.trial import TrialError, try_out


class Returns(Combiner):
    """Gives whatever it was made with; an exception is raised."""

    def __init__(self, given):
        super().__init__()
        self.given = given

    def weights(self, gramian, losses):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


class Losses(Returns):
    requires = "losses"


class Forgets(Combiner):
    """Returns a direction, but leaves the tensor alone that it is to write."""

    requires = "jacobian"

    def direction(self, jacobian, losses, out=None):
        return jacobian.mean(1)


class Direction(Forgets):
    def direction(self, jacobian, losses, out=None):
        return jacobian.mean(1)[:, :-1]


class Stateful(Combiner):
    def setup(self, seeds, num_tasks, device="cpu"):
        self.state = {"memory": torch.zeros(num_tasks)}

    def weights(self, gramian, losses):
        return torch.ones_like(losses)


class Talks(Combiner):
    def weights(self, gramian, losses):
        self.diagnostics["matrix"] = gramian
        return torch.ones_like(losses)


class Late(Combiner):
    """Makes its state in the first update."""

    def weights(self, gramian, losses):
        self.state["memory"] = losses.clone()
        return torch.ones_like(losses)


class LooksBack(Combiner):
    requires, looks_back = "losses", True

    def weights(self, gramian, losses):
        return torch.ones_like(losses)

    def after_step(self, losses):
        raise KeyError("before")


class SetUp(Combiner):
    def setup(self, seeds, num_tasks, device="cpu"):
        self.table = {}[num_tasks]


THREE = torch.ones(1, 3)
UNFIT = {
    r"Returns\.weights must return a floating tensor \[S, K\] = \[1, 3\], not \[3\]": Returns(THREE[0]),
    r"Returns\.weights .* not \[1, 3, 1\]": Returns(THREE.unsqueeze(2)),
    r"Returns\.weights .* not one of torch.int64": Returns(THREE.long()),
    r"Returns\.weights .* not list": Returns([1, 1, 1]),
    r"Returns\.weights .* not NoneType": Returns(None),
    r"Returns\.weights .* finite": Returns(THREE * torch.nan),
    r"Returns fails when tried: RuntimeError: no luck \(test_backward_input.py, line \d+\)": Returns(
        RuntimeError("no luck\nat all")
    ),
    r"Losses\.weights .* \[1, 3\], not \[1, 4\]": Losses(torch.ones(1, 4)),
    r"Losses fails when tried: ValueError: mine": Losses(ValueError("mine")),
    r"Forgets\.direction must write": Forgets(),
    r"Direction\.direction must return a floating tensor \[S, P\] = \[1, 5\], not \[1, 4\]": Direction(),
    r"Stateful\.state\['memory'\] must be a tensor \[S, \.\.\.\] = \[1, \.\.\.\], not \[3\]": Stateful(),
    r"Talks\.diagnostics\['matrix'\] must be a tensor \[S\] = \[1\] or \[S, K\] = \[1, 3\], not \[1, 3, 3\]": Talks(),
    r"Late fails when tried: ValueError": Late(),
    r"LooksBack fails when tried: KeyError: 'before'": LooksBack(),
    r"SetUp fails when tried: KeyError: 3": SetUp(),
    r"Combiner fails when tried: TypeError: Combiner defines neither": Combiner(),
}


@pytest.mark.parametrize("message", UNFIT)
def test_a_combiner_that_cannot_work_is_refused_at_set_up(message):
    with pytest.raises(TrialError, match=message) as caught:
        MultiTaskBackward(UNFIT[message], Example().trunk.parameters(), num_tasks=NUM_TASKS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [PCGrad, NashMTL, ConicGrad])
def test_the_trial_leaves_no_trace(make):
    """Neither in the combiner, whose random numbers and counts are those of a fresh one, nor in torch's generator."""
    example, tried, fresh = Example(), make(), make()
    before = torch.get_rng_state()
    backward = example.backward(tried, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    fresh.setup([3], NUM_TASKS)
    for _ in range(2):
        backward(example.losses())
        expected = fresh.direction(example.jacobian(), example.losses().detach().unsqueeze(0))
        found = torch.cat([parameter.grad.flatten() for parameter in example.trunk.parameters()])
        torch.testing.assert_close(found, expected[0], rtol=1e-10, atol=1e-12)


def test_the_trial_has_the_seeds_and_tasks_of_the_run():
    class Seen(LS):
        def setup(self, seeds, num_tasks, device="cpu"):
            self.made_for = (list(seeds), num_tasks)

        def weights(self, gramian, losses):
            self.shape = losses.shape
            return super().weights(gramian, losses)

    combiner = Seen()
    try_out(combiner, [4, 9], 7)
    assert combiner.made_for == ([4, 9], 7)
    assert combiner.shape == (2, 7)


WEIGHT = nn.Parameter(torch.ones(3))
LAYER = nn.Linear(2, 2)
WRONG = {
    r"combiner must be an object such as mtrl_conic\.combiners\.ConicGrad\(\), not 'cagrad'": {"combiner": "cagrad"},
    r"combiner must be an instance: pass ConicGrad\(\.\.\.\)": {"combiner": ConicGrad},
    r"shared must be parameters, not a module: pass the parameters\(\) of Linear": {"shared": LAYER},
    r"heads must be parameters, not a module: pass the parameters\(\) of ModuleList": {"heads": nn.ModuleList([LAYER])},
    r"shared holds a module": {"shared": [LAYER, LAYER]},
    r"shared must be an iterable of parameters, not Parameter": {"shared": WEIGHT},
    r"shared must hold parameters only, not tuple": {"shared": LAYER.named_parameters()},
    r"shared must hold parameters only, not str": {"shared": dict(LAYER.named_parameters())},
    r"shared must be an iterable of parameters, not NoneType": {"shared": None},
    r"num_tasks must be a whole number, not 3\.0": {"num_tasks": 3.0},
    r"seed must be a whole number, not '0'": {"seed": "0"},
    r"process_group must be a torch\.distributed\.ProcessGroup, None or False, not True": {"process_group": True},
    r"process_group must be .* not 'gloo'": {"process_group": "gloo"},
}


@pytest.mark.parametrize("message", WRONG)
def test_arguments_of_the_wrong_type(message):
    arguments = {"combiner": LS(), "shared": [WEIGHT], "heads": [], "num_tasks": 3} | WRONG[message]
    with pytest.raises(TypeError, match=message) as caught:
        MultiTaskBackward(**arguments)
    assert "\n" not in str(caught.value)


def test_arguments_out_of_their_range():
    for arguments, message in (
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"shared": [WEIGHT * 2]}, "computed from others"),
        ({"shared": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]}, "must be real"),
        ({"process_group": torch.distributed.GroupMember.NON_GROUP_MEMBER}, "not in that group"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiTaskBackward(**({"combiner": LS(), "shared": [WEIGHT], "num_tasks": 3} | arguments))


def test_a_parameter_list_is_an_iterable_of_parameters():
    MultiTaskBackward(LS(), nn.ParameterList([WEIGHT]), num_tasks=3)


BAD_LOSSES = {
    "one is of type float": lambda loss: [loss, loss, 0.5],
    "not float": lambda loss: 0.5,
    "not dict": lambda loss: {"first": loss},
    "not str": lambda loss: "abc",
    "must be floating, not torch.complex64": lambda loss: [loss, loss, loss * torch.ones((), dtype=torch.complex64)],
}


@pytest.mark.parametrize("message", BAD_LOSSES)
def test_losses_of_the_wrong_type(message):
    backward = MultiTaskBackward(ConicGrad(), [WEIGHT], num_tasks=3)
    for call in (backward, backward.accumulate, backward.after_step):
        with pytest.raises(TypeError, match=message):
            call(BAD_LOSSES[message](WEIGHT.sum()))


def test_losses_on_another_device_are_named():
    backward = MultiTaskBackward(ConicGrad(), [WEIGHT], num_tasks=3)
    with pytest.raises(ValueError, match="parameters' device, cpu, not on meta"):
        backward([torch.ones((), device="meta")] * 3)
