"""The numbers of a section as CSV files."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from mtrl_conic.report import statistics, tables
from mtrl_conic.report.ablation import Ablation
from mtrl_conic.report.comparison import pairs
from mtrl_conic.report.grouping import Section
from mtrl_conic.report.paper_table import SOURCE, PaperTable
from mtrl_conic.runs.files import write_whole


def write_csv(
    section: Section, results: list[tables.Row], variants: Ablation | None, paper: PaperTable | None, folder: Path
) -> list[Path]:
    """Write the numbers of a section; returns the files.

    Args:
        section: of which table.csv, tasks.csv, improvement.csv, curves.csv and diagnostics.csv are.
        results: its main table.
        variants: also written as ablation.csv.
        paper: also written as table3.csv.
        folder: made if need be.
    """
    contents = {
        "table": _main(section, results),
        "tasks": _tasks(section),
        "improvement": _improvement(section),
        "curves": _curves(section),
        "diagnostics": _diagnostics(section),
    }
    if variants is not None:
        contents["ablation"] = _ablation(variants)
    if paper is not None:
        contents["table3"] = _paper(paper)
    files = []
    for name, lines in contents.items():
        files.append(folder / f"{name}.csv")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        write_whole(files[-1], text.getvalue())
    return files


Lines = list[list[Any]]


def _main(section: Section, results: list[tables.Row]) -> Lines:
    names = "method final_success final_standard_error best_success best_standard_error best_step iqm iqm_low iqm_high"
    lines: Lines = []
    for row in results:
        numbers = [row.final.mean, row.final.error, row.best.mean, row.best.error, row.best_step, row.iqm]
        bounds = row.interval or (None, None)
        where = tables.origin(row.method, section)
        lines.append([row.method.label, *numbers, *bounds, "; ".join(row.remarks), *where.values()])
        header = [*names.split(), "remarks", *(key.replace(" ", "_") for key in where)]
    return [header, *lines]


def _tasks(section: Section) -> Lines:
    lines: Lines = [["method", "task", "final_success", "standard_error", *("low", "high"), "seeds"]]
    for method in section.methods:
        for column, task in enumerate(section.tasks):
            values = method.final[:, column]
            interval = statistics.stratified_interval(values[:, None], lambda drawn: drawn.mean((1, 2))) or ("", "")
            result = tables.estimate(values)
            lines.append([method.label, task, result.mean, result.error, *interval, len(values)])
    return lines


def _ablation(variants: Ablation) -> Lines:
    scores = ("final_success", "final_low", "final_high", "over_training", "over_training_low", "over_training_high")
    lines: Lines = [["variant", "action_repeat", "step", "seeds", *scores]]
    for effect in variants.effects:
        method = effect.method
        line = [method.label, method.settings["env.action_repeat"], int(method.steps[-1]), len(method.seeds)]
        for score in (effect.final, effect.area):
            line += [score.mean, *(score.interval or ("", ""))]
        lines.append(line)
    return lines


def _paper(paper: PaperTable) -> Lines:
    ours = "row best_success best_standard_error best_step final_success final_standard_error iqm iqm_low iqm_high"
    published = ["published_v1_success", "published_v1_standard_error", "published_source"] * paper.published
    lines: Lines = [[*ours.split(), "seeds", "evaluation_episodes_(during_/_final)", "remarks", *published]]
    for line in paper.lines:
        row = line.row
        numbers = [row.best.mean, row.best.error, row.best_step, row.final.mean, row.final.error, row.iqm]
        how = [tables.seeds_text(row.method), tables.episodes_text(row.method), "; ".join(row.remarks)]
        known = line.published
        theirs = ["", "", ""] if known is None else [known.mean, known.error, SOURCE]
        bounds = row.interval or (None, None)
        lines.append([row.method.label, *numbers, *bounds, *how, *theirs[: len(published)]])
    return lines


def _improvement(section: Section) -> Lines:
    lines: Lines = [["x", "y", "probability_x_above_y", "low", "high"]]
    for first, second, probability, interval in pairs(section):
        lines.append([first.label, second.label, probability, *(interval or ("", ""))])
    return lines


def _curves(section: Section) -> Lines:
    lines: Lines = [["method", "seed", "counted", "step", "wall_seconds", "episodes", "success_rate", *section.tasks]]
    for method in section.methods:
        for seed, curve in method.curves.items():
            for step, wall, episodes, success in zip(
                curve.steps.tolist(), curve.wall_seconds.tolist(), curve.episodes.tolist(), curve.success, strict=True
            ):
                shared = [step, "" if np.isnan(wall) else wall, episodes, float(success.mean())]
                lines.append([method.label, seed, int(seed in method.seeds), *shared, *success.tolist()])
    return lines


def _diagnostics(section: Section) -> Lines:
    lines: Lines = [
        ["method", "seed", "network", "step", "cosine", "conflict", *(f"weight/{t}" for t in section.tasks)]
    ]
    for method in section.methods:
        for seed, run in method.runs.items():
            for network in method.networks:
                by_step: dict[int, dict[str, Any]] = {}
                for name in ("cosine", "conflict", "weight"):
                    steps, values = run.traces.get(seed, {}).get(f"{network}/{name}", ((), ()))
                    for step, value in zip(steps, values, strict=True):
                        by_step.setdefault(int(step), {})[name] = value.tolist()
                for step, found in sorted(by_step.items()):
                    weights = found.get("weight", [""] * len(section.tasks))
                    numbers = [found.get("cosine", ""), found.get("conflict", "")]
                    lines.append([method.label, seed, network, step, *numbers, *weights])
    return lines
