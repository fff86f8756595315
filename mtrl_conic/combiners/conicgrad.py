"""ConicGrad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_conic.combiners._adam import adam_state, adam_step
from mtrl_conic.combiners.base import SolverCombiner
from mtrl_conic.combiners.cone_solver import best_in_cone
from mtrl_conic.system import validation
from mtrl_conic.system.seedwise import matmul

# A sum of gradients is trusted where its norm is at least this share of what it is summed from. Below it the
# rounding of a float64 Gramian (1e-16 of its largest entry) reaches 1e-6 of the squared norm.
DEGENERATE = 1e-5

# Of the running mean of the conflict: it looks back over the last hundred updates.
CONFLICT_RATE = 0.01

# The solved direction gives way to another that is better for the worst task by more than this share of the optimum.
_TIE = 1e-6

_SCHEDULES = ("constant", "linear", "cosine", "conflict")


class _Cone(NamedTuple):
    """c, its square and the cotangent of arccos c: numbers, or [S, 1, 1] where they move."""

    cosine: float | Tensor
    square: float | Tensor
    cotangent: float | Tensor


class _Update(NamedTuple):
    """The gradients of an update as their Gramian [S, K, K], its largest diagonal entry 1, and the cone.

    `mean_products` are g_iᵀg_0 [S, K, 1], `mean_square` is ‖g_0‖² [S, 1, 1], at least `DEGENERATE`², and `usable`
    whether it was.
    """

    gramian: Tensor
    mean_products: Tensor
    mean_square: Tensor
    usable: Tensor
    cone: _Cone


class ConicGrad(SolverCombiner):
    """The paper's iteration for the worst task, kept in its cone around the mean gradient; or the best in that cone.

    "Fantastic Multi-Task Gradient Updates and How to Find Them In a Cone", arXiv 2502.00217. The problem (Eq 2-3)
    is max_d min_i g_iᵀd subject to cos(d, g_0) ≥ c. With task weights ω on the simplex, g_ω = Σ ω_i g_i and the
    multiplier set to 1 (Eq 8), d* = Z⁻¹ g_ω; ω descends ½ g_ωᵀd*(ω) (Eq 9) by one step per update, d* is formed
    anew with the new ω and rescaled to ‖g_0‖. This follows the problem and does not solve it: d is not the best for
    the worst task in the cone, not even with an ω that has converged. `weights="exact"` is, at every update.

    **The sign of Z.** The paper's Z = c²‖g_0‖² I − g_0 g_0ᵀ is indefinite for c < 1: along g_0 its eigenvalue is
    (c² − 1)‖g_0‖², so the exact inverse turns the part of g_ω along g_0 round, and at uniform weights gives an
    ascent direction (a test shows it). What descends, and agrees with the paper's toy figure, is the positive
    definite Z₊ = c²‖g_0‖² I + g_0 g_0ᵀ. For g_ω = s g_0 + p with p ⟂ g_0, Sherman-Morrison gives
    d* = Z₊⁻¹ g_ω = (p/c² + s g_0/(1 + c²)) / ‖g_0‖²; in Eq 14 this is D = c²/(1 + c²).

    **The cone.** That d* leaves the cone where p outweighs s. It is then turned towards g_0, within the plane of
    the two, onto the cone's surface: p is kept and the part along g_0 raised to ‖p‖ c/√(1 − c²), before the
    rescaling. Thus cos(d, g_0) ≥ c and ‖d‖ = ‖g_0‖ hold at every update, and c = 1 gives g_0 (Prop. A.3).

    **The weights.** ω = softmax(logits), logits start at 0 and take one Adam step per update, with weight decay
    added to the gradient. The gradient with respect to ω_i is g_iᵀZ₊⁻¹g_ω, before turning and rescaling, which is
    free of the gradients' scale. The paper leaves this optimizer open; it is FAMO's choice (arXiv 2306.03792).
    The optimum of Eq 9 is that of d* before it is turned. Turning loses it, and can leave a task badly off.

    **The exact solution.** With `weights="exact"` d maximises min_i g_iᵀd subject to cos(d, g_0) ≥ c and
    ‖d‖ = ‖g_0‖, by its dual, min ‖g_ω‖ cos(max(0, ∠(g_ω, g_0) − arccos c)) on the simplex, whose optimum is the
    `task_weight` of the diagnostics. The residual bounds what is missing, as a share of the larger of the optimum and
    ‖g_0‖ times the norm of the shortest gradient. The dual's value is that of the best vector in the convex hull of
    the feasible set. The set attains it wherever it is not negative, and always where the gradients are linearly
    independent. Elsewhere the problem need not be convex: where some g_ω points against g_0 (as for (10, 0) and
    (−1, 0)) the best of the hull can be shorter than ‖g_0‖. Then the residual is large, counts as a missed solve, and
    d is the best for the worst task out of three: that vector at full length, g_0, and the direction of the
    iteration, which goes on beside. So d is never worse for the worst task than the other two, but for 1e-6.
    Gradients shorter than 1e-7 of the longest are left out of the minimum.

    **The schedule.** The half angle can move from arccos c to arccos c_end, as a number of updates passes (in
    proportion, or along half a cosine wave) or with the conflict: the half angle is then
    arccos c + m (arccos c_end − arccos c), m being the running mean of the share of task pairs with g_iᵀg_j < 0; it
    starts at 0 and takes a share of 0.01 (`CONFLICT_RATE`) of each update's. Each seed has its own cone
    (`cone_cosine` in the diagnostics), and all of the above holds with its present c. The paper keeps c fixed.

    **Degeneracy.** Where ‖g_0‖ < 1e-5 max ‖g_i‖ (`DEGENERATE`), or d is less than 1e-5 of the terms it is summed
    from (d* antiparallel to g_0 with p = 0, or g_ω = 0), d = g_0. In the first case ω sees a zero gradient, and the
    residual is 0.

    Args:
        c: cosine of the cone's half angle, in (0, 1].
        gamma: weight decay of the logits, ≥ 0; 0.001 in the toy problem, more where one weight grows to 1. A list
            has one for each task.
        weights_lr: learning rate of the logits, > 0.
        enforce_cone: turn d* into the cone; false gives the plain closed form.
        schedule: "constant", "linear", "cosine" or "conflict".
        c_end: what c moves to, in (0, 1]; None stays at c.
        schedule_updates: the updates that "linear" and "cosine" take to get there, ≥ 1.
        weights: "adam" follows the paper; "exact" solves, and needs the cone.

    Raises:
        ValueError: for a hyperparameter out of its range; from `setup` for a gamma of another number of tasks.
    """

    def __init__(
        self,
        c: float = 0.75,
        gamma: float | Sequence[float] = 0.05,
        weights_lr: float = 0.025,
        enforce_cone: bool = True,
        schedule: str = "constant",
        c_end: float | None = None,
        schedule_updates: int = 0,
        weights: str = "adam",
    ) -> None:
        super().__init__()
        self.c = validation.number("c", c, 0, 1, low_included=False)
        self.gamma = validation.one_or_more("gamma", gamma, 0)
        self.weights_lr = validation.number("weights_lr", weights_lr, 0, low_included=False)
        self.enforce_cone = validation.flag("enforce_cone", enforce_cone)
        self.schedule = validation.choice("schedule", schedule, _SCHEDULES)
        self.c_end = self.c if c_end is None else validation.number("c_end", c_end, 0, 1, low_included=False)
        least = 1 if schedule in ("linear", "cosine") else 0
        self.schedule_updates = validation.whole("schedule_updates", schedule_updates, least)
        self.exact = validation.choice("weights", weights, ("adam", "exact")) == "exact"
        if self.exact and not enforce_cone:
            raise ValueError("enforce_cone must be true with weights=exact, which solves for the best in the cone")

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        if isinstance(self.gamma, list) and len(self.gamma) != num_tasks:
            raise ValueError(f"gamma={self.gamma}: {len(self.gamma)} numbers for {num_tasks} tasks")
        zeros = torch.zeros(len(seeds), num_tasks, dtype=torch.float64, device=device)
        state = adam_state("logits", zeros)
        if self.exact:
            super().setup(seeds, num_tasks, device)
            state |= self.state
        self.state = state
        if self.schedule == "conflict":
            self.state["conflict_mean"] = zeros[:, :1].clone()
        self._decay = zeros.new_tensor(self.gamma)

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        cone = self._cone(gramian)
        largest = gramian.diagonal(dim1=1, dim2=2).amax(-1).clamp_min(torch.finfo(gramian.dtype).tiny)
        gramian = gramian / largest[:, None, None]  # neither squares nor quotients can overflow now
        mean_products = gramian.mean(-1, keepdim=True)
        mean_square = mean_products.mean(1, keepdim=True)
        usable = mean_square >= DEGENERATE**2
        update = _Update(gramian, mean_products, mean_square.clamp_min(DEGENERATE**2), usable, cone)
        self._update_logits(update)
        task_weights = self.state["logits"].softmax(-1)
        self.diagnostics["task_weight"] = task_weights
        followed = self._followed(update, task_weights.unsqueeze(-1))
        return self._exact(update, followed) if self.exact else followed

    def _cone(self, gramian: Tensor) -> _Cone:
        """The cone of this update; at c = 1 its cotangent is large enough to leave g_0 alone."""
        if self.schedule == "constant":
            # 1e-300: the square of the smallest c is 0, by which nothing can be divided
            return _Cone(self.c, max(self.c**2, 1e-300), self.c / max(math.sqrt(1 - self.c**2), 1e-12))
        start, end = math.acos(self.c), math.acos(self.c_end)
        angle = start + (end - start) * self._progress(gramian)
        cosine = angle.cos()
        self.diagnostics["cone_cosine"] = cosine.flatten()
        cotangent = cosine / angle.sin().clamp_min(1e-12)
        return _Cone(*(number.unsqueeze(-1) for number in (cosine, cosine.square(), cotangent)))

    def _progress(self, gramian: Tensor) -> Tensor:
        """How far the half angle is on its way from arccos c to arccos c_end, [S, 1] in [0, 1]."""
        if self.schedule == "conflict":
            pairs = max(gramian.shape[-1] * (gramian.shape[-1] - 1), 1)
            share = (gramian < 0).sum((-2, -1), dtype=torch.float64) / pairs
            return self.state["conflict_mean"].lerp_(share.unsqueeze(-1), CONFLICT_RATE)
        progress = (self.state["updates"] / self.schedule_updates).clamp_max(1)
        return progress if self.schedule == "linear" else (1 - (math.pi * progress).cos()) / 2

    def _update_logits(self, update: _Update) -> None:
        """One Adam step on Eq 9; columns are [S, K, 1]."""
        gramian, mean_products, mean_square, usable, cone = update
        task_weights = self.state["logits"].softmax(-1).unsqueeze(-1)
        share = matmul(task_weights.mT, mean_products) / mean_square
        along = mean_products * (share / (1 + cone.square))
        slope = (matmul(gramian, task_weights) - along) / (mean_square * cone.square)
        # The clamp keeps c near 0 finite; Adam steps by the gradient's sign and relative size in any case.
        slope = torch.where(usable, slope, 0).clamp(-1e100, 1e100)
        gradient = task_weights * (slope - matmul(task_weights.mT, slope))
        adam_step(self.state, "logits", gradient.squeeze(-1), self.weights_lr, self._decay)

    def _followed(self, update: _Update, task_weights: Tensor) -> Tensor:
        """Weights [S, K] of d* for the task weights [S, K, 1], turned and rescaled."""
        share = matmul(task_weights.mT, update.mean_products) / update.mean_square
        along = share * (update.cone.square / (1 + update.cone.square))
        if self.enforce_cone:
            square = matmul(task_weights.mT, matmul(update.gramian, task_weights)) / update.mean_square
            across = (square - share * share).clamp_min_(0).sqrt_()  # ‖p‖ / ‖g_0‖
            along = torch.maximum(along, across * update.cone.cotangent)
        return _rescaled(update, task_weights + (along - share) / task_weights.shape[1])

    def _exact(self, update: _Update, followed: Tensor) -> Tensor:
        """Weights [S, K] of the best direction for the worst task, out of three; `followed` is the default's."""
        stand_in = torch.eye(followed.shape[-1], dtype=followed.dtype, device=followed.device)
        solution = best_in_cone(torch.where(update.usable, update.gramian, stand_in), update.cone.cosine)
        mean = torch.full_like(followed, 1 / followed.shape[-1])
        candidates = torch.stack((_turned(update, solution.weights.unsqueeze(-1)), followed, mean), 1)
        inner = matmul(candidates, update.gramian) / update.mean_square.sqrt()
        worst = torch.where(solution.present.unsqueeze(1), inner, torch.inf).amin(-1)
        scale = torch.maximum(solution.unit, solution.bound.abs()).unsqueeze(-1)
        ahead = worst / scale  # the products with the worst task, of directions of length 1
        ahead[:, 0] += _TIE
        best = ahead.argmax(-1, keepdim=True)
        missing = (solution.bound.unsqueeze(-1) - worst.gather(-1, best)).clamp_min(0) / scale
        self.note_residual(torch.where(update.usable.flatten(1), missing, 0).squeeze(-1))
        self.diagnostics["task_weight"] = solution.task_weights
        return candidates.gather(1, best.unsqueeze(-1).expand_as(candidates[:, :1])).squeeze(1)


def _turned(update: _Update, weights: Tensor) -> Tensor:
    """Weights [S, K] of the direction of weights [S, K, 1], turned into the cone where it is outside, and rescaled."""
    share = matmul(weights.mT, update.mean_products) / update.mean_square
    across = weights - share / weights.shape[1]
    square = matmul(across.mT, matmul(update.gramian, across)) / update.mean_square
    along = torch.maximum(share, square.clamp_min_(0).sqrt_() * update.cone.cotangent)
    return _rescaled(update, across + along / weights.shape[1])


def _rescaled(update: _Update, weights: Tensor) -> Tensor:
    """Weights [S, K] of the direction of weights [S, K, 1] at length ‖g_0‖, those of g_0 where it is degenerate."""
    square = matmul(weights.mT, matmul(update.gramian, weights))
    square = square.clamp_min_(torch.finfo(weights.dtype).tiny)
    weights = (weights * (update.mean_square / square).sqrt_()).squeeze(-1)
    terms = (weights.abs() * update.gramian.diagonal(dim1=1, dim2=2).sqrt()).sum(-1)
    usable = update.usable.flatten() & (terms * DEGENERATE <= update.mean_square.flatten().sqrt())
    return torch.where(usable.unsqueeze(-1), weights, 1 / weights.shape[-1])
