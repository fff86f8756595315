"""Methods against each other: probability of improvement and performance profile."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.report import statistics
from mtrl_conic.report.curves import rate_axis
from mtrl_conic.report.grouping import Method, Section
from mtrl_conic.report.style import FAINT, LIGHT, Colours, Panel, Picture

_PAIRS = 15  # of methods, at most in a picture


def comparisons(section: Section, colours: Colours) -> list[Picture]:
    """The profile, and where there are two methods or more the probability of improvement."""
    found = [_profile(section, colours)]
    return [*found, _improvement(section)] if len(section.methods) > 1 else found


def _profile(section: Section, colours: Colours) -> Picture:
    thresholds: NDArray[np.float64] = np.linspace(0, 1, 101)

    def draw(axis: Any) -> None:
        for method in section.methods:
            shares = statistics.performance_profile(method.final, thresholds)
            axis.step(thresholds, shares, where="post", linewidth=2, **colours.line(method.label))
        rate_axis(axis)
        axis.set_xlim(0, 1)
        axis.set_xlabel("success rate τ")
        axis.set_ylabel("share of tasks × seeds above τ")

    any_success = ", ".join(f"{method.label} {(method.final > 0).mean():.2f}" for method in section.methods)
    alt = f"Performance profile at the final evaluation. Share of tasks and seeds with any success: {any_success}."
    caption = (
        "Share of single results (one task, one seed) with a final success above τ. The higher curve is the better one."
    )
    return Picture(
        "profile", "Performance profile", caption, [Panel("Performance profile", alt, draw)], 1, section.labels
    )


@cache
def pairs(section: Section) -> list[tuple[Method, Method, float, statistics.Interval | None]]:
    """Probability that the first improves on the second, for each pair in the order of the table."""
    found = []
    for index, first in enumerate(section.methods):
        for second in section.methods[index + 1 :]:
            probability = statistics.probability_of_improvement(first.final, second.final)
            found.append((first, second, probability, statistics.improvement_interval(first.final, second.final)))
    return found


def _improvement(section: Section) -> Picture:
    compared = pairs(section)
    longest = max(len(first.label) + len(second.label) for first, second, _, _ in compared)
    space, height = (" ", 0.24) if longest <= 24 else ("\n", 0.36)
    everyone = len(compared) <= _PAIRS
    if not everyone:
        compared = [pair for pair in compared if pair[0] is section.methods[0]]

    def draw(axis: Any) -> None:
        for row, (_, _, probability, interval) in enumerate(compared):
            if interval is not None:
                axis.plot(interval, (row, row), color=LIGHT[0], linewidth=6, alpha=0.35, solid_capstyle="butt")
            axis.plot(probability, row, "o", color=LIGHT[0], markersize=5)
        axis.axvline(0.5, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        names = [f"{first.label}{space}> {second.label}" for first, second, _, _ in compared]
        axis.set_yticks(range(len(compared)), names)
        axis.set_ylim(len(compared) - 0.5, -0.5)
        axis.set_xlim(-0.02, 1.02)
        axis.grid(axis="x")
        axis.set_xlabel("probability of improvement")

    described = "; ".join(f"{first.label} over {second.label} {value:.2f}" for first, second, value, _ in compared)
    caption = (
        "P(X > Y): the probability that a run of X has a higher final success than one of Y on a task, ties counted"
        " half, mean over tasks; 95 % stratified bootstrap interval where both have two seeds or more. An interval that"
        " holds 0.5 shows no difference."
        + ("" if everyone else " Here the first method of the table against the others; the table below has all pairs.")
    )
    panel = Panel(
        "P(X > Y)",
        f"Probability of improvement: {described}.",
        draw,
        (4.3 + 0.04 * max(0, longest - 48), 1.1 + height * len(compared)),
    )
    return Picture("improvement", "Probability of improvement", caption, [panel], 1)
