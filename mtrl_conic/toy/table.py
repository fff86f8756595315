"""The results of descents as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from mtrl_conic.toy import problem
from mtrl_conic.toy.descent import TOLERANCE, Descent

_HEADINGS = ("start", f"first within {TOLERANCE}", "end: loss - minimum", "end: distance", "least cos(d, g_0)")
_WIDTHS = (14, 20, 21, 15, 19)


def rows(descent: Descent, starts: Sequence[Sequence[float]], scale: float) -> list[dict[str, Any]]:
    """A record for each start, ready for JSON: what is not finite is None.

    Each holds the start, `first_hit` (a step, None for never), `excess` (mean loss less its minimum) and
    `distance` (to the minimum's point) at the end, and `smallest_cosine`, the least cos(d, g_0) of all steps.
    """
    point = torch.tensor(problem.MINIMA[scale][0], dtype=torch.float64)
    distances = (descent.points[-1] - point).norm(dim=-1)
    columns = (descent.first_hit, descent.excess[-1], distances, descent.smallest_cosine)
    return [
        {
            "start": list(start),
            "first_hit": None if hit < 0 else hit,
            "excess": _finite(excess),
            "distance": _finite(distance),
            "smallest_cosine": _finite(cosine),
        }
        for start, hit, excess, distance, cosine in zip(starts, *(c.tolist() for c in columns), strict=True)
    ]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def heading(scale: float, num_steps: int) -> str:
    """The lines above the table."""
    point, least = problem.MINIMA[scale]
    about = f"two-task toy problem, scale {scale:g}, {num_steps} steps; minimum of the mean loss {least} at {point}"
    return f"{about}\n{_line(_HEADINGS)}"


def block(name: str, settings: dict[str, Any], records: Sequence[dict[str, Any]]) -> str:
    """The lines of one method."""
    words = [name, *(f"{key}={value}" for key, value in settings.items())]
    return "\n".join([" ".join(words), *(_line(_cells(record)) for record in records)])


def _cells(record: dict[str, Any]) -> list[str]:
    hit = record["first_hit"]
    numbers = [_number(record[key]) for key in ("excess", "distance", "smallest_cosine")]
    return ["({:g}, {:g})".format(*record["start"]), "never" if hit is None else str(hit), *numbers]


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _line(cells: Sequence[str]) -> str:
    first, *others = (f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    return "".join(["  ", first, *others])
