"""The page: one HTML file that asks nobody for anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtrl_conic.report import tables
from mtrl_conic.report.comparison import pairs
from mtrl_conic.report.grouping import Section
from mtrl_conic.report.paper_table import SOURCE, PaperTable
from mtrl_conic.report.style import DARK, DASHES, LIGHT, Colours, Picture, inline_svg, short_task


@dataclass
class Content:
    """A section with all that the page shows of it; `paper` is the papers' table, where its rows were run."""

    section: Section
    rows: list[tables.Row]
    pictures: list[Picture]
    paper: PaperTable | None


def render(contents: Sequence[Content], notes: Sequence[str], colours: Colours, command: str, runs: int) -> str:
    """The page as text.

    Args:
        contents: the sections.
        notes: what is wrong with the records, or to be kept in mind.
        colours: of all methods.
        command: that made the report.
        runs: number of run folders read.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"estimate": tables.estimate_text, "interval": tables.interval_text}
    environment.filters |= {"short_task": short_task, "swatch": _dash}
    return environment.get_template("page.html").render(
        sections=[_view(number, content, colours) for number, content in enumerate(contents)],
        notes=notes,
        light=LIGHT,
        dark=DARK,
        command=command,
        source=SOURCE,
        runs=runs,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _view(number: int, content: Content, colours: Colours) -> dict[str, Any]:
    section = content.section
    pictures = [
        {
            "picture": picture,
            "panels": [
                {"svg": inline_svg(panel, f"s{number}-{picture.name}-{index}"), "wide": picture.wide and index == 0}
                for index, panel in enumerate(picture.panels)
            ],
        }
        for picture in content.pictures
    ]
    return {
        "id": f"s{number}",
        "section": section,
        "rows": content.rows,
        "pictures": pictures,
        "paper": content.paper,
        "index": {method.label: colours.index(method.label) for method in section.methods},
        "columns": [
            [tables.estimate(method.final[:, k]) for method in section.methods] for k in range(len(section.tasks))
        ],
        "pairs": pairs(section),
        "origins": [(method.label, tables.origin(method, section)) for method in section.methods],
    }


def _dash(index: int) -> str:
    """The dash of a method's legend line, as SVG's stroke-dasharray."""
    dash = DASHES[index // len(LIGHT) % len(DASHES)]
    return "none" if dash == "solid" else " ".join(f"{2.2 * length:g}" for length in dash[1])
