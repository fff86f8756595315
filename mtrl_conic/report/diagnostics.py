"""Pictures of what combiners did: cosine and conflict rate over time, and the weights of tasks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from mtrl_conic.report import statistics
from mtrl_conic.report.grouping import Method, Section
from mtrl_conic.report.reading import Array, Trace
from mtrl_conic.report.style import Colours, Panel, Picture, short_number, short_task, steps_axis

_BINS = 40
_ABOUT = {
    "cosine": "Cosine of the angle between the direction taken and the mean gradient: 1 is the mean gradient itself.",
    "conflict": "Conflict rate: share of task pairs whose gradients have a negative inner product.",
}


def diagnostics(section: Section, colours: Colours) -> list[Picture]:
    """The pictures for which there are records."""
    found = [_over_time(section, colours, name) for name in _ABOUT]
    return [picture for picture in [*found, _weights(section)] if picture is not None]


def binned(traces: Iterable[Trace], bins: int = _BINS) -> tuple[Array, Array]:
    """Means of single updates' noisy values within equal pieces of time.

    Args:
        traces: of the seeds, steps [T] and values [T] or [T, K] each.
        bins: pieces at most.

    Returns:
        Steps [B], the middle of the pieces in which every seed has values, and values [B, S] or [B, S, K].
    """
    traces = list(traces)
    bins = min(bins, max(len(steps) for steps, _ in traces))
    edges = np.linspace(0, max(int(steps[-1]) for steps, _ in traces), bins + 1)
    where = [np.clip(np.searchsorted(edges, steps, side="left") - 1, 0, bins - 1) for steps, _ in traces]
    shared = sorted(set.intersection(*(set(index.tolist()) for index in where)))
    values = [
        np.stack([of_seed[index == piece].mean(0) for piece in shared]) if shared else of_seed[:0]
        for (_, of_seed), index in zip(traces, where, strict=True)
    ]
    middles = (edges[:-1] + edges[1:]) / 2
    return middles[shared], np.stack(values, 1)


def _over_time(section: Section, colours: Colours, name: str) -> Picture | None:
    panels, networks = [], section.networks
    for network in networks:
        key = f"{network}/{name}"
        having = {m.label: binned(m.traces(key)) for m in section.methods if m.traces(key)}
        having = {label: (steps, values) for label, (steps, values) in having.items() if len(steps)}
        if not having:
            continue
        last = ", ".join(f"{label} {values[-1].mean():.2f}" for label, (_, values) in having.items())
        alt = f"{_ABOUT[name]} {network.capitalize()}, over environment steps. At the end: {last}."
        draw = partial(_lines, found=having, colours=colours, name=name)
        panels.append(Panel(f"{name.capitalize()}, {network}", alt, draw))
    if not panels:
        return None
    caption = _ABOUT[name] + " Single updates, averaged within pieces of time; mean and 95 % interval over seeds."
    drawn = tuple(m.label for m in section.methods if any(m.traces(f"{network}/{name}") for network in networks))
    without = [label for label in section.labels if label not in drawn]
    if without:
        caption += f" No such record: {', '.join(without)} (methods that build no Jacobian have none)."
    return Picture(
        name, f"{'Cosine' if name == 'cosine' else 'Conflict rate'} over time", caption, panels, legend=drawn
    )


def _lines(axis: Any, found: dict[str, tuple[Array, Array]], colours: Colours, name: str) -> None:
    for label, (steps, values) in found.items():
        style = colours.line(label)
        if (bands := statistics.seed_bands(values)) is not None:
            axis.fill_between(steps, *bands, color=style["color"], alpha=0.16, linewidth=0)
        axis.plot(steps, values.mean(1), linewidth=1.8, **style)
    lowest = min(float(values.min()) for _, values in found.values()) if name == "cosine" else 0.0
    axis.set_ylim(max(-1.0, np.floor(10 * lowest) / 10) - 0.03, 1.03)
    axis.grid()
    steps_axis(axis)


def _weights(section: Section) -> Picture | None:
    panels = []
    for method in section.methods:
        for network in method.networks:
            if not method.traces(f"{network}/weight"):
                continue
            steps, values = binned(method.traces(f"{network}/weight"))
            if len(steps):
                panels.append(_weight_panel(method, network, section.tasks, steps, shares(values)))
    if not panels:
        return None
    caption = (
        "The weight of each task's gradient in the direction, as a share of all (absolute) weights times the number of"
        " tasks: 1 is an equal share. Mean over seeds. Methods that act on single elements of the Jacobian record none."
    )
    return Picture("weights", "Task weights over time", caption, panels)


def shares(weights: Array) -> Array:
    """Weights [B, S, K] as shares of their absolute sum, times K, mean over seeds → [B, K]."""
    total = np.abs(weights).sum(-1, keepdims=True)
    return np.asarray((weights / np.where(total > 0, total, 1)).mean(1) * weights.shape[-1])


def _edges(middles: Array) -> Array:
    """The bounds [B + 1] of pieces around their middles [B]."""
    if len(middles) == 1:
        return np.array([0.0, 2 * middles[0]])
    between = (middles[1:] + middles[:-1]) / 2
    return np.concatenate(([2 * middles[0] - between[0]], between, [2 * middles[-1] - between[-1]]))


def _weight_panel(method: Method, network: str, tasks: tuple[str, ...], steps: Array, share: Array) -> Panel:
    def draw(axis: Any) -> None:
        limits = {"vmin": min(0.0, float(share.min())), "vmax": max(2.0, float(share.max()))}
        rows = np.arange(len(tasks) + 1) - 0.5
        image = axis.pcolormesh(_edges(steps), rows, share.T, cmap="viridis", rasterized=True, **limits)
        axis.invert_yaxis()
        axis.set_yticks(range(len(tasks)), [short_task(task) for task in tasks], fontsize=7.5)
        axis.tick_params(axis="y", length=0)
        steps_axis(axis)
        bar = axis.figure.colorbar(image, ax=axis, pad=0.02, aspect=25)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(lambda value, _: short_number(value))

    last = ", ".join(f"{short_task(task)} {value:.2f}" for task, value in zip(tasks, share[-1], strict=True))
    alt = f"Task weights of {method.label}, {network}, over environment steps; 1 is an equal share. At the end: {last}."
    return Panel(f"{method.label}, {network}", alt, draw, (4.3, 1.3 + 0.17 * max(len(tasks), 5)))
