"""The two-task toy problem of the gradient-combining literature; `python -m mtrl_conic.toy` runs and draws it."""

from mtrl_conic.toy.problem import LOWER_BOUNDS, MINIMA, STARTS, jacobian, losses

__all__ = ["LOWER_BOUNDS", "MINIMA", "STARTS", "jacobian", "losses"]
