"""Numbers that are not finite, in one seed of several: the others and every memory are as if it had not been there."""

import warnings

import pytest
import torch
from hard_matrices import METHODS, make
from test_properties import VARIANTS

from mtrl_conic.combiners import Combiner

SEEDS, TASKS, SIZE = (3, 4, 5), 4, 9
HURT = 1
TORCHJD = {
    "Mean": {},
    "MGDA": {},
    "IMTLG": {},
    "AlignedMTL": {},
    "DualProj": {},
    "ConFIG": {},
    "CAGrad": {"c": 0.4},
    "FairGrad": {"alpha": 1.0},
    "TrimmedMean": {"trim_number": 1},
    "PCGrad": {},
    "GradVac": {},
    "Random": {},
    "ExcessMTL": {},
    "PCD": {},
}
CASES = [
    *((name, {}) for name in METHODS),
    *VARIANTS,
    *(("torchjd", {"aggregator": name, "settings": settings}) for name, settings in TORCHJD.items()),
]


def entry(value):
    def injure(jacobian, losses):
        jacobian[HURT, 2, 5] = value

    return injure


def row(value):
    def injure(jacobian, losses):
        jacobian[HURT, 2] = value

    return injure


def loss(value):
    def injure(jacobian, losses):
        losses[HURT, 2] = value

    return injure


def times(factor):
    def injure(jacobian, losses):
        jacobian[HURT] *= factor

    return injure


NAN, INF = float("nan"), float("inf")
INJURIES = {
    **{f"entry {value}": entry(value) for value in (NAN, INF, -INF)},
    **{f"row {value}": row(value) for value in (NAN, INF)},
    **{f"loss {value}": loss(value) for value in (NAN, INF, -INF)},
    "squares overflow": times(1e200),
}


def draw(update, dtype=torch.float64):
    generator = torch.Generator().manual_seed(update)
    jacobian = torch.randn(len(SEEDS), TASKS, SIZE, generator=generator, dtype=torch.float64)
    return jacobian.to(dtype), torch.rand(len(SEEDS), TASKS, generator=generator, dtype=torch.float64).to(dtype) + 0.5


def one_update(combiner, jacobian, losses, losses_after=None):
    """As a training loop does it; the directions or weights [S, ·]."""
    result = combiner.combine(jacobian.clone(), losses) if combiner.needs_jacobian() else combiner.loss_weights(losses)
    if combiner.looks_back:
        combiner.look_back(0.9 * losses if losses_after is None else losses_after)
    return result


def memory_of(combiner, seed):
    """What is remembered of one seed, streams of random numbers aside."""
    if combiner.state:
        return {name: tensor[seed].clone() for name, tensor in combiner.state.items()}
    saved = combiner.state_dict().get("memory")
    return {} if saved is None else saved[seed]


def assert_same(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(found[name], value)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


def learned(method, settings, updates=3):
    combiner = make(method, SEEDS, TASKS, **settings)
    for update in range(updates):
        one_update(combiner, *draw(update))
    return combiner


@pytest.mark.parametrize("injury", INJURIES)
@pytest.mark.parametrize(("method", "settings"), CASES)
def test_an_injured_seed_is_masked_and_forgets_it(method, settings, injury):
    healthy, injured = learned(method, settings), learned(method, settings)
    before = memory_of(injured, HURT)
    jacobian, losses = draw(9)
    expected = one_update(healthy, jacobian, losses)
    builds = injured.needs_jacobian()
    INJURIES[injury](jacobian, losses)
    found = one_update(injured, jacobian, losses)
    if builds:
        assert not found[HURT].isfinite().any()
    else:
        assert found.isfinite().all()
    for seed in {0, 1, 2} - {HURT}:
        assert torch.equal(found[seed], expected[seed])
        assert_same(memory_of(injured, seed), memory_of(healthy, seed))
    if builds or "loss" in injury:  # nothing else shows in an update without Jacobian
        assert_same(memory_of(injured, HURT), before)
    for update in range(10, 12):
        assert one_update(injured, *draw(update)).isfinite().all()
        one_update(healthy, *draw(update))
        for seed in {0, 1, 2} - {HURT}:
            assert_same(memory_of(injured, seed), memory_of(healthy, seed))


@pytest.mark.parametrize(("method", "settings"), CASES)
def test_squares_that_overflow_float32(method, settings):
    combiner = learned(method, settings)
    for factor in (1e25, 1e38):
        jacobian, losses = draw(9, torch.float32)
        jacobian[HURT] = jacobian[HURT].clamp(-3, 3) * factor
        found = one_update(combiner, jacobian, losses)
        assert found[[0, 2]].isfinite().all()
        assert one_update(combiner, *draw(10, torch.float32)).isfinite().all()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("method", [name for name in METHODS if make(name).looks_back])
def test_a_bad_loss_after_the_step_teaches_nothing(method, bad):
    healthy, injured = learned(method, {}), learned(method, {})
    jacobian, losses = draw(9)
    after = 0.8 * losses
    one_update(healthy, jacobian, losses, after)
    one_update(injured, jacobian, losses, torch.where(torch.arange(3).unsqueeze(1) == HURT, bad, after))
    for seed in (0, 2):
        assert_same(memory_of(injured, seed), memory_of(healthy, seed))
    assert all(tensor.isfinite().all() for tensor in injured.state.values())
    before = memory_of(injured, HURT)
    hurt = losses.clone()
    hurt[HURT] = bad
    one_update(injured, jacobian, hurt, after)  # finite again after a step that did not happen
    assert_same(memory_of(injured, HURT), before)


class OwnDirection(Combiner):
    """A user's: no word of numbers that are not finite, and `out` forgotten."""

    requires = "jacobian"

    def setup(self, seeds, num_tasks, device="cpu"):
        self.state = {"mean": torch.zeros(len(seeds), num_tasks, device=device, dtype=torch.float64)}

    def direction(self, jacobian, losses, out=None):
        assert jacobian.isfinite().all()
        assert losses.isfinite().all()
        self.state["mean"].lerp_(losses, 0.1)
        return jacobian.mean(1)


class OwnWeights(OwnDirection):
    requires = "gramian"

    def weights(self, gramian, losses):
        torch.linalg.cholesky(gramian)  # raises for NaN
        assert losses.isfinite().all()
        self.state["mean"].lerp_(losses, 0.1)
        return torch.ones_like(losses)

    direction = Combiner.direction


@pytest.mark.parametrize("injury", INJURIES)
@pytest.mark.parametrize("kind", [OwnDirection, OwnWeights])
def test_a_users_combiner_is_safe_without_a_line_about_it(kind, injury):
    combiner = kind()
    combiner.setup(SEEDS, TASKS)
    jacobian, losses = draw(0)
    INJURIES[injury](jacobian, losses)
    out = torch.full((3, SIZE), 7.0, dtype=torch.float64)
    assert combiner.combine(jacobian, losses, out) is out
    assert out[HURT].isnan().all()
    assert out[[0, 2]].isfinite().all()
    assert not (out == 7).any()
    assert not combiner.state["mean"][HURT].any()
    assert combiner.state["mean"][0].all()


def test_an_aggregator_that_gives_up_costs_one_seed_one_update(monkeypatch):
    combiner = learned("torchjd", {"aggregator": "GradVac", "settings": {}})
    before = combiner.state_dict()
    kept = combiner._aggregators[HURT].forward

    def gives_up(matrix):
        kept(matrix)  # it has learned and drawn by then
        raise torch.linalg.LinAlgError("did not converge\nat all")

    monkeypatch.setattr(combiner._aggregators[HURT], "forward", gives_up)
    jacobian, losses = draw(9)
    memory = combiner.snapshot()
    with pytest.warns(UserWarning, match=r"GradVac gave seed 4 no direction: did not converge$"):
        found = combiner.combine(jacobian, losses)
    assert found[HURT].isnan().all()
    assert found[[0, 2]].isfinite().all()
    combiner.restore(memory, torch.tensor([False, True, False]))
    after = combiner.state_dict()
    assert_same(after["memory"][HURT], before["memory"][HURT])
    drawn, undrawn = (state["streams"][0]["streams"] for state in (after, before))
    assert torch.equal(drawn[HURT], undrawn[HURT])
    assert not torch.equal(drawn[0], undrawn[0])


def test_other_errors_of_an_aggregator_are_shown(monkeypatch):
    combiner = learned("torchjd", {"aggregator": "Mean", "settings": {}})

    def breaks(matrix):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(combiner._aggregators[HURT], "forward", breaks)
    with pytest.raises(RuntimeError, match="out of memory"):
        combiner.combine(*draw(9))


def test_healthy_numbers_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in METHODS:
            learned(method, {})


class Counting(Combiner):
    """Counts the updates of each seed."""

    def setup(self, seeds, num_tasks, device="cpu"):
        self.state = {"seen": torch.zeros(len(seeds))}

    def weights(self, gramian, losses):
        self.state["seen"] += 1
        return torch.ones_like(losses)


class Scaled(Counting):
    """Has a direction of its own, by way of the default one."""

    def direction(self, jacobian, losses, out=None):
        direction = 2 * super().direction(jacobian, losses)
        return direction if out is None else out.copy_(direction)


def on_the_object(combiner):
    """The same for one object, in place of a class."""
    default = combiner.direction
    combiner.direction = lambda jacobian, losses, out=None: 2 * default(jacobian, losses)
    return combiner


@pytest.mark.parametrize("make_one", [Counting, Scaled, lambda: on_the_object(Counting())])
def test_what_an_injured_seed_learned_by_way_of_the_default_direction_is_undone(make_one):
    combiner = make_one()
    combiner.setup(SEEDS, TASKS)
    jacobian, losses = torch.ones(len(SEEDS), TASKS, SIZE), torch.ones(len(SEEDS), TASKS)
    jacobian[HURT, 0, 0] = torch.nan
    direction = combiner.combine(jacobian, losses)
    assert combiner.state["seen"].tolist() == [float(seed != HURT) for seed in range(len(SEEDS))]
    assert direction.isnan().any(-1).tolist() == [seed == HURT for seed in range(len(SEEDS))]
    combiner.look_back(losses)
