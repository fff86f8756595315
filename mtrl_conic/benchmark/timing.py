"""Timing that a drifting machine does not bend, and its tables."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turns(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function, measured in turns so that a drift of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):  # the first two warm up
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
