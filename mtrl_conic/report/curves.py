"""Success over steps and over time: learning curves, each task's, and wall clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.report import statistics
from mtrl_conic.report.grouping import Method, Section
from mtrl_conic.report.reading import Array, Curve
from mtrl_conic.report.style import FAINT, Colours, Panel, Picture, short_task, steps_axis

_LABELLED = 10  # methods at most whose curves are named at their ends
_CROWD = 9  # single seeds at most in a small panel
_BANDS = 4  # methods at most whose bands can be told apart
_WHISKERS, _SMALL_WHISKERS = 4, 2  # of each method, where there are more: in a large and in a small panel
_Values = Callable[[Array], Array]  # success [..., K] → [...]


def curves(section: Section, colours: Colours) -> list[Picture]:
    """Learning curves, and wall clock where it was recorded."""
    found = [_curves(section, colours)]
    if any(np.isfinite(method.wall_seconds).all() for method in section.methods):
        found.append(_wall_clock(section, colours))
    return found


def _curves(section: Section, colours: Colours) -> Picture:
    title = f"Success, mean over {len(section.tasks)} tasks"
    panels = [_curve_panel(section, colours, title, "the mean over tasks", _mean, (5.6, 3.2))]
    for column, task in enumerate(section.tasks):
        panels.append(_curve_panel(section, colours, short_task(task), task, itemgetter((..., column)), (3.4, 2.3)))
    caption = (
        "Thick: mean over seeds; band: 95 % bootstrap interval of that mean, drawn from whole seeds; thin: single"
        f" seeds, where there are few. With more than {_BANDS} methods, bars at some steps stand for the band, and"
        " single seeds are left out. With two or three seeds a band is narrower than it should be."
    )
    columns = 2 if len(section.tasks) in (2, 4) else 3 if len(section.tasks) < 10 else 5
    return Picture("curves", "Learning curves", caption, panels, columns, section.labels, wide=True)


def _curve_panel(
    section: Section, colours: Colours, title: str, what: str, value: _Values, size: tuple[float, float]
) -> Panel:
    ends = ", ".join(f"{method.label} {value(method.final).mean():.2f}" for method in section.methods)
    alt = f"Learning curves: success in {what} over environment steps per task. At the end: {ends}."
    large = value is _mean
    return Panel(title, alt, lambda axis: _draw_curves(axis, section.methods, colours, value, large), size)


def _mean(success: Array) -> Array:
    return success.mean(-1)


def _draw_curves(
    axis: Any, methods: Sequence[Method], colours: Colours, value: _Values, labelled: bool = False
) -> None:
    crowd, many = sum(len(method.curves) for method in methods), len(methods) > _BANDS
    for index, method in enumerate(methods):
        style = colours.line(method.label)
        for curve in method.curves.values():
            if len(method.curves) > 1 and (labelled or crowd <= _CROWD) and not many:
                axis.plot(curve.steps, value(curve.success), linewidth=0.6, alpha=0.35, **style)
        seeds = value(method.success)
        if (bands := statistics.seed_bands(seeds)) is not None:
            if many:
                count = _WHISKERS if labelled else _SMALL_WHISKERS
                _draw_whiskers(axis, method.steps, bands, count, (index + 0.5) / len(methods), style["color"])
            else:
                axis.fill_between(method.steps, *bands, color=style["color"], alpha=0.16, linewidth=0)
        axis.plot(method.steps, seeds.mean(1), linewidth=2, **style)
        if len(method.steps) == 1:
            axis.plot(method.steps, seeds.mean(1), "o", color=style["color"], markersize=4)
    rate_axis(axis)
    if labelled:
        axis.set_ylabel("success rate")
        steps_axis(axis)
        ends = [(method.label, float(method.steps[-1]), float(value(method.final).mean())) for method in methods]
        _label_ends(axis, ends, colours)
    else:
        steps_axis(axis, "")


def _draw_whiskers(
    axis: Any, steps: NDArray[Any], bands: tuple[Array, Array], count: int, share: float, colour: str
) -> None:
    """So many bars over a band, the first after this share of the way to the next: each method's at steps of its own.

    Between evaluations they are as high as the band would be drawn.
    """
    places = steps[0] + (steps[-1] - steps[0]) * (np.arange(count) + share) / count
    low, high = (np.interp(places, steps, band) for band in bands)
    axis.vlines(places, low, high, color=colour, linewidth=1.2, alpha=0.6)


def rate_axis(axis: Any) -> None:
    """A y-axis from 0 to 1."""
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
            arrowprops={
                "arrowstyle": "-",
                "color": FAINT,
                "linewidth": 0.5,
                "shrinkA": 1,
                "shrinkB": 1,
                "relpos": (0, 0.5),
            },
        )


def _wall_clock(section: Section, colours: Colours) -> Picture:
    unit, seconds = _time_unit(section.methods)

    def draw(axis: Any) -> None:
        for method in section.methods:
            style = colours.line(method.label)
            if len(method.curves) > 1 and len(section.methods) <= _BANDS:
                for curve in method.curves.values():
                    axis.plot(curve.wall_seconds / seconds, _mean(curve.success), linewidth=0.6, alpha=0.35, **style)
            axis.plot(method.wall_seconds.mean(1) / seconds, _mean(method.success).mean(1), linewidth=2, **style)
        rate_axis(axis)
        axis.set_ylabel("success rate")
        axis.set_xlim(left=0)
        axis.set_xlabel(f"{unit} of training, evaluations included")

    taken = ", ".join(
        f"{method.label} {method.wall_seconds[-1].mean() / seconds:.3g} {unit}"
        for method in section.methods
        if np.isfinite(method.wall_seconds[-1]).all()
    )
    caption = (
        "The same mean success against the time of a run so far, resumed pieces added up. A run trains all its seeds at"
        " once, so its time depends on their number, on the device and on what else the machine did: compare it only"
        " where these are the same (table of origins)."
    )
    alt = f"Success rate over training time. The runs took: {taken}."
    return Picture("wall_clock", "Wall-clock time", caption, [Panel("Success over time", alt, draw)], 1, section.labels)


def _time_unit(methods: Sequence[Method]) -> tuple[str, float]:
    longest = max((float(np.nanmax(curve.wall_seconds)) for curve in _timed(methods)), default=0.0)
    return next(
        ((unit, size) for unit, size in (("hours", 3600.0), ("minutes", 60.0)) if longest > 2 * size), ("seconds", 1.0)
    )


def _timed(methods: Sequence[Method]) -> list[Curve]:
    curves = [curve for method in methods for curve in method.curves.values()]
    return [curve for curve in curves if np.isfinite(curve.wall_seconds).any()]
