"""What holds for every combiner: a new yaml in configs/combiner gets all of it."""

import itertools

import pytest
import torch
from hard_matrices import METHODS, SCALES, TASKS, hard_jacobians, make
from torch.utils._python_dispatch import TorchDispatchMode

RANDOM = {"pcgrad"}  # permutation-equivariant in distribution only
SYNCHRONISING = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2")

# method: hyperparameters and a word of the message
BAD = {
    "conicgrad": [
        *[({"c": value}, "c ") for value in (0, 1.5, -1, float("nan"), float("inf"), "abc", "0.5", True, None)],
        *[({"gamma": value}, "gamma ") for value in (-1e-3, float("nan"), float("inf"), "abc", False)],
        *[({"weights_lr": value}, "weights_lr ") for value in (0, -1, float("inf"), "abc", True)],
        *[({"enforce_cone": value}, "enforce_cone ") for value in (1, "yes", None)],
    ],
    "cagrad": [({"c": value}, "c ") for value in (1, -0.1, float("nan"), "abc", True)],
}


class NoSynchronisation(TorchDispatchMode):
    """Refuses the operations that wait for a device, or whose result's shape depends on data."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in SYNCHRONISING, f"{name} waits for the device"
        indices = args[1] if name in ("index", "index_put_", "index_put") else ()
        assert not any(i is not None and i.dtype == torch.bool for i in indices), f"{name} by a boolean mask"
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def losses_of(jacobian, seed=0):
    return torch.rand(jacobian.shape[:2], generator=torch.Generator().manual_seed(seed)) + 0.5


@pytest.mark.parametrize("num_tasks", TASKS)
def test_finite_on_hard_matrices(method, num_tasks):
    scales = (*SCALES, 0.0)
    names, jacobians = zip(*hard_jacobians(num_tasks, size=max(23, num_tasks)).items(), strict=True)
    batch = torch.cat([torch.stack(jacobians) * scale for scale in scales])  # one seed each
    combiner = make(method, range(len(batch)), num_tasks)
    for _ in range(3):
        direction = combiner.direction(batch, losses_of(batch))
        results = {"direction": direction, **combiner.state, **combiner.diagnostics}
        for result, tensor in results.items():
            bad = [i for i, row in enumerate(tensor) if not row.isfinite().all()]
            assert not bad, (result, [(names[i % len(names)], scales[i // len(names)]) for i in bad])
    assert not direction[batch.abs().amax((1, 2)) == 0].any()


@pytest.mark.parametrize("method", [name for name in METHODS if name not in RANDOM])
@pytest.mark.parametrize("num_tasks", TASKS)
def test_permuting_tasks_leaves_the_direction(method, num_tasks):
    order = torch.randperm(num_tasks, generator=torch.Generator().manual_seed(1))
    for name in ("random", "aligned", "conflicting", "badly scaled"):
        jacobian = hard_jacobians(num_tasks)[name].double().unsqueeze(0)
        losses = losses_of(jacobian)
        plain, permuted = make(method, num_tasks=num_tasks), make(method, num_tasks=num_tasks)
        for _ in range(3):
            expected = plain.direction(jacobian, losses)
            found = permuted.direction(jacobian[:, order], losses[:, order])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * jacobian.abs().max().item())


def test_one_task_gives_its_gradient(method):
    combiner = make(method, num_tasks=1)
    for scale in SCALES:
        jacobian = hard_jacobians(1)["random"].unsqueeze(0) * scale
        direction = combiner.direction(jacobian, losses_of(jacobian))
        if method == "cagrad":  # d = g_0 (1 + c)/(1 + c²)
            direction = direction * (1 + combiner.c**2) / (1 + combiner.c)
        torch.testing.assert_close(direction, jacobian[:, 0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_tasks", [2, 10])
def test_seeds_are_independent(method, num_tasks):
    names = ("random", "conflicting", "opposite", "all zero", "badly scaled")
    jacobians = torch.stack([hard_jacobians(num_tasks)[name] for name in names]).double()
    seeds = range(3, 3 + len(names))
    together = make(method, seeds, num_tasks)
    alone = [make(method, [seed], num_tasks) for seed in seeds]
    for update in range(4):
        losses = losses_of(jacobians, update)
        batch = together.direction(jacobians, losses)
        single = [one.direction(jacobians[i : i + 1], losses[i : i + 1]) for i, one in enumerate(alone)]
        scale = jacobians.abs().amax((1, 2)).clamp_min(1).unsqueeze(1)
        torch.testing.assert_close(batch / scale, torch.cat(single) / scale, rtol=1e-12, atol=1e-12)


def test_state_round_trip_in_mid_sequence(method):
    sequence = torch.randn(8, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    first = make(method, (1, 2), 5)
    for jacobian in sequence[:4]:
        first.direction(jacobian, losses_of(jacobian))
    saved = first.state_dict()
    expected = [first.direction(jacobian, losses_of(jacobian)) for jacobian in sequence[4:]]
    second = make(method, (1, 2), 5)
    held = dict(second.state)
    second.load_state_dict(saved)
    assert all(second.state[name] is held[name] for name in held), "state is loaded in place"
    for jacobian, direction in zip(sequence[4:], expected, strict=True):
        assert torch.equal(second.direction(jacobian, losses_of(jacobian)), direction)
        assert all(second.state[name] is held[name] for name in held), "state is updated in place"


@pytest.mark.parametrize("method", [name for name in METHODS if make(name).state])
def test_state_of_another_shape_is_refused(method):
    one, two = make(method, (1,), 5), make(method, (1, 2), 5)
    with pytest.raises(ValueError, match=r"needs shape \[2, .*found shape \[1"):
        two.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="found nothing"):
        two.load_state_dict({})


@pytest.mark.parametrize("num_tasks", [1, 10])
def test_no_host_synchronisation(method, num_tasks):
    combiner = make(method, (0, 1), num_tasks)
    jacobian = torch.randn(2, num_tasks, 7, generator=torch.Generator().manual_seed(0))
    losses = losses_of(jacobian)
    with NoSynchronisation():
        combiner.direction(jacobian, losses)
        combiner.direction(jacobian, losses)


def test_out_is_written(method):
    jacobian = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    out = torch.empty(2, 7)
    direction = make(method, (0, 1), 4).direction(jacobian, losses_of(jacobian), out)
    assert direction.data_ptr() == out.data_ptr()
    assert torch.equal(out, make(method, (0, 1), 4).direction(jacobian, losses_of(jacobian)))


@pytest.mark.parametrize(("name", "settings", "word"), [(n, s, w) for n, rows in BAD.items() for s, w in rows])
def test_bad_hyperparameters_are_named(name, settings, word):
    with pytest.raises(ValueError, match=word) as caught:
        type(make(name))(**settings)
    (value,) = settings.values()
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(METHODS, 2)))
def test_methods_differ_on_conflicting_gradients(one, other):
    jacobian = hard_jacobians(3)["conflicting"].unsqueeze(0)
    losses = losses_of(jacobian)
    first, second = make(one), make(other)
    for _ in range(3):
        directions = [combiner.direction(jacobian, losses) for combiner in (first, second)]
    assert not torch.allclose(*directions, rtol=1e-3)
