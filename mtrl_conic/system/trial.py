"""What is said of a class of a user's own that fails when it is tried out, before any work starts."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.system.foreign import FAILURES, told


class TrialError(ValueError):
    """What a class does that none of its kind may: one line that names it."""


def is_own(kind: type) -> bool:
    """Whether a class is a user's; the package's own are held to the same by its tests."""
    return kind.__module__.partition(".")[0] != "mtrl_conic"


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Make a `TrialError` of whatever is raised; a `ValueError` or `ImportError` says itself what is wrong."""
    try:
        yield
    except (ValueError, ImportError):
        raise
    except FAILURES as error:  # the class is a user's, and may do anything
        raise failure(name, error) from error


def failure(name: str, error: BaseException) -> TrialError:
    """One line of an error, with the place in the user's file or wherever it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}, line {frame.lineno}"
    return TrialError(f"{name} fails when tried: {told(error)} ({where})")


def check_tensor(what: str, given: Any, axes: str, shape: torch.Size, dtype: torch.dtype | None = None) -> None:
    """Refuse whatever is no floating tensor of that shape with finite numbers, and of `dtype` where one is named.

    Raises:
        TrialError: naming `what` it is of, such as "Mine.weights", the `axes`, such as "[S, K]", and what was given.
    """
    kind = "a floating tensor" if dtype is None else f"a tensor of {dtype},"
    wanted = f"{what} must return {kind} {axes} = {list(shape)}"
    if not isinstance(given, Tensor):
        raise TrialError(f"{wanted}, not {type(given).__name__}")
    if given.shape != shape:
        raise TrialError(f"{wanted}, not {list(given.shape)}")
    if not given.is_floating_point() or dtype not in (None, given.dtype):
        raise TrialError(f"{wanted}, not one of {given.dtype}")
    if not bool(torch.isfinite(given).all()):
        raise TrialError(f"{wanted} of finite numbers for what is finite itself")
