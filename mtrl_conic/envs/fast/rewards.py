"""The helpers of Meta-World's rewards, on scalars: tolerance, Hamacher product, norm, quaternion of a matrix.

Each returns what its namesake in `metaworld.utils.reward_utils`, numpy or scipy returns for one number or one
vector. numpy's scalar types are kept: a float32 of the action times a Python float is a float32 there too.
"""

from __future__ import annotations

from math import exp, log, sqrt
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_AT_MARGIN = 0.1  # the reward at a distance of `margin` from the bounds
_LONG_TAIL_SCALE = sqrt(1 / _AT_MARGIN - 1)
_GAUSSIAN_SCALE = sqrt(-2 * log(_AT_MARGIN))


def tolerance(
    x: float, bounds: tuple[float, float] = (0.0, 0.0), margin: float = 0.0, sigmoid: str = "gaussian"
) -> float:
    """1 within the bounds, falling to 0.1 at a distance of `margin` from them.

    Of the sigmoids of dm_control's `rewards.tolerance`, the tasks use "long_tail" and "gaussian".
    """
    lower, upper = bounds
    if lower > upper or margin < 0:
        raise ValueError(f"bounds {bounds} must be in order and margin {margin} not negative")
    if lower <= x <= upper:
        return 1.0
    if margin == 0:
        return 0.0
    distance = float(lower - x if x < lower else x - upper) / float(margin)
    if sigmoid == "long_tail":
        return 1 / ((distance * _LONG_TAIL_SCALE) ** 2 + 1)
    if sigmoid == "gaussian":
        return exp(-0.5 * (distance * _GAUSSIAN_SCALE) ** 2)
    raise ValueError(f"sigmoid {sigmoid!r} is not one of 'long_tail', 'gaussian'")


def hamacher_product(a: float, b: float) -> float:
    """The t-norm a b / (a + b − a b) of two numbers in [0, 1]."""
    if not (0.0 <= a <= 1.0 and 0.0 <= b <= 1.0):
        raise ValueError(f"both must be in [0, 1]: {a}, {b}")
    product = a * b
    denominator = a + b - product
    return product / denominator if denominator > 0 else 0


def rect_prism_tolerance(curr: NDArray[Any], zero: NDArray[Any], one: NDArray[Any]) -> float:
    """The product of the three coordinates relative to the box from `zero` to `one` [3]; 1 outside of it."""
    product = 1.0
    for x, start, end in zip(curr.tolist(), zero.tolist(), one.tolist(), strict=True):
        if not min(start, end) <= x <= max(start, end):
            return 1.0
        product *= (x - start) / (end - start)
    return product


def norm(x: Any, ord: int | None = None, **kwargs: Any) -> Any:
    """`np.linalg.norm`; a float64 vector or number takes the short way, with the same bits."""
    if not kwargs and (ord is None or ord == 2):
        if type(x) is np.ndarray and x.ndim == 1:
            square = x.dot(x)
            if type(square) is np.float64:
                return np.float64(sqrt(square))
        elif isinstance(x, float):
            return np.float64(abs(x))
    return np.linalg.norm(x, ord, **kwargs)


def clip(x: Any, *args: Any, **kwargs: Any) -> Any:
    """`np.clip`; a number takes the short way."""
    if isinstance(x, np.floating) and len(args) == 2 and not kwargs:
        low, high = args
        return type(x)(low if x < low else high if x > high else x)
    return np.clip(x, *args, **kwargs)


def quaternion(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quaternion [4] (x, y, z, w) of a rotation matrix [3, 3], with the sign that scipy gives it.

    The largest of the three diagonal entries and the trace chooses the formula, as in scipy's
    `Rotation.from_matrix` (Markley 2008, https://doi.org/10.2514/1.31730).
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = matrix.tolist()
    trace = m00 + m11 + m22
    largest = max(m00, m11, m22, trace)
    if m00 == largest:
        x, y, z, w = 1 - trace + 2 * m00, m10 + m01, m20 + m02, m21 - m12
    elif m11 == largest:
        x, y, z, w = m10 + m01, 1 - trace + 2 * m11, m21 + m12, m02 - m20
    elif m22 == largest:
        x, y, z, w = m20 + m02, m21 + m12, 1 - trace + 2 * m22, m10 - m01
    else:
        x, y, z, w = m21 - m12, m02 - m20, m10 - m01, 1 + trace
    length = sqrt(x * x + y * y + z * z + w * w)
    return np.array((x / length, y / length, z / length, w / length))


class Rotation:
    """The one use of scipy's `Rotation` in the tasks: `from_matrix(m).as_quat()`."""

    __slots__ = ("_matrix",)

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        self._matrix = matrix

    @classmethod
    def from_matrix(cls, matrix: NDArray[np.float64]) -> Rotation:
        """The rotation of a matrix [3, 3]."""
        return cls(matrix)

    def as_quat(self) -> NDArray[np.float64]:
        """The quaternion [4] (x, y, z, w)."""
        return quaternion(self._matrix)


# numpy with the two functions above in place of its own; numpy itself is not touched.
fast_numpy: Any = ModuleType("fast_numpy")
fast_numpy.__dict__.update(np.__dict__, linalg=SimpleNamespace(norm=norm), clip=clip)
