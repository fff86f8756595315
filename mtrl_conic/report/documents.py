"""The main tables of a section as text to be pasted: Markdown for a page, LaTeX (with booktabs) for a paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl_conic.report.ablation import Ablation, Score
from mtrl_conic.report.grouping import Section
from mtrl_conic.report.paper_table import SOURCE, PaperTable
from mtrl_conic.report.style import short_task
from mtrl_conic.report.tables import (
    Row,
    episodes_text,
    estimate,
    estimate_text,
    interval_text,
    seeds_text,
    versions,
)
from mtrl_conic.runs.files import write_whole


@dataclass(frozen=True)
class Table:
    """A table before it has a format.

    Args:
        name: of a label in LaTeX.
        caption: what the numbers are.
        header: of the columns; the first is of words, the others are of numbers.
        lines: a cell per column.
        notes: what makes lines less comparable than the others.
    """

    name: str
    caption: str
    header: list[str]
    lines: list[list[str]]
    notes: list[str]


def write_documents(
    section: Section, results: list[Row], variants: Ablation | None, paper: PaperTable | None, folder: Path
) -> list[Path]:
    """Write tables.md and tables.tex of a section; returns the files.

    Args:
        section: whose.
        results: its main table.
        variants: a table of their own, if there are any.
        paper: the papers' table, if its rows were run.
        folder: made if need be.
    """
    found = [_results(results), _tasks(section)]
    if variants is not None:
        found.append(_variants(variants))
    if paper is not None:
        found.append(_paper(paper))
    origin = [section.title, section.sentence, *_versions(section)]
    files = []
    for suffix, write in (("md", _markdown), ("tex", _latex)):
        files.append(folder / f"tables.{suffix}")
        write_whole(files[-1], write(origin, found))
    return files


def _results(results: Sequence[Row]) -> Table:
    lines = []
    for row in results:
        steps, seeds = f"{row.method.steps[-1]:,}", seeds_text(row.method)
        cells = [
            row.method.label,
            estimate_text(row.final),
            f"{row.iqm:.3f}",
            interval_text(row.interval),
        ]
        lines.append([*cells, steps, seeds, episodes_text(row.method)])
    header = ["method", "success", "IQM", "95 % interval", "steps per task", "seeds", "episodes"]
    caption = (
        "Success over all tasks at the last evaluation: mean ± standard error over seeds, interquartile mean of the"
        " results of all seeds and tasks with its 95 % stratified bootstrap interval. Deterministic policy, success at"
        " any step of an episode; evaluation episodes per task during training / at the end."
    )
    return Table("results", caption, header, lines, list(_remarks(results)))


def _tasks(section: Section) -> Table:
    lines = [
        [
            short_task(task),
            *(estimate_text(estimate(method.final[:, column])) for method in section.methods),
        ]
        for column, task in enumerate(section.tasks)
    ]
    caption = "Success of each task at the last evaluation, mean ± standard error over seeds."
    return Table("tasks", caption, ["task", *section.labels], lines, [])


def _variants(variants: Ablation) -> Table:
    lines = []
    for effect in variants.effects:
        scores = [cell for score in (effect.final, effect.area) for cell in _score(score)]
        lines.append([effect.method.label, *scores, seeds_text(effect.method)])
    header = ["variant", "success", "95 % interval", "over training", "95 % interval", "seeds"]
    caption = (
        "One change at a time: success at the last evaluation and its mean over training, each with the 95 % interval"
        " of the mean over seeds."
    )
    elsewhere = [effect.method.label for effect in variants.effects if effect.elsewhere]
    notes = [f"Another action repeat, hence another protocol: {', '.join(elsewhere)}"] if elsewhere else []
    return Table("variants", caption, header, lines, notes)


def _score(score: Score) -> tuple[str, str]:
    return f"{score.mean:.3f}", interval_text(score.interval)


def _paper(paper: PaperTable) -> Table:
    lines = []
    for line in paper.lines:
        row, known = line.row, line.published
        cells = [
            estimate_text(row.best),
            f"{row.best_step:,}",
            estimate_text(row.final),
            seeds_text(row.method),
        ]
        theirs = ["-" if known is None else f"{known.mean:.2f} ± {known.error:.3f}"] * paper.published
        lines.append([row.method.label, *cells, *theirs])
    header = ["method", "best of mean", "at step", "final success", "seeds", *["published"] * paper.published]
    caption = (
        "The table of the papers: the best over time of the mean over seeds, chosen after the fact, and success at the"
        f" last evaluation. Evaluation episodes per task (during / final): {'; '.join(paper.episodes)}."
    )
    notes = list(_remarks([line.row for line in paper.lines]))
    if paper.missing:
        notes.append(f"Rows that were not run: {', '.join(paper.missing)}")
    if paper.published:
        notes.append(f"Published: {SOURCE}, V1 environments and another protocol, not to be compared with the others")
    return Table("papers", caption, header, lines, notes)


def _remarks(results: Sequence[Row]) -> Iterator[str]:
    return (f"{row.method.label}: {'; '.join(row.remarks)}" for row in results if row.remarks)


def _versions(section: Section) -> Iterator[str]:
    """What the runs were made with: what all methods share on one line, each other part on a line of its own."""
    by_method = {method.label: versions(method) for method in section.methods}
    shared, apart = [], []
    for name in next(iter(by_method.values())):
        values = {label: found[name] for label, found in by_method.items()}
        if len(set(values.values())) == 1:
            shared.append(f"{name} {next(iter(values.values()))}")
        else:
            apart.append(f"{name}: " + "; ".join(f"{label} {value}" for label, value in values.items()))
    return iter([", ".join(shared), *apart] if shared else apart)


def _markdown(origin: Sequence[str], found: Sequence[Table]) -> str:
    parts = ["\n".join(f"- {_plain(line)}" for line in origin)]
    for table in found:
        rule = ["---", *["---:"] * (len(table.header) - 1)]
        rows = [[_plain(cell) for cell in cells] for cells in (table.header, *table.lines)]
        grid = [f"| {' | '.join(cells)} |" for cells in (rows[0], rule, *rows[1:])]
        parts += [_plain(table.caption), "\n".join(grid)]
        if table.notes:
            parts.append("\n".join(f"- {_plain(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def _latex(origin: Sequence[str], found: Sequence[Table]) -> str:
    parts = ["\n".join(["% needs \\usepackage{booktabs}", *(f"% {_one_line(line)}" for line in origin)])]
    for table in found:
        grid = [" & ".join(map(_tex, cells)) + r" \\" for cells in (table.header, *table.lines)]
        notes = [f"{_tex(note.removesuffix('.'))}." for note in table.notes]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{' '.join([_tex(f'{origin[0]}. {table.caption}'), *notes])}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            *(r"\toprule", grid[0], r"\midrule", *grid[1:], r"\bottomrule"),
            r"\end{tabular}",
            r"\end{table}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


_TEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
    }
)
_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|"})


def _tex(text: str) -> str:
    return _one_line(text).translate(_TEX)


def _plain(text: str) -> str:
    """Markdown that reads as the text itself."""
    return _one_line(text).translate(_MARKDOWN)


def _one_line(text: str) -> str:
    return " ".join(text.split())
