"""Tables and pictures of any number of runs: `python -m mtrl_conic.report runs=runs/sweep out=report`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtrl_conic.report.options import Options, find_runs, parse
from mtrl_conic.runs.command import answer
from mtrl_conic.runs.files import write_whole
from mtrl_conic.runs.outputs import check_folder
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.system import console

if TYPE_CHECKING:
    from mtrl_conic.report.grouping import Section

USAGE = """\
usage: python -m mtrl_conic.report runs=FOLDERS out=FOLDER [steps=N]

Reads the records of runs (config.yaml, provenance.json, evaluations.jsonl, metrics.jsonl) and writes a page
and, for each protocol, its tables as CSV, Markdown and LaTeX and its pictures as PNG and SVG:
  out/index.html    one file that needs no network
  out/<protocol>/   table.csv tasks.csv improvement.csv curves.csv diagnostics.csv, curves.png curves.svg ...
                    of runs of scripts/table3.sh also table3.csv; tables.md, tables.tex: the tables to be pasted

  runs=FOLDERS   run folders, folders that hold some at any depth, or globs in quotes; separated by commas
  out=FOLDER     made if need be; files of an earlier report in it are replaced
  steps=N        compare at the last evaluation up to N steps per task (the end of each run)

Seeds of one method may lie in one run folder or in several. Runs of different protocols (environment settings
or tasks) get tables of their own. What is damaged, missing or unfinished is named on the page and on stderr.

exit status: 0 done, 2 bad input or nothing that can be used, 1 other
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return answer(arguments, lambda: USAGE, _run)


def _run(arguments: list[str]) -> int:
    options = parse(arguments)
    notes: list[str] = []
    return _report(options, find_runs(options.runs, notes), notes, arguments)


def _report(options: Options, folders: list[Path], notes: list[str], arguments: list[str]) -> int:
    from mtrl_conic.report.grouping import sections
    from mtrl_conic.report.reading import read_run

    runs = [run for folder in folders if (run := read_run(folder, notes)) is not None]
    found = sections(runs, options.steps, notes)
    if not found:
        more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
        raise ConfigError(f"runs={options.runs}: nothing that can be used; {notes[0]}{more}")
    check_folder("out", options.out)
    earlier = ", in place of an earlier one" if (options.out / "index.html").exists() else ""
    command = shlex.join(["python", "-m", "mtrl_conic.report", *arguments])
    _write(options, found, notes, command, len(folders))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"report of {len(folders)} run folder{'s' * (len(folders) > 1)}: {options.out / 'index.html'}{earlier}")
    return 0


def _write(options: Options, found: list[Section], notes: list[str], command: str, count: int) -> None:
    from mtrl_conic.report import ablation, tables
    from mtrl_conic.report.comparison import comparisons
    from mtrl_conic.report.curves import curves
    from mtrl_conic.report.diagnostics import diagnostics
    from mtrl_conic.report.documents import write_documents
    from mtrl_conic.report.files import write_csv
    from mtrl_conic.report.page import Content, render
    from mtrl_conic.report.paper_table import paper_table
    from mtrl_conic.report.style import Colours, save

    colours = Colours(tuple(sorted({method.label for section in found for method in section.methods})))
    contents = []
    for section in found:
        pictures = [picture for draw in (curves, comparisons, diagnostics) for picture in draw(section, colours)]
        variants = ablation.ablation(section, found, notes)
        pictures = [*(ablation.pictures(variants) if variants else ()), *pictures]
        results = tables.rows(section, options.steps)
        content = Content(section, results, pictures, paper_table(section, results, notes))
        folder = options.out / section.slug
        write_csv(section, results, variants, content.paper, folder)
        write_documents(section, results, variants, content.paper, folder)
        for picture in content.pictures:
            save(picture, colours, folder)
        contents.append(content)
    write_whole(options.out / "index.html", render(contents, notes, colours, command, count))


if __name__ == "__main__":
    sys.exit(console.run(main))
