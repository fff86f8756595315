"""One update of each agent with LS, beside the first agent's and beside its own matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mtrl_conic.benchmark.learning import LearningAgent
from mtrl_conic.benchmark.options import Options
from mtrl_conic.benchmark.timing import in_turns, wait_for
from mtrl_conic.benchmark.updates import PRODUCTS, floor_of, sizes_of
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.settings.threads import threads_of
from mtrl_conic.system.heap import keep_freed_memory


def benchmark_agents(options: Options) -> list[dict[str, Any]]:
    """Median milliseconds of one update of each agent on random transitions, a row per number of seeds.

    All have the threads of the first. The products are those that an agent lists (`Agent.products`), one floor each.
    """
    keep_freed_memory()
    rows = []
    for count in options.seeds:
        configs = {name: compose_config([*options.overrides("ls", count), f"agent={name}"]) for name in options.agents}
        torch.set_num_threads(threads_of(configs[options.agents[0]]))
        agents = {name: LearningAgent(config, sizes_of(config)) for name, config in configs.items()}
        medians = _measure(agents, configs, options)
        settings = {**options.chosen, "seeds": count, "threads": torch.get_num_threads()}
        rows.append({**settings, **medians, "rounds": options.rounds})
        _print(rows[-1], options)
    return rows


def _measure(
    agents: dict[str, LearningAgent], configs: dict[str, TrainConfig], options: Options
) -> dict[str, dict[str, float]]:
    functions: dict[str, Callable[[], object]] = {}
    for name, one in agents.items():
        functions[name] = one.update
        if multiply := floor_of(one, configs[name]):
            functions[_floor(name)] = multiply

    def ready(name: str) -> None:
        if name in agents:
            agents[name].ready()

    seconds = in_turns(functions, options.rounds, wait_for(options.device), unmeasured=1, before=ready)
    return {
        "milliseconds": {name: 1e3 * seconds[name] for name in agents},
        "products": {name: 1e3 * seconds[_floor(name)] for name in agents if _floor(name) in seconds},
    }


def _floor(name: str) -> str:
    return f"{PRODUCTS} of {name}"


def _print(row: dict[str, Any], options: Options) -> None:
    print(
        f"one update with LS, {options.title}, seeds {row['seeds']}, {options.device}, threads {row['threads']},"
        f" matmul_precision {options.matmul_precision}"
    )
    medians, products = row["milliseconds"], row["products"]
    first = options.agents[0]
    print(f"{'':<22}{'ms':>8}{'/ ' + first:>20}{'products':>10}{'/ products':>12}")
    for name, value in medians.items():
        floor = f"{products[name]:>10.1f}{value / products[name]:>12.2f}" if name in products else ""
        print(f"{name:<22}{value:>8.1f}{value / medians[first]:>20.2f}{floor}", flush=True)
