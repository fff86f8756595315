"""Adam for the few weights that a combiner learns: K per seed, in float64, with nothing read back to the host."""

from __future__ import annotations

from torch import Tensor

from mtrl_conic.system.seedwise import by_seed

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # the customary constants


def adam_state(name: str, zeros: Tensor) -> dict[str, Tensor]:
    """State of one learned tensor `name` [S, K] that starts at 0; the counter of updates is [S, 1]."""
    names = (name, "first_moment", "second_moment")
    return {key: zeros.clone() for key in names} | {"updates": zeros[:, :1].clone()}


def adam_step(state: dict[str, Tensor], name: str, gradient: Tensor, lr: float, weight_decay: Tensor | float) -> None:
    """One step on `state[name]` in place; weight decay is added to the gradient [S, K]."""
    value, first, second = state[name], state["first_moment"], state["second_moment"]
    updates = state["updates"]
    gradient = gradient + weight_decay * value
    updates += 1
    first.lerp_(gradient, 1 - _BETA1)
    second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
    scale = (second / by_seed(lambda past: 1 - _BETA2**past, updates)).sqrt_().add_(_EPSILON)
    value.addcdiv_(first / by_seed(lambda past: 1 - _BETA1**past, updates), scale, value=-lr)
