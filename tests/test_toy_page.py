"""The table of docs/toy.md is that of docs/results/toy.json; `python tests/test_toy_page.py` rewrites it."""

import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE, RECORD = DOCS / "toy.md", DOCS / "results" / "toy.json"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def render(record):
    """A row per method, a column a start: first hit and, in brackets, the excess at the end."""
    methods = record["methods"]
    starts = [row["start"] for row in next(iter(methods.values()))["starts"]]
    lines = ["| `combiner=` | " + " | ".join("({:g}, {:g})".format(*start) for start in starts) + " |"]
    lines.append("|---" * (len(starts) + 1) + "|")
    for name, method in methods.items():
        lines.append(f"| `{name}` | " + " | ".join(map(cell, method["starts"])) + " |")
    return "\n".join(lines)


def cell(row):
    hit = "never" if row["first_hit"] is None else f"{row['first_hit']:,}"
    return f"{hit} ({row['excess']:.2f})"


def page(record):
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{render(record)}\n\n{END}{after}"


def test_the_table_is_that_of_the_record():
    assert PAGE.read_text() == page(json.loads(RECORD.read_text()))


def test_the_record_has_every_method():
    yamls = {path.stem for path in (DOCS.parent / "configs" / "combiner").glob("*.yaml")} - {"torchjd"}
    assert set(json.loads(RECORD.read_text())["methods"]) == yamls


@pytest.mark.parametrize("name", ["conicgrad", "conicgrad_exact"])
def test_conicgrad_reaches_the_minimum_from_every_start_and_stays(name):
    rows = json.loads(RECORD.read_text())["methods"][name]["starts"]
    assert all(row["first_hit"] is not None and row["excess"] < 0.02 for row in rows)


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(RECORD.read_text())))
