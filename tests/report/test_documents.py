"""The tables as Markdown and LaTeX: the numbers of the records, whole tables, names with signs of the formats."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from synthetic import TASKS, make_run

from mtrl_conic.report import ablation, tables
from mtrl_conic.report.documents import write_documents
from mtrl_conic.report.grouping import sections
from mtrl_conic.report.paper_table import paper_table
from mtrl_conic.report.reading import read_run

NAME = r"50 % of a_b & {c} | ~d^2 <e> \f #1 $x [g] *h*"


def written(runs: list[Path], folder: Path) -> tuple[str, str]:
    found = sections([run for path in runs if (run := read_run(path, [])) is not None], None, [])
    (section,) = found
    results = tables.rows(section)
    variants = ablation.ablation(section, found, [])
    files = write_documents(section, results, variants, paper_table(section, results, []), folder)
    markdown, latex = (path.read_text() for path in files)
    return markdown, latex


def success(run: Path) -> np.ndarray:
    """Of the last evaluation [S, K]."""
    lines = [json.loads(text) for text in (run / "evaluations.jsonl").read_text().splitlines()]
    last = max(line["step"] for line in lines)
    return np.array([[line["success"][task] for task in TASKS] for line in lines if line["step"] == last])


def markdown_cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def latex_tables(text: str) -> list[tuple[int, list[list[str]]]]:
    """The number of columns and the cells of each table."""
    found = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l?r*)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r"\\")]
        found.append((len(columns), [re.split(r"(?<!\\)&", line) for line in lines]))
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    runs = [
        make_run(root / "conicgrad", "conicgrad", level=0.8),
        make_run(root / "ls", "ls", (3,), level=0.4),
    ]
    return runs, *written(runs, root / "out")


def test_the_numbers_are_those_of_the_records(two):
    (conicgrad, ls), markdown, latex = two
    values = success(conicgrad)
    mean, error = values.mean(), values.mean(1).std(ddof=1) / 3**0.5
    cells = {line[0]: line for line in markdown_cells(markdown)[:3]}
    assert cells["ConicGrad"][1] == f"{mean:.3f} ± {error:.3f}"
    assert cells["ConicGrad"][4:] == ["1,000", "0-2", "5 / 50"]
    assert cells["LS"][1] == f"{success(ls).mean():.3f}"
    assert cells["LS"][3] == "one seed"
    assert f"ConicGrad & {mean:.3f} $\\pm$ {error:.3f} &" in latex
    by_task = {line[0]: line for line in markdown_cells(markdown)[3:]}
    for column, task in enumerate(TASKS):
        each = values[:, column]
        expected = f"{each.mean():.3f} ± {each.std(ddof=1) / 3**0.5:.3f}"
        assert by_task[task.removesuffix("-v3")][1:] == [expected, f"{success(ls)[0, column]:.3f}"]


def test_each_table_says_its_protocol_and_what_is_not_like_the_others(two):
    _, markdown, latex = two
    captions = re.findall(r"\\caption\{(.*)\}", latex)
    assert len(captions) == 2
    assert all(caption.startswith("MT10, Meta-World V3, reward v2, goal seed 0. ") for caption in captions)
    assert "LS: one seed: no standard error, no interval" in captions[0]
    assert "- LS: one seed: no standard error, no interval" in markdown
    assert "50 goals per task" in markdown
    assert "50 goals per task" in latex
    (versions,) = [line for line in markdown.splitlines() if "torch" in line]
    assert "metaworld" in versions  # what both share is said once


def test_every_line_has_all_columns(two):
    _, markdown, latex = two
    for columns, lines in latex_tables(latex):
        assert columns > 2
        assert all(len(line) == columns for line in lines)
    assert len({len(line) for line in markdown_cells(markdown)[:3]}) == 1


def test_names_with_signs_of_the_formats(tmp_path):
    base = make_run(tmp_path / "base", "ls", level=0.5, variant="base")
    markdown, latex = written([base, make_run(tmp_path / "odd", "ls", level=0.7, variant=NAME)], tmp_path / "out")
    name = markdown_cells(markdown)[1][0]
    assert re.sub(r"\\([\\`*_\[\]<>|])", r"\1", name) == NAME
    assert not re.search(r"(?<!\\)[*_\[\]<>|]", name.replace("\\\\", ""))
    expected = (
        r"50 \% of a\_b \& \{c\} \textbar{} \textasciitilde{}d\textasciicircum{}2 \textless{}e\textgreater{}"
        r" \textbackslash{}f \#1 \$x [g] *h*"
    )
    assert f"{expected} & " in latex
    results, tasks, variants = latex_tables(latex)
    assert (results[0], tasks[0], variants[0]) == (7, 3, 6)
    assert all(len(line) == columns for columns, lines in (results, tasks, variants) for line in lines)
