"""ConicGrad."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl_conic.combiners import _validation
from mtrl_conic.combiners.base import Combiner

# A sum of gradients is trusted where its norm is at least this share of what it is summed from. Below it the
# rounding of a float64 Gramian (1e-16 of its largest entry) reaches 1e-6 of the squared norm.
DEGENERATE = 1e-5

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # Adam's customary constants


class ConicGrad(Combiner):
    """The direction that serves the worst task best among those in a cone around the mean gradient.

    "Fantastic Multi-Task Gradient Updates and How to Find Them In a Cone", arXiv 2502.00217. The problem (Eq 2-3)
    is max_d min_i g_iᵀd subject to cos(d, g_0) ≥ c. With task weights ω on the simplex, g_ω = Σ ω_i g_i and the
    multiplier set to 1 (Eq 8), d* = Z⁻¹ g_ω; ω descends ½ g_ωᵀd*(ω) (Eq 9) by one step an update, d* is formed
    anew with the new ω and rescaled to ‖g_0‖.

    **The sign of Z.** The paper's Z = c²‖g_0‖² I − g_0 g_0ᵀ is indefinite for c < 1: along g_0 its eigenvalue is
    (c² − 1)‖g_0‖², so the exact inverse turns the part of g_ω along g_0 round, and at uniform weights gives an
    ascent direction (a test shows it). What descends, and agrees with the paper's toy figure, is the positive
    definite Z₊ = c²‖g_0‖² I + g_0 g_0ᵀ. For g_ω = s g_0 + p with p ⟂ g_0, Sherman-Morrison gives
    d* = Z₊⁻¹ g_ω = (p/c² + s g_0/(1 + c²)) / ‖g_0‖²; in Eq 14 this is D = c²/(1 + c²).

    **The cone.** That d* leaves the cone where p outweighs s. It is then turned towards g_0, within the plane of
    the two, onto the cone's surface: p is kept and the part along g_0 raised to ‖p‖ c/√(1 − c²), before the
    rescaling. Thus cos(d, g_0) ≥ c and ‖d‖ = ‖g_0‖ hold at every update, and c = 1 gives g_0 (Prop. A.3).

    **The weights.** ω = softmax(logits), logits start at 0 and take one Adam step an update, with weight decay
    added to the gradient. The gradient with respect to ω_i is g_iᵀZ₊⁻¹g_ω, before turning and rescaling, which is
    free of the gradients' scale. The paper leaves this optimizer open; it is FAMO's choice (arXiv 2306.03792).

    **Degeneracy.** Where ‖g_0‖ < 1e-5 max ‖g_i‖ (`DEGENERATE`), or d is less than 1e-5 of the terms it is summed
    from (d* antiparallel to g_0 with p = 0, or g_ω = 0), d = g_0. In the first case ω sees a zero gradient.

    Args:
        c: cosine of the cone's half angle, in (0, 1].
        gamma: weight decay of the logits, ≥ 0; 0.001 in the toy problem, more where one weight grows to 1.
        weights_lr: learning rate of the logits, > 0.
        enforce_cone: turn d* into the cone; false gives the plain closed form.

    Raises:
        ValueError: for a hyperparameter out of its range.
    """

    def __init__(
        self, c: float = 0.75, gamma: float = 0.05, weights_lr: float = 0.025, enforce_cone: bool = True
    ) -> None:
        super().__init__()
        self.c = _validation.number("c", c, 0, 1, low_included=False)
        self.gamma = _validation.number("gamma", gamma, 0)
        self.weights_lr = _validation.number("weights_lr", weights_lr, 0, low_included=False)
        self.enforce_cone = _validation.flag("enforce_cone", enforce_cone)

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        zeros = torch.zeros(len(seeds), num_tasks, dtype=torch.float64, device=device)
        names = ("logits", "first_moment", "second_moment")
        self.state = {name: zeros.clone() for name in names} | {"updates": zeros[:, :1].clone()}

    def weights(self, gramian: Tensor | None, losses: Tensor) -> Tensor:
        assert gramian is not None
        largest = gramian.diagonal(dim1=1, dim2=2).amax(-1).clamp_min(torch.finfo(gramian.dtype).tiny)
        gramian = gramian / largest[:, None, None]  # neither squares nor quotients can overflow now
        mean_products = gramian.mean(-1, keepdim=True)
        mean_square = mean_products.mean(1, keepdim=True)
        usable = mean_square >= DEGENERATE**2
        mean_square = mean_square.clamp_min(DEGENERATE**2)
        self._update_logits(gramian, mean_products, mean_square, usable)
        task_weights = self.state["logits"].softmax(-1)
        self.diagnostics["task_weight"] = task_weights
        return self._direction_weights(gramian, mean_products, mean_square, usable, task_weights)

    def _update_logits(self, gramian: Tensor, mean_products: Tensor, mean_square: Tensor, usable: Tensor) -> None:
        """One Adam step on Eq 9; columns are [S, K, 1]."""
        task_weights = self.state["logits"].softmax(-1).unsqueeze(-1)
        share = torch.bmm(task_weights.mT, mean_products) / mean_square
        along = mean_products * (share / (1 + self.c**2))
        slope = (torch.bmm(gramian, task_weights) - along) / (mean_square * self.c**2)
        # The clamp keeps c near 0 finite; Adam steps by the gradient's sign and relative size in any case.
        slope = torch.where(usable, slope, 0).clamp(-1e100, 1e100)
        gradient = task_weights * (slope - torch.bmm(task_weights.mT, slope))
        self._adam_step(gradient.squeeze(-1))

    def _adam_step(self, gradient: Tensor) -> None:
        logits, first, second, updates = self.state.values()
        gradient = gradient + self.gamma * logits
        updates += 1
        first.lerp_(gradient, 1 - _BETA1)
        second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        scale = (second / (1 - _BETA2**updates)).sqrt_().add_(_EPSILON)
        logits.addcdiv_(first / (1 - _BETA1**updates), scale, value=-self.weights_lr)

    def _direction_weights(
        self, gramian: Tensor, mean_products: Tensor, mean_square: Tensor, usable: Tensor, task_weights: Tensor
    ) -> Tensor:
        """Weights of d = p + along · g_0, turned and rescaled: ω_i + (along − s)/K."""
        num_tasks = gramian.shape[-1]
        column = task_weights.unsqueeze(-1)
        share = torch.bmm(column.mT, mean_products) / mean_square
        along = share * (self.c**2 / (1 + self.c**2))
        if self.enforce_cone:
            square = torch.bmm(column.mT, torch.bmm(gramian, column)) / mean_square
            across = (square - share * share).clamp_min_(0).sqrt_()  # ‖p‖ / ‖g_0‖
            along = torch.maximum(along, across * self._cotangent)
        weights = column + (along - share) / num_tasks
        square = torch.bmm(weights.mT, torch.bmm(gramian, weights)).clamp_min_(torch.finfo(gramian.dtype).tiny)
        weights = weights * (mean_square / square).sqrt_()
        terms = (weights.squeeze(-1).abs() * gramian.diagonal(dim1=1, dim2=2).sqrt()).sum(-1)
        usable = usable.flatten() & (terms * DEGENERATE <= mean_square.flatten().sqrt())
        return torch.where(usable.unsqueeze(-1), weights.squeeze(-1), 1 / num_tasks)

    @property
    def _cotangent(self) -> float:
        """Of the cone's half angle; at c = 1 large enough to leave g_0 alone."""
        return self.c / max(math.sqrt(1 - self.c**2), 1e-12)
