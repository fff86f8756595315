"""Time and memory of a step on large networks whose tasks share their inputs: Figure 4 of arXiv 2502.00217."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtrl_conic.benchmark.options import WIDTHS, Options
from mtrl_conic.benchmark.timing import in_a_process, peak_gib
from mtrl_conic.runs.files import write_picture

NUM_TASKS = 40
_INPUTS, _BATCH, _WARM_UP = 128, 16, 1


def benchmark_networks(options: Options) -> list[Any]:
    """One row per size and combiner; each is measured in a process of its own, so that its peak memory is its own."""
    rows, combiners = [], options.combiners
    print(f"one step, {NUM_TASKS} tasks that share a batch of {_BATCH}")
    print(f"{'':<14}{'parameters':>12}{'seconds':>10}{'/ ' + combiners[0]:>10}{'peak GiB':>10}")
    for size in options.sizes:
        for name in combiners:
            row = in_a_process("mtrl_conic.benchmark.networks", [name, str(size), str(options.rounds)])
            rows.append(row)
            first = next(r for r in rows if r["size"] == size)
            ratio = row["seconds"] / first["seconds"]
            millions = f"{row['parameters'] / 1e6:.1f} M"
            print(f"{name:<14}{millions:>12}{row['seconds']:>10.2f}{ratio:>10.2f}{row['peak_gib']:>10.2f}", flush=True)
    if options.picture is not None:
        draw(rows, options.picture)
    return rows


def measure(name: str, size: int, rounds: int) -> dict[str, Any]:
    """Median seconds of a forward pass, the backward passes, the combiner and an SGD step; peak memory."""
    from mtrl_conic.gradients.backward import MultiTaskBackward
    from mtrl_conic.settings.compose import compose_config

    torch.manual_seed(0)
    width = WIDTHS[size]
    sizes = [_INPUTS, width, width, width]
    layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in pairwise(sizes)]
    trunk = nn.Sequential(*(module for pair in layers for module in pair))
    heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(NUM_TASKS))
    combiner = compose_config(["env=toy", f"combiner={name}"]).make_combiner()
    backward = MultiTaskBackward(combiner, trunk.parameters(), heads.parameters(), num_tasks=NUM_TASKS)
    optimizer = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=1e-4)
    inputs, targets = torch.randn(_BATCH, _INPUTS), torch.randn(NUM_TASKS, _BATCH)

    def losses() -> list[torch.Tensor]:
        features = trunk(inputs)
        return [(head(features).squeeze(1) - y).square().mean() for head, y in zip(heads, targets, strict=True)]

    seconds = []
    for _ in range(_WARM_UP + rounds):
        start = time.perf_counter()
        backward(losses())
        optimizer.step()
        if backward.looks_back:
            with torch.no_grad():
                backward.after_step(losses())
        seconds.append(time.perf_counter() - start)
    return {
        "combiner": name,
        "size": size,
        "parameters": sum(p.numel() for p in trunk.parameters()),
        "seconds": statistics.median(seconds[_WARM_UP:]),
        "peak_gib": peak_gib(),
    }


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds per step and peak memory: a group of bars per combiner, a bar per size."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["combiner"] for row in rows))
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, key, label in ((above, "seconds", "seconds per step"), (below, "peak_gib", "peak memory, GiB")):
        _bars(axes, rows, names, key)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    below.set_xticks(range(len(names)), names, rotation=35, ha="right")
    above.legend(frameon=False)
    above.set_title(f"One step with {NUM_TASKS} tasks that share their inputs")
    write_picture(figure, path, dpi=130)


def _bars(axes: Any, rows: Sequence[dict[str, Any]], names: Sequence[str], key: str) -> None:
    sizes = sorted({row["size"] for row in rows})
    for place, size in enumerate(sizes):
        found = {row["combiner"]: row for row in rows if row["size"] == size}
        offset = (place - (len(sizes) - 1) / 2) * 0.27
        heights = [found[name][key] if name in found else 0 for name in names]
        label = f"{next(iter(found.values()))['parameters'] / 1e6:.0f} M parameters"
        axes.bar([i + offset for i in range(len(names))], heights, 0.25, color=_COLOURS[place % 3], label=label)


_COLOURS = ("#9ecae1", "#4292c6", "#08519c")

if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
