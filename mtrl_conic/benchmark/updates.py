"""One update of the agent, for each combiner and for its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mtrl_conic.agents.estimates import Product
from mtrl_conic.benchmark.learning import LearningAgent, Sizes
from mtrl_conic.benchmark.options import Options
from mtrl_conic.benchmark.timing import in_turns, wait_for
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.settings.threads import threads_of
from mtrl_conic.system.capture import Captured
from mtrl_conic.system.heap import keep_freed_memory

PRODUCTS = "matrix products"


def benchmark_updates(options: Options) -> list[dict[str, Any]]:
    """Median milliseconds of one update of the agent on random transitions, a row per number of seeds."""
    keep_freed_memory()
    rows = []
    for count in options.seeds:
        configs = {name: compose_config(options.overrides(name, count)) for name in options.combiners}
        first = configs[options.combiners[0]]
        torch.set_num_threads(threads_of(first))
        medians = measure(configs, sizes_of(first), options)
        settings = {**options.chosen, "seeds": count, "threads": torch.get_num_threads()}
        rows.append({**settings, "milliseconds": medians, "rounds": options.rounds})
        _print(rows[-1], first)
    return rows


def sizes_of(config: TrainConfig) -> Sizes:
    """K, O, A of the environments."""
    setting = config.setting()
    return setting.num_tasks, setting.observation_size, setting.action_size


def measure(configs: Mapping[str, TrainConfig], sizes: Sizes, options: Options) -> dict[str, float]:
    """Milliseconds of an update with each of the settings, and of the first's matrix products, if it lists any."""
    agents: dict[str, LearningAgent] = {}
    for name, config in configs.items():
        first = next(iter(agents.values()), None)
        agents[name] = LearningAgent(config, sizes, None if first is None else first.agent.memory)
    functions: dict[str, Callable[[], object]] = {name: each.update for name, each in agents.items()}
    name, first = next(iter(agents.items()))
    if multiply := floor_of(first, configs[name]):
        functions[PRODUCTS] = multiply

    def ready(name: str) -> None:
        if name in agents:
            agents[name].ready()

    # The call that is not measured finds the caches full of another's data, as in training none does.
    seconds = in_turns(functions, options.rounds, wait_for(options.device), unmeasured=1, before=ready)
    return {name: 1e3 * value for name, value in seconds.items()}


def floor_of(one: LearningAgent, config: TrainConfig) -> Callable[[], object] | None:
    """What makes the matrix products of an agent's update, recorded where the update is; None if it lists none."""
    products = one.agent.products(one.setting)
    if not products:
        return None
    multiply, device = matrix_products(products, len(one.setting.seeds), one.setting.device), one.agent.device
    return Captured(multiply) if config.cuda_graphs and device.type == "cuda" else multiply


def matrix_products(
    products: Sequence[Product], num_seeds: int, device: torch.device | str
) -> Callable[[], torch.Tensor]:
    """The matrix products of one update of so many seeds and nothing else: the floor of its time."""
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for rows, inputs, outputs, forward, to_inputs, to_weights, matrices in products:
        sides = ((rows // matrices, inputs), (rows // matrices, outputs), (inputs, outputs))
        x, delta, weight = (torch.randn(num_seeds * matrices, *side, device=device) for side in sides)
        pairs.extend([(x, weight)] * forward + [(delta, weight.mT)] * to_inputs + [(x.mT, delta)] * to_weights)

    def multiply() -> torch.Tensor:
        return [left @ right for left, right in pairs][-1]

    return multiply


def _print(row: dict[str, Any], config: TrainConfig) -> None:
    medians, names = row["milliseconds"], list(row["milliseconds"])
    agent = config.make_agent()
    products = agent.products(config.setting())
    batch = f", {products[0].rows // config.setting().num_tasks} rows per task" if products else ""
    print(
        f"one update, {config.choices['agent']}, {row['env']}, seeds {row['seeds']}{batch}, {config.device},"
        f" threads {row['threads']}, matmul_precision {config.matmul_precision}"
    )
    print(f"{'':<18}{'ms':>8}{'/ ' + names[0]:>12}{'/ products':>12}")
    for name, value in medians.items():
        floor = f"{value / medians[PRODUCTS]:>12.2f}" if PRODUCTS in medians else ""
        print(f"{name:<18}{value:>8.1f}{value / medians[names[0]]:>12.2f}{floor}", flush=True)
