"""The cone of ConicGrad and the ball of CAGrad, for two gradients in the plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Wedge
from torch import Tensor

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.runs.files import write_picture

Pair = Sequence[Sequence[float]]

# g_1 and g_2. In both the mean gradient has a negative product with g_2; at c = 0.5 the direction that is best for
# the worst task lies inside the cone in the first, on its surface in the second.
GRADIENTS: dict[str, Pair] = {
    "conflict": ((2.2, 0.0), (-0.9, 1.0)),
    "strong conflict": ((2.2, 0.0), (-0.9, 0.45)),
}
_UPDATES = 500  # at most; the task weights of ConicGrad need about 200
_CONE, _BALL, _GREY = "#0072B2", "#D55E00", "0.25"


def settled_direction(combiner: Combiner, gradients: Pair) -> Tensor:
    """The direction [2] of a new combiner that has met the same two gradients until it changed no more."""
    combiner.setup([0], num_tasks=2)
    jacobian, losses = torch.tensor([gradients], dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    last = combiner.combine(jacobian, losses)
    for _ in range(_UPDATES):
        direction = combiner.combine(jacobian, losses)
        if (direction - last).norm() <= 1e-9 * last.norm():
            break
        last = direction
    return direction[0]


def draw_cone_and_ball(make: Callable[[str], Combiner], out: Path) -> None:
    """Draw what ConicGrad and CAGrad may choose from and what they choose, as in Figure 3 of arXiv 2502.00217.

    Args:
        make: gives a new combiner by name, "conicgrad" or "cagrad".
        out: picture, .png or .svg.
    """
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    for axis, (title, gradients) in zip(figure.subplots(1, 2, sharey=True), GRADIENTS.items(), strict=True):
        _draw_panel(axis, make("conicgrad"), make("cagrad"), gradients)
        axis.set_title(title, fontsize=11)
        axis.set(xlim=(-1.3, 2.5), ylim=(-0.85, 1.6), aspect="equal")
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.2)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    write_picture(figure, out, dpi=110)


def _draw_panel(axis: Any, conicgrad: Any, cagrad: Any, gradients: Pair) -> None:
    jacobian = torch.tensor(gradients, dtype=torch.float64)
    mean, cone, ball = jacobian.mean(0), *(settled_direction(method, gradients) for method in (conicgrad, cagrad))
    cosine = conicgrad.diagnostics.get("cone_cosine", torch.tensor([conicgrad.c]))  # its present one, where c moves
    _draw_feasible(axis, mean, cosine.item(), cagrad.c)
    for name, gradient in (("$g_1$", jacobian[0]), ("$g_2$", jacobian[1]), ("$g_0$", mean)):
        _arrow(axis, gradient, _GREY, 1.3)
        axis.annotate(name, gradient.tolist(), _offset(gradient), textcoords="offset points", ha="center", va="center")
    axis.plot([], [], color=_GREY, label="gradients $g_1$, $g_2$ and their mean $g_0$")
    _arrow(axis, cone, _CONE, 2.6, "direction of ConicGrad")
    _arrow(axis, ball, _BALL, 2.6, "direction of CAGrad")
    inside = (ball * (1 + cagrad.c**2)).tolist()
    style: dict[str, Any] = {"color": "white", "markeredgecolor": _BALL, "markeredgewidth": 1.6, "linestyle": "none"}
    axis.plot(*inside, "o", markersize=6, zorder=4, label="the same before CAGrad divides by $1 + c^2$", **style)
    worst = [(jacobian @ direction).min().item() for direction in (mean, ball, cone)]
    text = "smaller of $g_1^\\top d$, $g_2^\\top d$:  mean {:.2f},  CAGrad {:.2f},  ConicGrad {:.2f}".format(*worst)
    axis.set_xlabel(text.replace("-", "\N{MINUS SIGN}"), fontsize=10)


def _draw_feasible(axis: Any, mean: Tensor, cone_cosine: float, ball_radius: float) -> None:
    """The cone of half angle arccos c around g_0, and the ball of radius c ‖g_0‖ around it."""
    angle, half = math.degrees(math.atan2(mean[1], mean[0])), math.degrees(math.acos(cone_cosine))
    label = f"cone of ConicGrad, c = {cone_cosine:g}"
    axis.add_patch(Wedge((0, 0), 9, angle - half, angle + half, facecolor=_CONE, alpha=0.13, label=label))
    radius = ball_radius * mean.norm().item()
    label = f"ball of CAGrad, c = {ball_radius:g}"
    centre = (mean[0].item(), mean[1].item())
    axis.add_patch(Circle(centre, radius, facecolor=_BALL, edgecolor=_BALL, alpha=0.25, label=label))


def _arrow(axis: Any, vector: Tensor, colour: str, width: float, label: str | None = None) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", vector.tolist(), (0, 0), arrowprops=style, zorder=3)
    if label:
        axis.plot([], [], color=colour, linewidth=width, label=label)


def _offset(vector: Tensor) -> list[float]:
    """Where a label goes beyond an arrow's head, in points."""
    return (11 * vector / vector.norm()).tolist()
