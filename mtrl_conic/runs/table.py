"""Evaluations for the eye."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_FEW = 5  # seeds that get a column each


def success_table(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Success rates by task (rows) with their mean over seeds, and the mean return.

    Up to five seeds have a column each; of more the table has the mean and its standard error.

    Args:
        evaluations: one per seed, as in `evaluations.jsonl`.
    """
    tasks = list(evaluations[0]["success"])
    rows = [["success rate", *_heads([line["seed"] for line in evaluations]), "return"]]
    for task in tasks:
        values = _cells([line["success"][task] for line in evaluations], 2)
        rows.append([task, *values, f"{statistics.fmean(line['return'][task] for line in evaluations):.1f}"])
    rows.append(["mean", *_cells([line["success_rate"] for line in evaluations], 3), ""])
    width = max(len(row[0]) for row in rows)
    return "".join(row[0].ljust(width) + "".join(cell.rjust(10) for cell in row[1:]).rstrip() + "\n" for row in rows)


def _heads(seeds: Sequence[int]) -> list[str]:
    if len(seeds) > _FEW:
        return ["mean", "± s.e."]
    return [f"seed {seed}" for seed in seeds] + ["mean"] * (len(seeds) > 1)


def _cells(values: Sequence[float], digits: int) -> list[str]:
    """What stands under `_heads`."""
    numbers = [statistics.fmean(values)] * (len(values) > 1)
    if len(values) > _FEW:
        numbers.append(statistics.stdev(values) / math.sqrt(len(values)))
    else:
        numbers = [*values, *numbers]
    return [f"{number:.{digits}f}" for number in numbers]
