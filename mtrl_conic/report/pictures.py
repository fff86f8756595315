"""The pictures of a section: learning curves, wall clock, comparisons; diagnostics.py has those of combiners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.report import statistics
from mtrl_conic.report.grouping import Method, Section
from mtrl_conic.report.reading import Array, Curve
from mtrl_conic.report.style import FAINT, LIGHT, Colours, Panel, Picture, short_task, steps_axis

_LABELLED = 6  # methods at most whose curves are named at their ends
_CROWD = 9  # single seeds at most in a small panel
_PAIRS = 15  # of methods, at most in a picture
_Values = Callable[[Array], Array]  # success [..., K] → [...]


def pictures(section: Section, colours: Colours) -> list[Picture]:
    """All that can be drawn of a section, without the diagnostics."""
    found = [_curves(section, colours)]
    if any(np.isfinite(method.wall_seconds).all() for method in section.methods):
        found.append(_wall_clock(section, colours))
    found.append(_profile(section, colours))
    if len(section.methods) > 1:
        found.append(_improvement(section))
    return found


def _curves(section: Section, colours: Colours) -> Picture:
    ends = ", ".join(f"{method.label} {method.final.mean():.2f}" for method in section.methods)
    title = f"Success, mean over {len(section.tasks)} tasks"
    alt = f"Learning curves: {title.lower()} over environment steps a task. At the end: {ends}."
    panels = [Panel(title, alt, lambda axis: _curve_panel(axis, section.methods, colours, _mean, True), (5.6, 3.2))]
    for column, task in enumerate(section.tasks):
        ends = ", ".join(f"{method.label} {method.final[:, column].mean():.2f}" for method in section.methods)
        panels.append(
            Panel(
                short_task(task),
                f"Learning curves of the task {task}. At the end: {ends}.",
                lambda axis, k=column: _curve_panel(axis, section.methods, colours, lambda x: x[..., k]),
                (3.4, 2.3),
            )
        )
    caption = (
        "Thick: mean over seeds; band: 95 % bootstrap interval of that mean, drawn from whole seeds; thin: single seeds, where there are few."
        " With two or three seeds a band is narrower than it should be."
    )
    columns = 2 if len(section.tasks) in (2, 4) else 3 if len(section.tasks) < 10 else 5
    return Picture("curves", "Learning curves", caption, panels, columns, wide=True)


def _mean(success: Array) -> Array:
    return success.mean(-1)


def _curve_panel(axis: Any, methods: Sequence[Method], colours: Colours, value: _Values, labelled: bool = False) -> None:
    crowd = sum(len(method.curves) for method in methods)
    for method in methods:
        style = colours.line(method.label)
        for curve in method.curves.values():
            if 1 < len(method.curves) and (labelled or crowd <= _CROWD):
                axis.plot(curve.steps, value(curve.success), linewidth=0.6, alpha=0.35, **style)
        seeds = value(method.success)
        if (bands := statistics.seed_bands(seeds)) is not None:
            axis.fill_between(method.steps, *bands, color=style["color"], alpha=0.16, linewidth=0)
        axis.plot(method.steps, seeds.mean(1), linewidth=2, **style)
        if len(method.steps) == 1:
            axis.plot(method.steps, seeds.mean(1), "o", color=style["color"], markersize=4)
    _rate_axis(axis)
    if labelled:
        axis.set_ylabel("success rate")
        steps_axis(axis)
        ends = [(method.label, float(method.steps[-1]), float(value(method.final).mean())) for method in methods]
        _label_ends(axis, ends, colours)
    else:
        steps_axis(axis, "")


def _rate_axis(axis: Any) -> None:
    axis.set_ylim(-0.03, 1.03)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axis.grid()


def _label_ends(axis: Any, ends: list[tuple[str, float, float]], colours: Colours) -> None:
    """Names beside the ends of curves, moved apart where they would overlap."""
    if not 1 < len(ends) <= _LABELLED:
        return
    ends = sorted(ends, key=lambda end: end[2])
    gap, heights = 0.085, [end[2] for end in ends]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + gap)
    excess = max(0.0, heights[-1] - 1.0)
    heights[-1] -= excess
    for index in range(len(heights) - 2, -1, -1):
        heights[index] = min(heights[index], heights[index + 1] - gap)
    right = max(x for _, x, _ in ends)
    axis.set_xlim(right=right * 1.01)
    for (label, x, y), height in zip(ends, heights, strict=True):
        axis.annotate(
            label,
            (x, y),
            (right * 1.035, height),
            color=colours.line(label)["color"],
            fontweight="bold",
            va="center",
            fontsize=8.5,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)},
        )


def _wall_clock(section: Section, colours: Colours) -> Picture:
    unit, seconds = _time_unit(section.methods)

    def draw(axis: Any) -> None:
        for method in section.methods:
            style = colours.line(method.label)
            if len(method.curves) > 1:
                for curve in method.curves.values():
                    axis.plot(curve.wall_seconds / seconds, _mean(curve.success), linewidth=0.6, alpha=0.35, **style)
            axis.plot(method.wall_seconds.mean(1) / seconds, _mean(method.success).mean(1), linewidth=2, **style)
        _rate_axis(axis)
        axis.set_ylabel("success rate")
        axis.set_xlim(left=0)
        axis.set_xlabel(f"{unit} of training, evaluations included")

    taken = ", ".join(
        f"{method.label} {method.wall_seconds[-1].mean() / seconds:.3g} {unit}"
        for method in section.methods
        if np.isfinite(method.wall_seconds[-1]).all()
    )
    caption = (
        "The same mean success against the time of a run so far, resumed pieces added up. A run trains all its seeds at once, so its time"
        " depends on their number, on the device and on what else the machine did: compare it only where these are the same"
        " (table of origins)."
    )
    alt = f"Success rate over training time. The runs took: {taken}."
    return Picture("wall_clock", "Wall-clock time", caption, [Panel("Success over time", alt, draw)], 1)


def _time_unit(methods: Sequence[Method]) -> tuple[str, float]:
    longest = max((float(np.nanmax(curve.wall_seconds)) for curve in _timed(methods)), default=0.0)
    return next(((unit, size) for unit, size in (("hours", 3600.0), ("minutes", 60.0)) if longest > 2 * size), ("seconds", 1.0))


def _timed(methods: Sequence[Method]) -> list[Curve]:
    curves = [curve for method in methods for curve in method.curves.values()]
    return [curve for curve in curves if np.isfinite(curve.wall_seconds).any()]


def _profile(section: Section, colours: Colours) -> Picture:
    thresholds: NDArray[np.float64] = np.linspace(0, 1, 101)

    def draw(axis: Any) -> None:
        for method in section.methods:
            shares = statistics.performance_profile(method.final, thresholds)
            axis.step(thresholds, shares, where="post", linewidth=2, **colours.line(method.label))
        _rate_axis(axis)
        axis.set_xlim(0, 1)
        axis.set_xlabel("success rate τ")
        axis.set_ylabel("share of tasks × seeds above τ")

    never = ", ".join(f"{method.label} {(method.final > 0).mean():.2f}" for method in section.methods)
    alt = f"Performance profile at the final evaluation. Share of tasks and seeds with any success: {never}."
    caption = "Share of single results (one task, one seed) with a final success above τ. The higher curve is the better one."
    return Picture("profile", "Performance profile", caption, [Panel("Performance profile", alt, draw)], 1)


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
    everyone = len(compared) <= _PAIRS
    if not everyone:
        compared = [pair for pair in compared if pair[0] is section.methods[0]]

    def draw(axis: Any) -> None:
        for row, (_, _, probability, interval) in enumerate(compared):
            if interval is not None:
                axis.plot(interval, (row, row), color=LIGHT[0], linewidth=6, alpha=0.35, solid_capstyle="butt")
            axis.plot(probability, row, "o", color=LIGHT[0], markersize=5)
        axis.axvline(0.5, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        names = [f"{first.label} > {second.label}" for first, second, _, _ in compared]
        axis.set_yticks(range(len(compared)), names)
        axis.set_ylim(len(compared) - 0.5, -0.5)
        axis.set_xlim(-0.02, 1.02)
        axis.grid(axis="x")
        axis.set_xlabel("probability of improvement")

    described = "; ".join(f"{first.label} over {second.label} {value:.2f}" for first, second, value, _ in compared)
    caption = (
        "P(X > Y): the probability that a run of X has a higher final success than one of Y on a task, ties counted half, mean over tasks;"
        " 95 % stratified bootstrap interval where both have two seeds or more. An interval that holds 0.5 shows no difference."
        + ("" if everyone else " Here the first method of the table against the others; the table below has all pairs.")
    )
    panel = Panel("P(X > Y)", f"Probability of improvement: {described}.", draw, (4.3, 1.1 + 0.24 * len(compared)))
    return Picture("improvement", "Probability of improvement", caption, [panel], 1, legend=False)
