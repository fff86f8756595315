"""The tables of docs/toy.md are those of two records in docs/results; `python tests/test_toy_page.py` rewrites them."""

import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE, RECORD = DOCS / "toy.md", DOCS / "results" / "toy.json"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
CONIC_RECORD = RECORD.with_name("toy_conicgrad.json")
CONIC_BEGIN, CONIC_END = "<!-- conicgrad: begin -->", "<!-- conicgrad: end -->"


def render(record):
    """A row per method, a column per start: first hit and, in brackets, the excess at the end."""
    return table(["`combiner=`"], {(f"`{name}`",): method["starts"] for name, method in record["methods"].items()})


def render_conicgrad(record):
    """The same, a row per descent: two scales, two cones, the iteration and the exact solution."""
    rows = {(f"{run['scale']:g}", f"{run['c']:g}", f"`{run['combiner']}`"): run["starts"] for run in record["descents"]}
    return table(["scale", "c", "`combiner=`"], rows)


def table(headings, rows):
    starts = [row["start"] for row in next(iter(rows.values()))]
    cells = [*headings, *("({:g}, {:g})".format(*start) for start in starts)]
    lines = ["| " + " | ".join(cells) + " |", "|---" * len(cells) + "|"]
    lines += ["| " + " | ".join([*names, *map(cell, found)]) + " |" for names, found in rows.items()]
    return "\n".join(lines)


def cell(row):
    hit = "never" if row["first_hit"] is None else f"{row['first_hit']:,}"
    excess = f"{row['excess']:.2f}".replace("-0.00", "0.00")  # the minimum is known to four decimals
    return f"{hit} ({excess})"


def page():
    first = with_table(PAGE.read_text(), BEGIN, END, render(json.loads(RECORD.read_text())))
    return with_table(first, CONIC_BEGIN, CONIC_END, render_conicgrad(json.loads(CONIC_RECORD.read_text())))


def with_table(text, begin, end, lines):
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{lines}\n\n{end}{rest.partition(end)[2]}"


def test_the_tables_are_those_of_the_records():
    assert PAGE.read_text() == page()


def test_both_conicgrads_reach_the_minimum_in_every_case():
    descents = json.loads(CONIC_RECORD.read_text())["descents"]
    assert len(descents) == 8
    assert all(row["first_hit"] is not None and row["excess"] < 0.02 for run in descents for row in run["starts"])


def test_the_record_has_every_method():
    yamls = {path.stem for path in (DOCS.parent / "configs" / "combiner").glob("*.yaml")} - {"torchjd"}
    assert set(json.loads(RECORD.read_text())["methods"]) == yamls


@pytest.mark.parametrize("name", ["conicgrad", "conicgrad_exact"])
def test_conicgrad_reaches_the_minimum_from_every_start_and_stays(name):
    rows = json.loads(RECORD.read_text())["methods"][name]["starts"]
    assert all(row["first_hit"] is not None and row["excess"] < 0.02 for row in rows)


if __name__ == "__main__":
    PAGE.write_text(page())
