"""Batched convex solvers: bounded iterations, on the tensors' device, nothing read back from an accelerator."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_conic.system.looks import may_look
from mtrl_conic.system.seedwise import by_seed

ITERATIONS = 40  # at most; 5 to 15 do where gradients are not degenerate

_REACH = 0.95  # of the way to the boundary
_SHRINK = 0.1  # of the mean product, an iteration
_START = 0.3  # the first sum of products, as a share of the objective
_GAP, _LEAST_GAP = 1e-6, 1e-15  # the last sum of products: a share of the objective, and the least
_SETTLED = 1e-10  # products this near a target of 1 end the iterations
_TARGET = 1e-12  # the product that stands for 0; where both factors are to be 0, each is the root of it
_ZERO_ROW = 1e-8  # the length of a zero gradient, as a share of the shortest other
_ROUNDING = 1e-15  # of an inner product, as a share of the sum of its terms
_KNOWN = 1e-9  # a squared length is known to the tolerance where it is this share of the square of its terms' sum
# Added to the diagonal of a matrix of cosines in `complementarity`: it bounds the solution where there is none, and
# changes an optimum of squared norm f by about 1e-12/f of itself.
_RIDGE = 1e-12


class SimplexSolution(NamedTuple):
    """Weights [S, K] on the simplex, and an upper bound [S] of how far they are from the optimum, relative to it."""

    weights: Tensor
    gap: Tensor


class Cosines(NamedTuple):
    """A Gramian taken apart: cosines [S, K, K] with a diagonal of 1, norms [S, K], and 1/norm, 0 for zero rows."""

    matrix: Tensor
    norms: Tensor
    inverse: Tensor


def cosines(gramian: Tensor) -> Cosines:
    """The cosines between gradients, which no scale of a task's loss changes; Gramian [S, K, K]."""
    norms = gramian.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    inverse = 1 / norms.clamp_min(torch.finfo(norms.dtype).tiny) * (norms > 0)
    matrix = gramian * inverse.unsqueeze(1) * inverse.unsqueeze(2)
    matrix.diagonal(dim1=1, dim2=2).fill_(1)
    return Cosines(matrix, norms, inverse)


def times(matrix: Tensor, column: Tensor) -> Tensor:
    """The product of matrices [S, ..., n, K] and columns [S, ..., K, 1], to the same bits for any number of seeds.

    The library's takes another routine for one matrix than for several. Some methods amplify such a difference without
    bound, and a seed would learn otherwise alone than among others.
    """
    return (matrix * column.mT).sum(-1, keepdim=True)


def complementarity(matrix: Tensor, offset: Tensor, target: float = _TARGET, ridge: float = _RIDGE) -> Tensor:
    """Find v > 0 with v ∘ (Cv + q) = t, for S problems at once.

    With t near 0 this is the optimum of min ½vᵀCv + qᵀv over v ≥ 0; with t = 1 and q = 0 it is that of
    min ½vᵀCv − Σ log v. A primal-dual interior-point method from v = s = 1 with s standing for Cv + q: Newton
    steps for v ∘ s = μ, μ falling to t, in steps relative to v and s, so that solutions of any size are near.

    Args:
        matrix: C [S, ..., K, K], positive semidefinite, with a diagonal near 1.
        offset: q [S, ..., K, 1], entries up to about 1.
        target: t.
        ridge: added to the diagonal of C.

    Returns:
        v [S, ..., K, 1].
    """
    matrix = matrix + ridge * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    value = torch.ones_like(offset)
    slack = torch.ones_like(offset)
    shrink: Tensor | float = _SHRINK if target < 1 else 1.0
    looking, settled = may_look(matrix), None
    near = _SETTLED if target == 1 else target / 10
    for _ in range(ITERATIONS):
        products = value * slack
        middle = (products.mean(-2, keepdim=True) * shrink).clamp_min_(target) if target < 1 else target
        missing = middle - value * (offset + times(matrix, value))
        if looking:
            now = (missing.abs().amax(-2, keepdim=True) <= near) & torch.as_tensor(middle == target)
            settled = now if settled is None else settled | now
            if bool(settled.all()):
                break
        system = matrix * value * value.mT
        system.diagonal(dim1=-2, dim2=-1).add_(products.squeeze(-1))
        step = solve(system, missing)
        slack_step = middle / products - 1 - step
        length = step_length(torch.minimum(step, slack_step))
        shrink = (1 - length).square_().clamp_min_(_SHRINK)
        value = unless(settled, value * (1 + length * step), value)
        slack = unless(settled, slack * (1 + length * slack_step), slack)
    return value


def unless(settled: Tensor | None, moved: Tensor, kept: Tensor) -> Tensor:
    """The old values of problems [S, 1, 1] that are settled: their result does not depend on how long others take."""
    return moved if settled is None else torch.where(settled, kept, moved)


def solve(matrix: Tensor, *sides: Tensor) -> Tensor:
    """The solutions [S, ..., K, n] for n right-hand sides [S, ..., K, 1] of positive definite systems [S, ..., K, K].

    On the CPU each seed has calls of its own: the library's factors round by where a matrix lies in memory.
    """
    if may_look(matrix):
        return by_seed(_by_cholesky, matrix, torch.cat(sides, -1)).mT
    # CUDA solves a batch at once only for single right-hand sides.
    apart = torch.stack([side.flatten(0, -3) for side in sides], 1)  # [S, n, K, 1]
    factor, _ = torch.linalg.cholesky_ex(matrix.flatten(0, -3))
    solved = torch.cholesky_solve(apart.flatten(0, 1), factor.repeat_interleave(len(sides), 0))
    return solved.view(apart.shape[:3]).mT.unflatten(0, matrix.shape[:-2])


def _by_cholesky(matrix: Tensor, sides: Tensor) -> Tensor:
    """Transposed, which is how the library leaves it in memory."""
    return torch.cholesky_solve(sides, torch.linalg.cholesky_ex(matrix)[0]).mT


def step_length(relative_step: Tensor) -> Tensor:
    """The longest step [S, ..., 1, 1] up to 1 that keeps 1 + length · step [S, ..., K, 1] positive."""
    return _REACH / relative_step.amin(-2, keepdim=True).neg_().clamp_min_(_REACH)


def min_norm_weights(gramian: Tensor) -> SimplexSolution:
    """The weights of the shortest vector in the convex hull of K gradients.

    A primal-dual interior-point method on unit gradients: with y_i = ω_i ‖g_i‖ and a_i ∝ 1/‖g_i‖ it minimises
    ½yᵀCy on aᵀy = 1, to 1e-6 of the optimum however unequal the gradients are. Where they nearly cancel, rounding
    decides: the squared length is known to about 1e-14 of (Σ ω_i ‖g_i‖)².

    Args:
        gramian: [S, K, K].

    Returns:
        Weights, and the gap as a share of the squared length, or of 1e-9 (Σ ω_i ‖g_i‖)² where that is more.
    """
    matrix, norms, _ = cosines(gramian)
    present = norms > 0
    least = torch.where(present, norms, torch.inf).amin(-1, keepdim=True)
    least = torch.where(torch.isfinite(least), least, 1)
    lengths = torch.where(present, norms, _ZERO_ROW * least)
    prices = (lengths.amin(-1, keepdim=True) / lengths).unsqueeze(-1)
    value = _shortest(matrix, prices)
    slope = times(matrix, value)
    square = times(value.mT, slope)
    known = torch.maximum(square, _KNOWN * value.sum(1, keepdim=True).square())
    return SimplexSolution((prices * value).squeeze(-1), (_gap(square, slope, prices, value) / known).flatten())


def _gap(square: Tensor, slope: Tensor, prices: Tensor, value: Tensor) -> Tensor:
    """What is missing [S, 1, 1] in ½yᵀCy at y, up to the rounding of the slope Cy."""
    rounding = _ROUNDING * value.sum(1, keepdim=True)
    return square - ((slope + rounding) / prices).amin(1, keepdim=True)


def _shortest(matrix: Tensor, prices: Tensor) -> Tensor:
    """The y [S, K, 1] > 0 with least yᵀCy among those with pricesᵀy = 1; prices [S, K, 1] in (0, 1]."""
    num_tasks = matrix.shape[-1]
    # The prices do not change the step, which keeps pricesᵀy. The rest is for Cholesky, and for it alone.
    outer = matrix + prices * prices.mT + 1e-14 * torch.eye(num_tasks, dtype=matrix.dtype, device=matrix.device)
    value = 1 / prices.sum(1, keepdim=True).expand_as(prices)
    slope = times(matrix, value)
    square = times(value.mT, slope)
    # y_i times the multiplier of y_i ≥ 0
    products = (_START / num_tasks * square).clamp_min(_LEAST_GAP / num_tasks).expand_as(prices)
    shrink: Tensor | float = _SHRINK
    settled = None
    for _ in range(ITERATIONS):
        floor = (_GAP * square).clamp_min_(_LEAST_GAP)
        if may_look(matrix):
            now = _gap(square, slope, prices, value) <= 2 * floor
            settled = now if settled is None else settled | now
            if bool(settled.all()):
                break
        target = torch.maximum(products.mean(1, keepdim=True) * shrink, floor / num_tasks)
        spent = prices * value
        system = outer * value * value.mT
        system.diagonal(dim1=1, dim2=2).add_(products.squeeze(-1))
        solved = solve(system, slope * value - target, spent)
        sums = (spent * solved).sum(1, keepdim=True)
        step = solved[..., 1:] * (sums[..., :1] / sums[..., 1:]) - solved[..., :1]  # relative to y
        dual_step = target / products - 1 - step
        length, dual_length = step_length(step), step_length(dual_step)
        shrink = (1 - torch.minimum(length, dual_length)).square_().clamp_min_(_SHRINK)
        grown = 1 + length * step
        products = products * grown * (1 + dual_length * dual_step)
        grown = value * grown
        value = unless(settled, grown / times(prices.mT, grown), value)
        slope = times(matrix, value)
        square = times(value.mT, slope)
    return value


def project_to_simplex(points: Tensor) -> Tensor:
    """The nearest point of the simplex to each row of [S, K] (Held, Wolfe and Crowder, Math. Programming 6, 1974)."""
    points = points - points.amax(-1, keepdim=True)  # the 1 would be lost beside large numbers
    ordered = points.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    rank = torch.arange(1, points.shape[-1] + 1, dtype=points.dtype, device=points.device)
    used = (ordered * rank > excess).sum(-1, keepdim=True).clamp_min(1)  # it is 0 only for numbers that are none
    return (points - excess.gather(-1, used - 1) / used).clamp_min_(0)


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [S, K] and eigenvectors [S, K, K] (columns) of symmetric matrices [S, K, K].

    Off the CPU, where the library's routine waits for the device, Jacobi's method with a fixed number of sweeps: what
    is left off the diagonal is rounding up to ten tasks, and 1e-9 of the largest entry at fifty.
    """
    if may_look(matrix):
        values, transposed = by_seed(_eigen, matrix)
        return values, transposed.mT
    return jacobi_eigen(matrix, 8 if matrix.shape[-1] <= 10 else 12)


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvectors transposed, which is how the library leaves them in memory."""
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors.mT


def jacobi_eigen(matrix: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
    """As `symmetric_eigen`, by `sweeps` cycles of Jacobi rotations of K/2 disjoint pairs; eigenvalues unordered."""
    size = matrix.shape[-1]
    vectors = torch.eye(size, dtype=matrix.dtype, device=matrix.device).expand_as(matrix).clone()
    for _ in range(sweeps if size > 1 else 0):
        for first, second in _tournament(size, matrix.device):
            rotation = _rotation(matrix, first, second)
            matrix = rotation.mT @ matrix @ rotation
            vectors = vectors @ rotation
    return matrix.diagonal(dim1=1, dim2=2), vectors


def _rotation(matrix: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The rotation that makes the entries (first, second) zero (Golub and Van Loan, Matrix Computations, 8.5)."""
    off = matrix[:, first, second]
    difference = matrix[:, second, second] - matrix[:, first, first]
    tiny = torch.finfo(matrix.dtype).tiny
    tangent = 2 * off / (difference.abs() + (difference.square() + 4 * off.square()).sqrt()).clamp_min(tiny)
    tangent = torch.where(difference < 0, -tangent, tangent)
    cosine = 1 / (1 + tangent.square()).sqrt()
    sine = tangent * cosine
    rotation = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device).expand_as(matrix).clone()
    rotation[:, first, first] = cosine
    rotation[:, second, second] = cosine
    rotation[:, first, second] = sine
    rotation[:, second, first] = -sine
    return rotation


@lru_cache
def _tournament(size: int, device: torch.device) -> list[tuple[Tensor, ...]]:
    """Rounds of disjoint pairs (first, second) in which each of `size` players meets each other once."""
    players = list(range(size + size % 2))  # a player more than there are stands for a pause
    half = len(players) // 2
    rounds = []
    for _ in range(len(players) - 1):
        pairs = zip(players[:half], reversed(players[half:]), strict=True)
        met = [sorted(pair) for pair in pairs if max(pair) < size]
        rounds.append(torch.tensor(met, device=device).unbind(-1))
        players = [players[0], players[-1], *players[1:-1]]
    return rounds
