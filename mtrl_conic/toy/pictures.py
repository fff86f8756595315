"""Pictures of descents on the toy problem: trajectories and convergence, a panel for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtrl_conic.runs.files import write_picture
from mtrl_conic.toy import problem
from mtrl_conic.toy.descent import TOLERANCE, Descent

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # of the starts; told apart by the colour-blind
_COLUMNS = 5
_LIMIT = 11.0  # of both axes of the plane
_LOWEST = 1e-3  # excess that is drawn: the minima are known to four decimals


def draw_trajectories(descents: dict[str, Descent], scale: float, out: Path) -> None:
    """Draw each method's way from the starts over the mean loss, as in Figure 1 of arXiv 2502.00217.

    Args:
        descents: by method, all from `problem.STARTS`.
        scale: of the first loss.
        out: picture, .png or .svg.
    """
    figure, axes = _panels(descents, scale, 2.45)
    for axis, descent in zip(axes, descents.values(), strict=True):
        _draw_plane(axis, scale)
        for points, colour in zip(descent.points.unbind(1), COLOURS, strict=True):
            axis.plot(*points.T.numpy(), color=colour, linewidth=1.5, zorder=3)
            axis.plot(*points[0].tolist(), "o", color=colour, markersize=6, markeredgecolor="white", zorder=4)
            axis.plot(*points[-1].tolist(), "s", color=colour, markersize=4.5, markeredgecolor="black", zorder=5)
    _legend(figure, axes[0], [("start", "o", "0.3", "white"), ("end", "s", "0.3", "black")])
    _label(axes, "$x_1$", "$x_2$")
    write_picture(figure, out, dpi=110)


def draw_convergence(descents: dict[str, Descent], scale: float, out: Path) -> None:
    """Draw how far each method's mean loss lies above its minimum, over steps, from each start.

    Args: as `draw_trajectories`.
    """
    figure, axes = _panels(descents, scale, 2.0)
    for axis, descent in zip(axes, descents.values(), strict=True):
        axis.axhline(TOLERANCE, color="0.35", linewidth=0.9, linestyle="--", label=f"{TOLERANCE} above")
        tracks = zip(descent.excess.unbind(1), descent.first_hit.tolist(), problem.STARTS, COLOURS, strict=True)
        for excess, hit, start, colour in tracks:
            label = "from ({:g}, {:g})".format(*start)
            axis.plot(descent.steps.numpy(), excess.numpy(), color=colour, linewidth=1.3, label=label)
            if hit >= 0:
                axis.plot(hit, TOLERANCE, "o", color=colour, markersize=5, markeredgecolor="black", zorder=4)
        axis.set_yscale("log")
        axis.set_ylim(_LOWEST, 40)
        axis.set_xlim(0, descent.steps[-1].item())
        axis.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}k" if steps else "0")
        axis.locator_params(axis="x", nbins=4)
        axis.grid(alpha=0.25)
    _legend(figure, axes[0], [("first below", "o", "white", "black")])
    _label(axes, "steps", "mean loss above minimum")
    write_picture(figure, out, dpi=110)


def _panels(descents: dict[str, Descent], scale: float, height: float) -> tuple[Figure, list[Any]]:
    """A figure with a titled panel for each method; a panel's height is in inches."""
    rows = -(-len(descents) // _COLUMNS)
    columns = -(-len(descents) // rows)
    figure = Figure(figsize=(max(2.45 * columns + 0.3, 7), height * rows + 1.2), layout="constrained")
    steps = next(iter(descents.values())).steps[-1].item()
    reached = f"n/5: so many starts come within {TOLERANCE} of the minimum of the mean loss"
    figure.suptitle(f"Toy problem, scale {scale:g}, {steps:,} steps. {reached}", fontsize=9)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for axis in axes[len(descents) :]:
        axis.remove()
    for axis, (name, descent) in zip(axes, descents.items(), strict=False):
        count = int((descent.first_hit >= 0).sum())
        axis.set_title(f"{name}  {count}/{len(descent.first_hit)}", fontsize=10)
        axis.tick_params(labelsize=8)
    return figure, axes[: len(descents)]


def _label(axes: list[Any], below: str, left: str) -> None:
    """Label the axes at the figure's left, and those with nothing below them."""
    columns = axes[0].get_gridspec().ncols
    for index, axis in enumerate(axes):
        if index + columns >= len(axes):
            axis.set_xlabel(below, fontsize=8)
            axis.tick_params(labelbottom=True)
        if index % columns == 0:
            axis.set_ylabel(left, fontsize=8)


def _draw_plane(axis: Any, scale: float) -> None:
    line = torch.linspace(-_LIMIT, _LIMIT, 221)
    x1, x2 = torch.meshgrid(line, line, indexing="xy")
    mean = problem.losses(torch.stack((x1, x2), -1), scale).mean(-1)
    heights = (x1.numpy(), x2.numpy(), mean.numpy())
    greys = LinearSegmentedColormap.from_list("darker is lower", ["0.8", "1.0"])
    axis.contourf(*heights, levels=16, cmap=greys, zorder=0)
    axis.contour(*heights, levels=16, colors="0.6", linewidths=0.5, linestyles="solid", zorder=1)
    axis.plot([-7, 7], [-8.355, -8.355], color="black", linewidth=3.5, alpha=0.35, zorder=2, label="Pareto front")
    style: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 12, "linestyle": "none"}
    axis.plot(*problem.MINIMA[scale][0], "*", zorder=2.5, label="minimum of the mean loss", **style)
    axis.set(xlim=(-_LIMIT, _LIMIT), ylim=(-_LIMIT, _LIMIT), aspect="equal", xticks=(-10, 0, 10), yticks=(-10, 0, 10))


def _legend(figure: Figure, axis: Any, markers: list[tuple[str, str, str, str]]) -> None:
    """Name what the panels have in common; markers are (label, marker, colour, edge)."""
    handles, labels = axis.get_legend_handles_labels()
    for label, marker, colour, edge in markers:
        handles.append(Line2D([], [], linestyle="none", marker=marker, color=colour, markeredgecolor=edge))
        labels.append(label)
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
