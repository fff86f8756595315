"""docs/combiner_comparison.md and docs/combiners.md know every method; the measured tables are as measured now."""

import pytest
from hard_matrices import METHODS, make
from property_table import BEGIN, END, PAGE, measure, text, with_tables

# How far a number may be from a new measurement, on another CPU or with another torch: shares, cosines and lengths.
ABSOLUTE, RELATIVE = 0.03, 0.05

EXAMPLE = [
    {"a": {"unharmed": 0.5, "length": 0.98}, "b": {"unharmed": 1.0, "length": 50.0}},
    {"a": {"draws": "no"}, "b": {"draws": "yes"}},
]


def parse(markdown):
    """The tables of a text, each a dict: first cell without its quotes to column to cell."""
    tables = []
    for block in markdown.split("\n\n"):
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines() if line.startswith("|")]
        if rows:
            tables.append({row[0].strip("`"): dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]})
    return tables


def disagreements(page, tables):
    """What the page says otherwise than the measurement; empty where they agree."""
    shown = parse(page.partition(BEGIN)[2].partition(END)[0])
    if len(shown) != len(tables):
        return [f"{len(shown)} tables instead of {len(tables)}"]
    found = []
    for cells, table in zip(shown, tables, strict=True):
        found += [f"{name}: only one of page and configs has it" for name in sorted(cells.keys() ^ table.keys())]
        for name in sorted(cells.keys() & table.keys()):
            found += disagreements_of_a_row(name, cells[name], table[name])
    return found


def disagreements_of_a_row(name, cells, row):
    if list(cells) != list(row):
        return [f"{name}: other columns"]
    wrong = [column for column, value in row.items() if not agrees(cells[column], value)]
    return [f"{name}, {column}: {cells[column]}, measured {text(column, row[column])}" for column in wrong]


def agrees(cell, value):
    if isinstance(value, str):
        return cell == value
    try:
        shown = float(cell.removesuffix("%")) * (0.01 if cell.endswith("%") else 1)
    except ValueError:
        return False
    return abs(shown - value) <= ABSOLUTE + RELATIVE * abs(value)


@pytest.mark.slow
def test_the_page_agrees_with_the_measurement():
    found = disagreements(PAGE.read_text(), measure())
    assert not found, "docs/combiner_comparison.md is out of date: run python tests/combiners/property_table.py"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("50 %", "52 %", None),
        ("50 %", "56 %", "a, unharmed: 56 %, measured 50 %"),
        ("0.98", "1.00", None),
        ("0.98", "1.08", "a, length: 1.08, measured 0.98"),
        ("0.98", "nan", "a, length: nan, measured 0.98"),
        ("0.98", "much", "a, length: much, measured 0.98"),
        ("| no |", "| yes |", "a, draws: yes, measured no"),
        ("| `b` | yes |\n", "", "b: only one of page and configs has it"),
        ("| `b` | yes |", "| `b` | yes |\n| `c` | yes |", "c: only one of page and configs has it"),
        ("draws |", "guesses |", "a: other columns"),
        (END, f"\n\n| x |\n|---|\n\n{END}", "3 tables instead of 2"),
    ],
)
def test_what_the_comparison_finds(old, new, message):
    page = with_tables(f"before\n{BEGIN}old{END}\nafter", EXAMPLE)
    assert page.startswith("before")
    assert page.endswith("after")
    assert not disagreements(page, EXAMPLE)
    assert page.count(old) == 1
    found = disagreements(page.replace(old, new), EXAMPLE)
    assert not found if message is None else found[0] == message


def test_a_page_without_markers_is_left_alone():
    with pytest.raises(ValueError, match="no section"):
        with_tables(f"text {BEGIN} text", EXAMPLE)


def test_the_page_says_what_each_method_needs():
    table = parse(PAGE.read_text())[0]
    assert sorted(table) == METHODS
    for name, row in table.items():
        combiner = make(name)
        needs = {"losses": "losses", "gramian": "Gramian", "jacobian": "Jacobian"}[combiner.requires]
        assert row["needs"] == needs + (", again after the step" if combiner.looks_back else "")


def test_every_method_has_its_paragraph():
    headings = [line.removeprefix("### ").strip("`") for line in PAGE.read_text().splitlines() if line[:4] == "### "]
    assert sorted(headings) == METHODS


def test_the_page_on_combiners_lists_every_method():
    assert sorted(parse(PAGE.with_name("combiners.md").read_text())[0]) == METHODS
