"""Learning curves of a run as a picture: `python -m mtrl_conic.report run=runs/x out=curves.png`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrl_conic.logging import read_records

_COLUMNS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = dict(argument.partition("=")[::2] for argument in arguments)
    if set(options) != {"run", "out"}:
        print("usage: python -m mtrl_conic.report run=<run folder> out=<picture, .png or .svg>", file=sys.stderr)
        return 2
    records = Path(options["run"]) / "evaluations.jsonl"
    lines = read_records(records) if records.is_file() else []
    if not lines:
        print(f"error: run={options['run']}: no evaluations in {records}", file=sys.stderr)
        return 2
    if Path(options["out"]).suffix not in (".png", ".svg"):
        print(f"error: out={options['out']}: must end in .png or .svg", file=sys.stderr)
        return 2
    draw_curves(lines, Path(options["out"]))
    return 0


def draw_curves(lines: list[dict[str, Any]], out: Path) -> None:
    """Draw the mean success rate and each task's over environment steps, from evaluation records.

    Thin lines are seeds, thick ones their mean.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks, seeds = list(lines[0]["success"]), sorted({line["seed"] for line in lines})
    rows = -(-len(tasks) // _COLUMNS)
    columns = min(len(tasks), _COLUMNS)
    figure = plt.figure(figsize=(2.2 * _COLUMNS, 3.2 + 1.7 * rows), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.6] + [1.0] * rows)
    mean = {seed: _curve(lines, seed, lambda line: line["success_rate"]) for seed in seeds}
    axis = figure.add_subplot(grid[0, :])
    _panel(axis, mean, f"success rate, mean over {len(tasks)} tasks", 2.2)
    axis.set_xlabel("environment steps a task")
    episodes = sorted({line["episodes"] for line in lines})
    axis.set_ylabel(f"{' / '.join(map(str, episodes))} episodes a task")
    for index, task in enumerate(tasks):
        axis = figure.add_subplot(grid[1 + index // columns, index % columns])
        _panel(axis, {seed: _curve(lines, seed, lambda line, t=task: line["success"][t]) for seed in seeds}, task, 1.6)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _curve(lines: list[dict[str, Any]], seed: int, value: Any) -> tuple[np.ndarray, np.ndarray]:
    points = sorted((line["step"], value(line)) for line in lines if line["seed"] == seed)
    return np.array([step for step, _ in points]), np.array([number for _, number in points])


def _panel(axis: Any, curves: dict[int, tuple[np.ndarray, np.ndarray]], title: str, width: float) -> None:
    alone = len(curves) == 1
    for steps, values in curves.values():
        axis.plot(steps, values, color="tab:blue", linewidth=width if alone else 0.7, alpha=1 if alone else 0.4)
    if not alone:
        common = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves.values())))
        mean = np.mean([values[np.isin(steps, common)] for steps, values in curves.values()], axis=0)
        axis.plot(common, mean, color="tab:blue", linewidth=width)
    axis.set_title(title, fontsize=9)
    axis.set_ylim(-0.04, 1.04)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_major_locator(_short_ticks())
    axis.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}k" if steps else "0")


def _short_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4)


if __name__ == "__main__":
    sys.exit(main())
