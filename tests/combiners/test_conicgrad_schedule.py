"""ConicGrad's options: a cone that moves over training, and a weight decay for each task."""

import math

import pytest
import torch
from conftest import run_command
from hard_matrices import hard_jacobians, make
from test_properties import NoSynchronisation, on_an_accelerator  # noqa: F401

from mtrl_conic.combiners.conicgrad import CONFLICT_RATE, DEGENERATE, ConicGrad
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.system import validation

ENDS = [(0.9, 0.2), (0.2, 0.9), (1.0, 0.5), (0.5, 1.0)]
MOVING = {
    "linear": {"schedule": "linear", "c": 0.9, "c_end": 0.3, "schedule_updates": 12},
    "cosine": {"schedule": "cosine", "c": 0.3, "c_end": 0.9, "schedule_updates": 12},
    "conflict": {"schedule": "conflict", "c": 0.9, "c_end": 0.3},
}


def random_jacobians(num_seeds=2, num_tasks=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spread = 10 ** torch.rand(num_seeds, num_tasks, 1, generator=generator)
    return (torch.randn(num_seeds, num_tasks, 9, generator=generator) * spread).double()


def update(combiner, jacobian):
    return combiner.direction(jacobian, torch.ones(jacobian.shape[:2]))


def cosines(combiner, jacobian, num_updates):
    """The present c [updates, S] over so many updates with the same Jacobian."""
    result = []
    for _ in range(num_updates):
        update(combiner, jacobian)
        result.append(combiner.diagnostics["cone_cosine"].clone())
    return torch.stack(result)


class Fixed:
    """ConicGrad as it was before it had a schedule, operation for operation."""

    def __init__(self, c, gamma, num_seeds, num_tasks):
        self.c, self.gamma, self.updates = c, gamma, 0
        self.logits, self.first, self.second = torch.zeros(3, num_seeds, num_tasks, dtype=torch.float64)

    def weights(self, gramian):
        gramian = gramian / gramian.diagonal(dim1=1, dim2=2).amax(-1)[:, None, None]
        mean_products = gramian.mean(-1, keepdim=True)
        mean_square = mean_products.mean(1, keepdim=True)
        assert (mean_square > DEGENERATE**2).all()
        column = self.logits.softmax(-1).unsqueeze(-1)
        share = torch.bmm(column.mT, mean_products) / mean_square
        along = mean_products * (share / (1 + self.c**2))
        slope = (torch.bmm(gramian, column) - along) / (mean_square * self.c**2)
        self.adam_step((column * (slope - torch.bmm(column.mT, slope))).squeeze(-1))
        return self.direction_weights(gramian, mean_products, mean_square)

    def adam_step(self, gradient):
        gradient = gradient + self.gamma * self.logits
        self.updates += 1
        self.first.lerp_(gradient, 1 - 0.9)
        self.second.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        updates = torch.tensor([[float(self.updates)]], dtype=torch.float64)
        scale = (self.second / (1 - 0.999**updates)).sqrt_().add_(1e-8)
        self.logits.addcdiv_(self.first / (1 - 0.9**updates), scale, value=-0.025)

    def direction_weights(self, gramian, mean_products, mean_square):
        column = self.logits.softmax(-1).unsqueeze(-1)
        share = torch.bmm(column.mT, mean_products) / mean_square
        along = share * (self.c**2 / (1 + self.c**2))
        square = torch.bmm(column.mT, torch.bmm(gramian, column)) / mean_square
        across = (square - share * share).clamp_min_(0).sqrt_()
        along = torch.maximum(along, across * (self.c / max(math.sqrt(1 - self.c**2), 1e-12)))
        weights = column + (along - share) / gramian.shape[-1]
        square = torch.bmm(weights.mT, torch.bmm(gramian, weights))
        return (weights * (mean_square / square).sqrt_()).squeeze(-1)


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
@pytest.mark.parametrize("c", [0.25, 0.75, 1.0])
def test_constant_is_what_it_was(c, num_tasks):
    """But for rounding, which differs between processors where the operations are not the same to the letter."""
    combiner = make("conicgrad", range(8), num_tasks, c=c, gamma=0.01, c_end=0.1, schedule_updates=3)
    fixed = Fixed(c, 0.01, 8, num_tasks)
    for seed in range(40):
        jacobian = random_jacobians(8, num_tasks, seed)
        gramian = jacobian @ jacobian.mT
        found, expected = combiner.weights(gramian, torch.ones(8, num_tasks)), fixed.weights(gramian)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(combiner.state["logits"], fixed.logits, rtol=1e-9, atol=1e-12)
    assert list(combiner.state) == ["logits", "first_moment", "second_moment", "updates"]
    assert "cone_cosine" not in combiner.diagnostics


@pytest.mark.parametrize("schedule", ["linear", "cosine", "conflict"])
@pytest.mark.parametrize("c_end", [None, 0.6])
def test_equal_ends_give_the_constant_cone(schedule, c_end):
    moving = make("conicgrad", range(2), 4, c=0.6, c_end=c_end, schedule=schedule, schedule_updates=5)
    constant = make("conicgrad", range(2), 4, c=0.6)
    for seed in range(10):
        jacobian = random_jacobians(seed=seed)
        torch.testing.assert_close(update(moving, jacobian), update(constant, jacobian), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("c", "c_end"), ENDS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_end_points_and_monotone(schedule, c, c_end):
    steps = 20
    combiner = make("conicgrad", range(2), 4, c=c, c_end=c_end, schedule=schedule, schedule_updates=steps)
    found = cosines(combiner, random_jacobians(), steps + 10)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(found[0], torch.full((2,), c, dtype=torch.float64), **close)
    torch.testing.assert_close(found[steps:], torch.full((10, 2), c_end, dtype=torch.float64), **close)
    assert ((found[: steps + 1].diff(dim=0) * (c_end - c)) > 0).all()
    half = (math.acos(c) + math.acos(c_end)) / 2
    torch.testing.assert_close(found[steps // 2].acos(), torch.full((2,), half, dtype=torch.float64), **close)
    quarter = (found[steps // 4, 0].acos().item() - math.acos(c)) / (math.acos(c_end) - math.acos(c))
    assert quarter == pytest.approx({"linear": 0.25, "cosine": (1 - math.sqrt(0.5)) / 2}[schedule])


@pytest.mark.parametrize(("c", "c_end"), ENDS)
@pytest.mark.parametrize("schedule", ["linear", "cosine", "conflict"])
def test_the_cone_holds_at_its_present_angle(schedule, c, c_end):
    """Far from uniform weights, so that the direction often lies on the cone's surface."""
    num_seeds = 50
    combiner = make("conicgrad", range(num_seeds), 4, c=c, c_end=c_end, schedule=schedule, schedule_updates=20)
    combiner.state["logits"].normal_(generator=torch.Generator().manual_seed(0)).mul_(3)
    on_surface = 0
    for seed in range(30):
        jacobian = random_jacobians(num_seeds, seed=seed)
        direction, mean = update(combiner, jacobian), jacobian.mean(1)
        torch.testing.assert_close(direction.norm(dim=-1), mean.norm(dim=-1))
        excess = torch.cosine_similarity(direction, mean) - combiner.diagnostics["cone_cosine"]
        assert (excess >= -1e-9).all()
        on_surface += (excess <= 1e-9).sum().item()
    assert on_surface > 0.3 * 30 * num_seeds


@pytest.mark.parametrize("schedule", MOVING)
def test_each_update_is_that_of_its_present_c(schedule):
    """Direction and weights equal those of a constant cone that starts from the same state."""
    moving = make("conicgrad", num_tasks=4, **MOVING[schedule])
    seen = set()
    for seed in range(20):
        before, jacobian = moving.state_dict(), random_jacobians(1, seed=seed)
        direction = update(moving, jacobian)
        seen.add(present := moving.diagnostics["cone_cosine"].item())
        constant = make("conicgrad", num_tasks=4, c=present)
        constant.load_state_dict(before)
        torch.testing.assert_close(direction, update(constant, jacobian), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(moving.state["logits"], constant.state["logits"], rtol=1e-9, atol=1e-9)
    assert len(seen) > 10


def test_conflict_opens_the_cone_of_its_own_seed():
    """Seeds whose task pairs disagree never, in 2 of 3 cases, and at every second update."""
    base = torch.tensor([[1.0, 0.1], [1.0, 0.0], [1.0, -0.1]], dtype=torch.float64)
    mixed = base * torch.tensor([[1.0], [1.0], [-0.5]])
    combiner = make("conicgrad", range(3), 3, schedule="conflict", c=0.9, c_end=0.3)
    mean = torch.zeros(3, dtype=torch.float64)
    for step in range(60):
        update(combiner, torch.stack((base, mixed, base if step % 2 else mixed)))
        shares = torch.tensor([0, 2 / 3, 0 if step % 2 else 2 / 3], dtype=torch.float64)
        mean = mean * (1 - CONFLICT_RATE) + shares * CONFLICT_RATE
        angle = math.acos(0.9) + mean * (math.acos(0.3) - math.acos(0.9))
        torch.testing.assert_close(combiner.diagnostics["cone_cosine"], angle.cos())
    torch.testing.assert_close(combiner.state["conflict_mean"].flatten(), mean)
    assert combiner.diagnostics["cone_cosine"][0].item() == pytest.approx(0.9, rel=1e-12)
    opened = combiner.diagnostics["cone_cosine"].clone()
    closing = cosines(combiner, base.expand(3, 3, 2), 20)
    assert (closing.diff(dim=0)[:, 1:] > 0).all()
    assert (closing[-1, 1:] > opened[1:]).all()


def test_conflict_counts_products_that_would_underflow():
    """A product of 1e-320 beside one of 1e+8 is still a conflict."""
    combiner = make("conicgrad", num_tasks=2, schedule="conflict", c_end=0.3)
    gramian = torch.tensor([[[1e8, -1e-320], [-1e-320, 1e8]]], dtype=torch.float64)
    combiner.weights(gramian, torch.ones(1, 2))
    assert combiner.state["conflict_mean"].item() == pytest.approx(CONFLICT_RATE)


def test_each_seed_has_its_own_place_in_the_schedule():
    combiner = make("conicgrad", range(2), 4, **MOVING["linear"])
    combiner.state["updates"][1] = 6
    angles = cosines(combiner, random_jacobians(), 3).acos()
    step = (math.acos(0.3) - math.acos(0.9)) / 12
    expected = math.acos(0.9) + step * torch.tensor([[0, 6], [1, 7], [2, 8]], dtype=torch.float64)
    torch.testing.assert_close(angles, expected)


@pytest.mark.parametrize("schedule", MOVING)
def test_resume_in_mid_schedule(schedule):
    sequence = [random_jacobians(seed=seed) for seed in range(16)]
    first = make("conicgrad", (1, 2), 4, **MOVING[schedule])
    for jacobian in sequence[:5]:
        update(first, jacobian)
    saved = first.state_dict()
    second = make("conicgrad", (1, 2), 4, **MOVING[schedule])
    held = dict(second.state)
    second.load_state_dict(saved)
    for jacobian in sequence[5:]:
        assert torch.equal(update(first, jacobian), update(second, jacobian))
        assert torch.equal(first.diagnostics["cone_cosine"], second.diagnostics["cone_cosine"])
        assert all(second.state[name] is held[name] for name in held), "state is updated in place"
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)
    assert all(tensor.dtype == torch.float64 and len(tensor) == 2 for tensor in first.state.values())


@pytest.mark.usefixtures("on_an_accelerator")
@pytest.mark.parametrize("schedule", MOVING)
def test_no_host_synchronisation(schedule):
    combiner = make("conicgrad", (0, 1), 4, **MOVING[schedule], gamma=[0.1, 0.2, 0.3, 0.4])
    jacobian = random_jacobians()
    with NoSynchronisation():
        update(combiner, jacobian)
        update(combiner, jacobian)
    assert combiner.diagnostics["cone_cosine"].shape == (2,)


@pytest.mark.parametrize("num_tasks", [1, 2, 10])
@pytest.mark.parametrize("settings", [*MOVING.values(), {"c": 1e-300}, {"c": 1e-300, **MOVING["cosine"]}])
def test_finite_on_hard_matrices(settings, num_tasks):
    batch = torch.stack(list(hard_jacobians(num_tasks).values()))
    combiner = make("conicgrad", range(len(batch)), num_tasks, **settings)
    for _ in range(15):
        direction = update(combiner, batch)
        results = (direction, *combiner.state.values(), *combiner.diagnostics.values())
        assert all(tensor.isfinite().all() for tensor in results)


def test_equal_gammas_are_one_gamma_bit_for_bit():
    one, many = (make("conicgrad", range(2), 4, gamma=gamma) for gamma in (0.3, [0.3] * 4))
    for seed in range(10):
        jacobian = random_jacobians(seed=seed)
        assert torch.equal(update(one, jacobian), update(many, jacobian))
    assert torch.equal(one.state["logits"], many.state["logits"])


def test_each_task_decays_by_its_own_gamma():
    gammas = [0.0, 0.5, 2, 0.25]  # whole numbers may stand among them
    with_decay, without = (make("conicgrad", range(2), 4, gamma=gamma) for gamma in (gammas, 0))
    start = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for combiner in (with_decay, without):
        combiner.state["logits"].copy_(start)
        update(combiner, random_jacobians())
    difference = with_decay.state["first_moment"] - without.state["first_moment"]
    torch.testing.assert_close(difference, 0.1 * start * torch.tensor(gammas, dtype=torch.float64))


def test_a_heavy_gamma_holds_its_task_near_the_uniform_weight():
    jacobian = random_jacobians(1, 2)
    logits = {}
    for name, gamma in {"light": [0.001, 0.001], "heavy": [10.0, 0.001]}.items():
        combiner = make("conicgrad", num_tasks=2, gamma=gamma)
        for _ in range(200):
            update(combiner, jacobian)
        logits[name] = combiner.state["logits"][0].abs()
    assert logits["heavy"][0] < 0.2 * logits["light"][0]
    assert logits["heavy"][1] > 0.5 * logits["light"][1]


def test_gammas_for_another_number_of_tasks():
    combiner = ConicGrad(gamma=[0.1, 0.2])
    combiner.setup((0,), 2)
    with pytest.raises(ValueError, match=r"gamma.*2 numbers for 3 tasks"):
        combiner.setup((0,), 3)


def test_gammas_from_the_settings():
    settings = ["env=toy", "combiner=conicgrad"]
    config = compose_config([*settings, "combiner.gamma=[0.1,0.2,0]"])
    assert config.make_combiner().gamma == [0.1, 0.2, 0.0]
    with pytest.raises(ConfigError, match=r"gamma.*2 numbers for 3 tasks"):
        compose_config([*settings, "combiner.gamma=[0.1,0.2]"])


def test_gammas_on_the_command_line(tmp_path):
    process = run_command("env=toy", "combiner=conicgrad", "combiner.gamma=[0.1,0.2]", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.splitlines() == ["error: combiner: gamma=[0.1, 0.2]: 2 numbers for 3 tasks"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_moving_schedule_needs_its_length(schedule):
    with pytest.raises(ValueError, match="schedule_updates must be a whole number of at least 1, not 0"):
        ConicGrad(schedule=schedule, c_end=0.5)


def test_whole_numbers():
    assert [validation.whole("n", value, 1) for value in (1, 7, 2e6)] == [1, 7, 2_000_000]
    for value in (0, -1, 1.5, True, "3", None, math.nan, math.inf):
        with pytest.raises(ValueError, match="n must be a whole number of at least 1"):
            validation.whole("n", value, 1)


def test_choices():
    assert validation.choice("kind", "b", ("a", "b")) == "b"
    for value in ("c", "", None, 1, ["a"]):
        with pytest.raises(ValueError, match="kind must be one of a, b, not "):
            validation.choice("kind", value, ("a", "b"))
