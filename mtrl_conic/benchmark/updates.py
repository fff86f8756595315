"""One update of the agent, for each combiner and for its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mtrl_conic.agents.off_policy import OffPolicyAgent
from mtrl_conic.agents.replay import ReplayBuffer
from mtrl_conic.benchmark.options import Options
from mtrl_conic.benchmark.timing import in_turns, wait_for
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.system.capture import Captured
from mtrl_conic.system.heap import keep_freed_memory
from mtrl_conic.training.device_steps import device_steps

PRODUCTS = "matrix products"

Sizes = tuple[int, int, int]  # K, O, A


def benchmark_updates(options: Options) -> list[dict[str, Any]]:
    """Median milliseconds of one update of the default agent on random transitions, a row per number of seeds."""
    keep_freed_memory()
    rows = []
    for count in options.seeds:
        configs = {name: compose_config(options.overrides(name, count)) for name in options.combiners}
        first = configs[options.combiners[0]]
        spec = first.make_environments().setup()
        medians = measure(configs, (len(spec.tasks), spec.observation_size, spec.action_size), options)
        rows.append({"env": options.env, "seeds": count, "milliseconds": medians, "rounds": options.rounds})
        _print(rows[-1], first, options.combiners[0])
    return rows


def measure(configs: dict[str, TrainConfig], sizes: Sizes, options: Options) -> dict[str, float]:
    """Milliseconds of an update with each of the settings, and of the first's matrix products."""
    first = next(iter(configs.values()))
    replay = filled_replay(first, sizes)
    functions = {name: agent_update(config, sizes, replay) for name, config in configs.items()}
    functions[PRODUCTS] = matrix_products(first, sizes)
    seconds = in_turns(functions, options.rounds, wait_for(options.device), unmeasured=1)  # as in training
    return {name: 1e3 * value for name, value in seconds.items()}


def filled_replay(config: TrainConfig, sizes: Sizes) -> ReplayBuffer:
    """A replay of random transitions of which none terminates."""
    replay = ReplayBuffer(config.seeds, *sizes, 20_000, config.torch_device())
    replay.storage.normal_()
    replay.storage[..., -1] = 0
    replay.total = 20_000
    replay.size.fill_(20_000)
    return replay


def agent_update(config: TrainConfig, sizes: Sizes, replay: ReplayBuffer) -> Callable[[], object]:
    """One update of the agent, recorded as a CUDA graph where the training would."""
    num_tasks, observation_size, action_size = sizes
    small = replace(config, agent={**config.agent, "capacity_per_task": 1})  # its own replay is not used
    agent = small.make_agent()
    assert isinstance(agent, OffPolicyAgent)
    setting = replace(config.setting(), num_tasks=num_tasks)
    agent.setup(replace(setting, observation_size=observation_size, action_size=action_size))
    agent.memory = replay
    return device_steps(agent, config.cuda_graphs).update


def matrix_products(config: TrainConfig, sizes: Sizes) -> Callable[[], object]:
    """The matrix products of one update and nothing else: the floor of its time."""
    num_tasks, observation_size, action_size = sizes
    rows, hidden = num_tasks * config.agent["batch_size_per_task"], config.agent["network"]["hidden_sizes"]
    device, num_seeds = config.torch_device(), len(config.seeds)
    products: list[tuple[torch.Tensor, torch.Tensor]] = []

    def layers(inputs: int, forward: int, to_inputs: int, to_first_input: int, to_weights: int) -> None:
        widths = [inputs, *hidden]
        for index, shape in enumerate(zip(widths, hidden, strict=False)):
            sides = ((rows, shape[0]), (rows, shape[1]), shape)
            x, delta, weight = (torch.randn(num_seeds, *side, device=device) for side in sides)
            back = to_inputs if index else to_first_input
            products.extend([(x, weight)] * forward + [(delta, weight.mT)] * back + [(x.mT, delta)] * to_weights)

    critics, inputs = config.agent["num_critics"], observation_size + num_tasks
    # critics: own loss, targets, value of the new action (back to the action only); actor: targets, own loss
    layers(inputs + action_size, 3 * critics, 2 * critics, critics, critics)
    layers(inputs, 2, 1, 0, 1)

    def multiply() -> torch.Tensor:
        return [left @ right for left, right in products][-1]

    return Captured(multiply) if device.type == "cuda" and config.cuda_graphs else multiply  # as the updates


def _print(row: dict[str, Any], config: TrainConfig, first: str) -> None:
    medians = row["milliseconds"]
    print(
        f"one update, {row['env']}, seeds {row['seeds']}, batch {config.agent['batch_size_per_task']} per task, trunk"
        f" {config.agent['network']['hidden_sizes']}, {config.device}, matmul_precision {config.matmul_precision}"
    )
    print(f"{'':<18}{'ms':>8}{'/ ' + first:>12}{'/ products':>12}")
    for name, value in medians.items():
        print(f"{name:<18}{value:>8.1f}{value / medians[first]:>12.2f}{value / medians[PRODUCTS]:>12.2f}", flush=True)
