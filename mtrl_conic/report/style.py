"""Colours, fonts and files of the pictures: one drawing serves paper, light page and dark page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrl_conic.runs.files import drawn, write_picture

# Of methods, told apart by the colour-blind: on white, and what stands for them on a dark page.
LIGHT = ("#0072b2", "#d55e00", "#00855f", "#a8468a", "#947000", "#40464d", "#2b8fce")
DARK = ("#4ba3e3", "#ff8a4c", "#3fc79a", "#e58ac6", "#dcb43c", "#c9ced6", "#9fe0ff")
INK, FAINT, GRID = "#1c2127", "#59636e", "#d5dbe1"
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.2, 1.6)))  # a second channel where colours repeat
_RC: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a dollar sign in a name is one
    "svg.fonttype": "none",  # text stays text: small, found by a search, and drawn in the page's font
    "svg.hashsalt": "mtrl_conic",  # the same picture is the same file
}


@dataclass(frozen=True)
class Colours:
    """Which colour and dash each method has, in all pictures and legends of a page."""

    labels: tuple[str, ...]

    def index(self, label: str) -> int:
        return self.labels.index(label)

    def line(self, label: str) -> dict[str, Any]:
        """Arguments of a line of the method."""
        index = self.index(label)
        return {"color": LIGHT[index % len(LIGHT)], "linestyle": DASHES[index // len(LIGHT) % len(DASHES)]}


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        title: above the axes.
        alt: the picture in words.
        draw: draws it into axes.
        size: width and height in inches.
    """

    title: str
    alt: str
    draw: Callable[[Any], None]
    size: tuple[float, float] = (4.3, 2.9)


@dataclass(frozen=True)
class Picture:
    """Panels that belong together: one file, and on the page a row of them.

    Args:
        name: of the files, without a suffix.
        heading: above it on the page.
        caption: below it.
        panels: at least one.
        columns: of the file's grid.
        legend: the methods that its lines are, if they are.
        wide: whether the first panel spans the file's first row.
    """

    name: str
    heading: str
    caption: str
    panels: list[Panel]
    columns: int = 2
    legend: tuple[str, ...] = ()
    wide: bool = False


def inline_svg(panel: Panel, prefix: str) -> str:
    """A panel as SVG for a page, its colours those of the page's style sheet.

    Args:
        panel: what to draw.
        prefix: makes its identifiers unique on the page.
    """
    from html import escape

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=panel.size, layout="constrained", facecolor="none")
        axis = figure.subplots()
        panel.draw(axis)
        axis.set_title(panel.title, loc="left", fontweight="bold")
        for each in figure.axes:  # a colour bar too
            each.patch.set_facecolor("none")
        text = drawn(figure, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text)
    text = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", text, count=2)
    for name, colour in _variables().items():
        text = text.replace(colour, f"var({name})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(panel.alt)}"', 1).replace("xlink:href", "href")


def _variables() -> dict[str, str]:
    return {f"--m{index}": colour for index, colour in enumerate(LIGHT)} | {
        "--ink": INK,
        "--faint": FAINT,
        "--grid": GRID,
    }


def save(picture: Picture, colours: Colours, folder: Path) -> list[Path]:
    """Write a picture as PNG and SVG, in light colours, with a legend of its own; returns the files."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    panels, columns = picture.panels, min(picture.columns, len(picture.panels))
    rest = panels[1:] if picture.wide else panels
    rows = -(-len(rest) // columns)
    width = min(3.0 if columns > 2 else 4.6, panels[0].size[0]) * columns
    heights = [3.1] * picture.wide + [rest[0].size[1] * (0.72 if columns > 2 else 1)] * rows
    names_per_row = max(1, int(width / 2.2))
    below = 0.45 + 0.19 * max(0, -(-len(picture.legend) // names_per_row) - 2)
    with rc_context(_RC):
        figure = Figure(
            figsize=(width, sum(heights) + below), layout=ConstrainedLayoutEngine(w_pad=0.09), facecolor="white"
        )
        grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
        for index, panel in enumerate(panels):
            place = index - picture.wide
            spot = grid[0, :] if place < 0 else grid[picture.wide + place // columns, place % columns]
            axis = figure.add_subplot(spot)
            panel.draw(axis)
            axis.set_title(panel.title, loc="left", fontweight="bold")
        if picture.legend:
            lines = [Line2D([], [], linewidth=2.2, label=label, **colours.line(label)) for label in picture.legend]
            figure.legend(handles=lines, loc="outside lower center", ncols=names_per_row, frameon=False)
        files = [folder / f"{picture.name}{suffix}" for suffix in (".png", ".svg")]
        write_picture(figure, files[0], dpi=130)
        write_picture(figure, files[1])
    return files


def steps_axis(axis: Any, label: str = "environment steps per task") -> None:
    """An x-axis of steps: 0, 500k, 1M."""
    from matplotlib.ticker import MaxNLocator

    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axis.xaxis.set_major_formatter(lambda steps, _: short_number(steps))
    axis.set_xlabel(label)


def short_number(value: float) -> str:
    """2000000 as "2M", 1500 as "1.5k"."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def short_task(task: str) -> str:
    """A task's name without the version that all of them share."""
    return re.sub(r"-v\d$", "", task)
