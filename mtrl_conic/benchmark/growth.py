"""How one update grows with the tasks, the seeds, the batch and the width of the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mtrl_conic.benchmark.options import Options
from mtrl_conic.benchmark.updates import PRODUCTS, measure
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.system.heap import keep_freed_memory

# The default agent, and what is changed in it one at a time.
DEFAULT = {"tasks": 10, "seeds": 1, "batch": 128, "width": 400}
VALUES = {
    "tasks": (2, 5, 10, 25, 50),
    "seeds": (1, 2, 5, 10),
    "batch": (16, 32, 64, 128, 256),
    "width": (100, 200, 400, 800),
}
_OBSERVATION, _ACTION = 39, 4  # Meta-World's


def benchmark_growth(options: Options) -> list[dict[str, Any]]:
    """A row per value: milliseconds of ls, of the combiner and of the matrix products alone."""
    keep_freed_memory()
    rows = []
    names = list(dict.fromkeys(("ls", options.combiner)))
    print(f"one update, {options.device}; the rest as the default: {DEFAULT}")
    print(f"{'':<12}{'products':>10}{'ls':>10}{options.combiner:>12}{'/ ls':>8}{'/ products':>12}")
    for key, values in VALUES.items():
        for value in values:
            setting = DEFAULT | {key: value}
            configs = {name: _config(options, name, setting) for name in names}
            medians = measure(configs, (setting["tasks"], _OBSERVATION, _ACTION), options)
            rows.append({"varied": key, **setting, "milliseconds": medians})
            ls, mine, floor = medians["ls"], medians[options.combiner], medians[PRODUCTS]
            times = f"{floor:>10.1f}{ls:>10.1f}{mine:>12.1f}"
            print(f"{key + ' ' + str(value):<12}{times}{mine / ls:>8.2f}{mine / floor:>12.2f}", flush=True)
    return rows


def _config(options: Options, combiner: str, setting: dict[str, int]) -> TrainConfig:
    config = compose_config(replace(options, experiment=None).overrides(combiner, setting["seeds"]))
    network = config.agent["network"]
    config.agent["batch_size_per_task"] = setting["batch"]
    network["hidden_sizes"] = [setting["width"]] * len(network["hidden_sizes"])
    return config
