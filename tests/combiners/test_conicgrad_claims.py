"""The equations and propositions of ConicGrad's paper, arXiv 2502.00217, one by one.

Two readings of Z run through this file, of which `ConicGrad` takes the second (its docstring says why): the printed
Z = c²‖g_0‖² I − g_0 g_0ᵀ, indefinite for c < 1, and the positive definite Z₊ = c²‖g_0‖² I + g_0 g_0ᵀ.
Propositions A.3 and A.4 are in test_conicgrad.py.
"""

import functools
import math

import pytest
import torch
from hard_matrices import make

SIZE, TASKS, PROBLEMS = 12, 4, 50
C = [0.1, 0.5, 0.9]
PRINTED, POSITIVE = -1, 1  # the sign of g_0 g_0ᵀ
COUNTS = (1, 10, 100, 1000)
exactly = functools.partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)


def problems(seed=0):
    """Jacobians [PROBLEMS, TASKS, SIZE] and task weights [PROBLEMS, TASKS], both random."""
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(PROBLEMS, TASKS, SIZE, generator=generator, dtype=torch.float64)
    return jacobian, torch.randn(PROBLEMS, TASKS, generator=generator, dtype=torch.float64).softmax(-1)


def dot(one, other):
    return (one * other).sum(-1, keepdim=True)


def z(mean, c, sign):
    """Z [..., M, M] of mean gradients [..., M]."""
    identity = torch.eye(mean.shape[-1], dtype=mean.dtype)
    return c**2 * dot(mean, mean).unsqueeze(-1) * identity + sign * mean.unsqueeze(-1) * mean.unsqueeze(-2)


def dense(mean, weighted, c, sign):
    """d* = Z⁻¹ g_ω by a dense solve."""
    return torch.linalg.solve(z(mean, c, sign), weighted)


def lagrangian(direction, multiplier, mean, weighted, c, sign):
    """g_ωᵀd − λ/2 dᵀZd; Eq 4 where Z is the printed one, as dᵀZd = c²‖g_0‖²‖d‖² − (g_0ᵀd)² ≤ 0 is the constraint."""
    constraint = c**2 * dot(mean, mean) * dot(direction, direction) + sign * dot(mean, direction) ** 2
    return dot(weighted, direction) - multiplier / 2 * constraint


def mean_and_weighted(jacobian, weights):
    return jacobian.mean(1), (weights.unsqueeze(1) @ jacobian).squeeze(1)


@pytest.mark.parametrize("c", C)
@pytest.mark.parametrize("sign", [PRINTED, POSITIVE])
def test_eq_8_is_the_stationary_point_at_multiplier_one(sign, c):
    mean, weighted = mean_and_weighted(*problems())
    direction = dense(mean, weighted, c, sign).requires_grad_()
    (gradient,) = torch.autograd.grad(lagrangian(direction, 1, mean, weighted, c, sign).sum(), direction)
    exactly(gradient, torch.zeros_like(gradient))
    (other,) = torch.autograd.grad(lagrangian(direction, 1, mean, weighted, c, -sign).sum(), direction)
    assert other.norm(dim=-1).min() > 1e-3, "the two readings have different stationary points"


@pytest.mark.parametrize("c", C)
def test_only_the_positive_definite_reading_has_a_maximum(c):
    """−Z is the Lagrangian's Hessian in d: the printed one has a saddle, as it curves upwards along g_0."""
    mean, _ = mean_and_weighted(*problems())
    for sign, upwards in ((PRINTED, 1), (POSITIVE, 0)):
        function = functools.partial(lagrangian, multiplier=1, mean=mean[0], weighted=mean[1], c=c, sign=sign)
        hessian = torch.autograd.functional.hessian(lambda d, f=function: f(d).squeeze(), mean[2])
        exactly(hessian, -z(mean[0], c, sign))
        assert (torch.linalg.eigvalsh(hessian) > 0).sum() == upwards


@pytest.mark.parametrize("c", C)
@pytest.mark.parametrize("sign", [PRINTED, POSITIVE])
def test_eq_9_has_the_gradient_of_inner_products(sign, c):
    """d/dω_i of ½ g_ωᵀd*(ω) is g_iᵀd*: Z is symmetric and free of ω, so the ½ meets two equal terms."""
    jacobian, weights = problems()
    weights.requires_grad_()
    mean, weighted = mean_and_weighted(jacobian, weights)
    direction = dense(mean, weighted, c, sign)
    (gradient,) = torch.autograd.grad((dot(weighted, direction) / 2).sum(), weights)
    exactly(gradient, (jacobian @ direction.detach().unsqueeze(-1)).squeeze(-1))


@pytest.mark.parametrize("c", C)
def test_the_logits_follow_eq_9(c):
    """After one update with γ = 0, Adam's first moment is 0.1 (diag ω − ω ωᵀ) (g_iᵀd*)_i with d* of Z₊."""
    jacobian, weights = problems()
    combiner = make("conicgrad", range(PROBLEMS), TASKS, c=c, gamma=0)
    combiner.state["logits"].copy_(weights.log())
    combiner.direction(jacobian, torch.ones(PROBLEMS, TASKS))
    mean, weighted = mean_and_weighted(jacobian, weights)
    expected = {}
    for sign in (POSITIVE, PRINTED):
        slope = (jacobian @ dense(mean, weighted, c, sign).unsqueeze(-1)).squeeze(-1)
        expected[sign] = 0.1 * weights * (slope - dot(weights, slope))
    exactly(combiner.state["first_moment"], expected[POSITIVE])
    assert not torch.allclose(combiner.state["first_moment"], expected[PRINTED], rtol=1e-2)


@pytest.mark.parametrize("c", C)
def test_the_logits_descend_eq_9(c):
    """Updates with γ = 0 on fixed gradients lower ½ g_ωᵀd*(ω)."""
    jacobian, _ = problems()
    combiner = make("conicgrad", range(PROBLEMS), TASKS, c=c, gamma=0)
    values = []
    for _ in range(200):
        mean, weighted = mean_and_weighted(jacobian, combiner.state["logits"].softmax(-1))
        values.append(dot(weighted, dense(mean, weighted, c, POSITIVE)) / 2)
        combiner.direction(jacobian, torch.ones(PROBLEMS, TASKS))
    assert (values[-1] < values[0]).all()


def woodbury(mean, weighted, c, d):
    """Eq 14 with a scalar D: g_ω/(c²‖g_0‖²) − g_0 D (g_0ᵀg_ω)/(c⁴‖g_0‖⁴)."""
    scale = c**2 * dot(mean, mean)
    return weighted / scale - mean * d * dot(mean, weighted) / scale**2


@pytest.mark.parametrize("c", C)
@pytest.mark.parametrize("sign", [PRINTED, POSITIVE])
def test_eq_10_to_14_with_the_right_scalar_are_the_exact_inverse(sign, c):
    """D = c²/(1 + c²) inverts Z₊, and D = c²/(1 − c²) the printed Z."""
    mean, weighted = mean_and_weighted(*problems())
    exactly(woodbury(mean, weighted, c, c**2 / (1 + sign * c**2)), dense(mean, weighted, c, sign))


@pytest.mark.parametrize("c", C)
def test_eq_14_as_printed_inverts_neither(c):
    """D = (1 − 1/c²)⁻¹ is −c²/(1 − c²): with the minus sign in front, the part along g_0 has the wrong sign.

    With g_ω = a û + p, û along g_0, it gives (p/c² + a û (2 − c²)/(c²(1 − c²))) / ‖g_0‖². With a plus sign in front it
    would invert the printed Z.
    """
    mean, weighted = mean_and_weighted(*problems())
    printed = 1 / (1 - 1 / c**2)
    found = woodbury(mean, weighted, c, printed)
    unit = mean / mean.norm(dim=-1, keepdim=True)
    along = dot(weighted, unit)
    across = weighted - along * unit
    exactly(found, (across / c**2 + along * unit * (2 - c**2) / (c**2 * (1 - c**2))) / dot(mean, mean))
    for sign in (PRINTED, POSITIVE):
        difference = dot(found - dense(mean, weighted, c, sign), unit).abs()
        assert (difference > 0.5 * along.abs() / dot(mean, mean)).all()
    exactly(woodbury(mean, weighted, c, -printed), dense(mean, weighted, c, PRINTED))


# A.1 and A.2, as tested here: the Lagrangian has no stationary point in its multiplier λ. Its stationary point in d
# is d*(λ) = Z⁻¹g_ω/λ. With q = g_ωᵀZ⁻¹g_ω the value there, the dual function of λ, is q/(2λ). Its derivative, minus
# half of the constraint at d*(λ), is −q/(2λ²): of one sign for all λ > 0, and 0 only in the limit of infinite λ, where
# d* = 0 too. As λ only scales d*, and d* is rescaled, λ = 1 (Eq 8) loses nothing. The exception is q = 0: there d*
# lies on the cone already, and every λ is stationary.
MULTIPLIERS = torch.logspace(-6, 6, 49, dtype=torch.float64)


def at_multiplier(multiplier, mean, weighted, c, sign):
    """d*(λ) [PROBLEMS, M], the dual function and its derivative [PROBLEMS, 1]; λ [PROBLEMS, 1]."""
    multiplier = multiplier.clone().requires_grad_()
    direction = torch.linalg.solve(multiplier.unsqueeze(-1) * z(mean, c, sign), weighted)
    value = lagrangian(direction, multiplier, mean, weighted, c, sign)
    (slope,) = torch.autograd.grad(value.sum(), multiplier)
    return direction.detach(), value.detach(), slope


@pytest.mark.parametrize("c", C)
@pytest.mark.parametrize("sign", [PRINTED, POSITIVE])
def test_no_finite_multiplier_is_stationary(sign, c):
    mean, weighted = mean_and_weighted(*problems())
    unscaled = dense(mean, weighted, c, sign)
    q = dot(weighted, unscaled)
    assert sign == PRINTED or (q > 0).all()
    values = []
    for number in MULTIPLIERS:
        direction, value, slope = at_multiplier(number.expand(PROBLEMS, 1), mean, weighted, c, sign)
        exactly(direction * number, unscaled)
        exactly(value * number, q / 2)
        exactly(slope * number**2, -q / 2)
        assert (slope * q < 0).all()
        values.append(value)
    assert (torch.stack(values).diff(dim=0) * q < 0).all(), "monotone"
    assert (values[-1] * q > 0).all(), "on its way to 0, which it does not reach"


@pytest.mark.parametrize("c", C)
def test_every_multiplier_is_stationary_where_the_solution_is_on_the_cone(c):
    """The exception, which needs the printed Z: g_ω = Z d for a d at the angle arccos c to g_0."""
    mean, other = mean_and_weighted(*problems())
    unit = mean / mean.norm(dim=-1, keepdim=True)
    across = other - dot(other, unit) * unit
    on_cone = c * unit + math.sqrt(1 - c**2) * across / across.norm(dim=-1, keepdim=True)
    weighted = (z(mean, c, PRINTED) @ on_cone.unsqueeze(-1)).squeeze(-1)
    for number in MULTIPLIERS:
        _, value, slope = at_multiplier(number.expand(PROBLEMS, 1), mean, weighted, c, PRINTED)
        exactly(value * number, torch.zeros_like(value))
        exactly(slope * number**2, torch.zeros_like(slope))


# Smooth losses φ ≥ 0 with their derivatives and the largest |φ''|; the last is not convex.
SMOOTH = {
    "quadratic": (lambda x: x.square() / 2, lambda x: x, 1.0),
    "logistic": (lambda x: -torch.nn.functional.logsigmoid(x), lambda x: -torch.sigmoid(-x), 0.25),
    "saturating": (lambda x: x**2 / (1 + x**2), lambda x: 2 * x / (1 + x**2) ** 2, 2.0),
}


class TwoTasks:
    """L_i(θ) = Σ_n φ(x_inᵀθ − t_in); ∇L_0 is Lipschitz with the constant `lipschitz`."""

    def __init__(self, kind, num_samples=8, size=10):
        generator = torch.Generator().manual_seed(0)
        self.value, self.slope, curvature = SMOOTH[kind]
        self.inputs = torch.randn(2, num_samples, size, generator=generator, dtype=torch.float64)
        self.inputs *= torch.tensor([1.0, 3.0], dtype=torch.float64).view(2, 1, 1)
        self.targets = torch.randn(2, num_samples, generator=generator, dtype=torch.float64) * 2
        square = torch.einsum("inp,inq->pq", self.inputs, self.inputs) / 2
        self.lipschitz = curvature * torch.linalg.eigvalsh(square)[-1].item()
        self.starts = torch.randn(8, size, generator=generator, dtype=torch.float64) * 2

    def evaluate(self, points):
        """Losses [S, 2] and Jacobians [S, 2, P] at points [S, P]."""
        residuals = torch.einsum("inp,sp->sin", self.inputs, points) - self.targets
        return self.value(residuals).sum(-1), torch.einsum("sin,inp->sip", self.slope(residuals), self.inputs)


def descend(tasks, combiner, step_size, num_steps):
    """Plain steps: mean losses [T + 1, S], ‖g_0‖² [T, S] and cos(d, g_0) [T, S]."""
    points = tasks.starts.clone()
    combiner.setup(range(len(points)), 2)
    values, squares, cosines = [], [], []
    for _ in range(num_steps):
        losses, jacobian = tasks.evaluate(points)
        mean, direction = jacobian.mean(1), combiner.direction(jacobian, losses)
        values.append(losses.mean(-1))
        squares.append(mean.square().sum(-1))
        cosines.append(torch.cosine_similarity(direction, mean, eps=1e-30))
        points = points - step_size * direction
    return torch.stack([*values, tasks.evaluate(points)[0].mean(-1)]), torch.stack(squares), torch.stack(cosines)


def descent_failures(values, squares, step_size, factor):
    """Where L_0 falls by less than η (c − L η/2) ‖g_0‖², but for rounding: [T, S]."""
    return values[1:] > values[:-1] - step_size * factor * squares + 1e-13 * values[0]


@pytest.mark.parametrize("kind", SMOOTH)
def test_two_tasks_are_as_smooth_as_said(kind):
    tasks = TwoTasks(kind)
    points = tasks.starts.clone().requires_grad_()
    losses, jacobian = tasks.evaluate(points)
    for task in range(2):
        (gradient,) = torch.autograd.grad(losses[:, task].sum(), points, retain_graph=True)
        exactly(gradient, jacobian[:, task])
    for start in tasks.starts:
        hessian = torch.autograd.functional.hessian(lambda x: tasks.evaluate(x[None])[0].mean(), start)
        assert torch.linalg.eigvalsh(hessian).abs().max() <= tasks.lipschitz * (1 + 1e-12)


@pytest.mark.parametrize("c", [pytest.param(0.5, marks=pytest.mark.slow), 0.8])
@pytest.mark.parametrize("kind", SMOOTH)
def test_squared_gradient_falls_like_one_over_t(kind, c):
    """cos(d, g_0) ≥ c and ‖d‖ = ‖g_0‖ put the descent lemma into the form
    L_0(t + 1) ≤ L_0(t) − η (c − L η/2) ‖g_0‖². Summed: min_t ‖g_0‖² ≤ (L_0(0) − L_0(T)) / (η (c − L η/2) T), and
    L_0(T) ≥ L_0*. The step η = c/L makes the factor c/2.
    """
    tasks = TwoTasks(kind)
    step_size, factor = c / tasks.lipschitz, c / 2
    combiner = make("conicgrad", c=c, gamma=0.001)
    values, squares, cosines = descend(tasks, combiner, step_size, COUNTS[-1])
    assert not descent_failures(values, squares, step_size, factor).any()
    for count in COUNTS:
        bound = (values[0] - values[count]) / (step_size * factor * count)
        assert (squares[:count].amin(0) <= bound + 1e-13 * values[0]).all()
    assert ((cosines < c + 1e-9).any(0)).all(), "the cone's surface is reached from every start"


def test_without_the_cone_the_descent_fails():
    """The same steps along the plain closed form break the inequality, so that it is the cone that gives it."""
    tasks, c = TwoTasks("quadratic"), 0.8
    combiner = make("conicgrad", c=c, gamma=0.001, enforce_cone=False)
    values, squares, cosines = descend(tasks, combiner, c / tasks.lipschitz, COUNTS[-1])
    assert descent_failures(values, squares, c / tasks.lipschitz, c / 2).any()
    assert cosines.min() < c
