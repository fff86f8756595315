"""The MT10 table of the papers from CAGrad to ConicGrad, of runs of `configs/sweep/table3.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from mtrl_conic.report import tables
from mtrl_conic.report.grouping import Method, Section
from mtrl_conic.report.reading import Run
from mtrl_conic.settings.overrides import GROUPS
from mtrl_conic.settings.variants import Variants, layered, read_variants

SOURCE = "Table 3 of CAGrad's paper, arXiv 2110.14048"
# Mean and standard error over ten seeds in its text; numbers that were not read in a paper's text are left out.
PUBLISHED = {
    "LS": tables.Estimate(0.49, 0.073),
    "STL": tables.Estimate(0.90, 0.032),
    "Multi-headed SAC": tables.Estimate(0.61, 0.036),
    "Soft Modularization": tables.Estimate(0.73, 0.043),
    "PCGrad": tables.Estimate(0.72, 0.022),
    "CAGrad": tables.Estimate(0.83, 0.045),
}


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Args:
        row: the results of its runs.
        published: what its paper reports under its own protocol; None where that is not known, or no MT10 was run.
    """

    row: tables.Row
    published: tables.Estimate | None


@dataclass(frozen=True)
class PaperTable:
    """The rows that were run, in the order of the papers, and the names of those that were not."""

    lines: list[Line]
    missing: list[str]

    @property
    def episodes(self) -> list[str]:
        """Evaluation episodes per task, "during / final"; one entry where all rows have the same."""
        return list(dict.fromkeys(tables.episodes_text(line.row.method) for line in self.lines))

    @property
    def published(self) -> bool:
        """Whether any number of a paper stands beside."""
        return any(line.published is not None for line in self.lines)


def paper_table(section: Section, results: Sequence[tables.Row], notes: list[str]) -> PaperTable | None:
    """The table of a section; None where none of its methods is a row of it.

    Args:
        section: whose.
        results: its main table.
        notes: runs that have a row's name and other settings are named here.
    """
    names = list(_file().changes)
    having = [row for row in results if is_row(row.method)]
    if not having:
        return None
    for row in results:
        if row.method.variant in names and not is_row(row.method):
            listed = "; ".join(dict.fromkeys(each for run in row.method.folders for each in _departures(run)))
            notes.append(f"{row.method.label}: has the name of a row of the papers' table, but {listed}")
    having.sort(key=lambda row: names.index(str(row.method.variant)))
    known = PUBLISHED if _whole_mt10(section) else {}
    lines = [Line(row, known.get(str(row.method.variant))) for row in having]
    there = {row.method.variant for row in having}
    return PaperTable(lines, [name for name in names if name not in there])


def is_row(method: Method) -> bool:
    """Whether a method's runs have the name of a row and all that the file says of it, but the experiment."""
    if method.variant not in _file().changes:
        return False
    return not any(departure for run in method.folders for departure in _departures(run))


@cache
def _file() -> Variants:
    return read_variants("table3")


def _departures(run: Run) -> Iterator[str]:
    """Settings of a run with a row's name that are not the row's, such as "combiner.c is 0.5, not 0.9"."""
    file = _file()
    for network in run.config.get("combiners", {}):
        yield f"{network} has a combiner of its own"
    for text in layered(file.settings, file.changes[str(run.config["variant"])]):
        key = text.partition("=")[0]
        if key == "experiment":
            continue
        wanted = OmegaConf.select(OmegaConf.from_dotlist([text]), key)
        found = _of_run(run, key)
        if found != wanted:
            yield f"{key} is {'not recorded' if found is None else found}, not {wanted}"


def _of_run(run: Run, key: str) -> Any:
    found: Any = run.config
    for name in ("choices", key) if key in GROUPS else key.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _whole_mt10(section: Section) -> bool:
    return section.protocol.get("env.benchmark") == "mt10" and len(section.tasks) == 10
