"""One update of the agent, for each combiner and for its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mtrl_conic.agent import MultiTaskSAC
from mtrl_conic.benchmark.timing import in_turns
from mtrl_conic.compose import compose_config
from mtrl_conic.config import TrainConfig
from mtrl_conic.envs import make_spec
from mtrl_conic.replay import ReplayBuffer
from mtrl_conic.runtime import keep_freed_memory

PRODUCTS = "matrix products"


def benchmark_updates(combiners: Sequence[str], env: str, rounds: int) -> dict[str, Any]:
    """Median milliseconds of one update of the default agent on random transitions."""
    keep_freed_memory()
    configs = {name: compose_config([f"env={env}", f"combiner={name}", "device=cpu"]) for name in combiners}
    config = configs[combiners[0]]
    sizes, replay = filled_replay(config)
    functions = {name: agent_update(configs[name], sizes, replay) for name in combiners}
    functions[PRODUCTS] = _matrix_products(config, sizes)
    medians = in_turns(functions, rounds)
    first, floor = medians[combiners[0]], medians[PRODUCTS]
    print(f"one update, {env}, batch {config.batch_size_per_task} a task, trunk {config.agent.hidden_sizes}")
    print(f"{'':<18}{'ms':>8}{'/ ' + combiners[0]:>12}{'/ products':>12}")
    for name, seconds in medians.items():
        print(f"{name:<18}{1e3 * seconds:>8.1f}{seconds / first:>12.2f}{seconds / floor:>12.2f}")
    return {"env": env, "milliseconds": {name: 1e3 * seconds for name, seconds in medians.items()}, "rounds": rounds}


def filled_replay(config: TrainConfig) -> tuple[tuple[int, int, int], ReplayBuffer]:
    """K, O and A of the environments, and a replay of random transitions of which none terminates."""
    spec = make_spec(config.env)
    sizes = (len(spec.tasks), spec.observation_size, spec.action_size)
    replay = ReplayBuffer(config.seeds, *sizes, config.capacity_per_task)
    rows = torch.randn(replay.storage[:, :, :20_000].shape)
    rows[..., -1] = 0
    replay.write_rows(0, rows)
    return sizes, replay


def agent_update(config: TrainConfig, sizes: tuple[int, int, int], replay: ReplayBuffer) -> Callable[[], object]:
    """One update of the agent."""
    agent = MultiTaskSAC(config.agent, config.seeds, *sizes, config.make_combiner)
    return lambda: agent.update(replay.sample(config.batch_size_per_task))


def _matrix_products(config: TrainConfig, sizes: tuple[int, int, int]) -> Callable[[], object]:
    """The matrix products of one update and nothing else: the floor of its time."""
    num_tasks, observation_size, action_size = sizes
    rows, hidden = num_tasks * config.batch_size_per_task, config.agent.hidden_sizes
    products: list[tuple[torch.Tensor, torch.Tensor]] = []

    def layers(inputs: int, forward: int, to_inputs: int, to_first_input: int, to_weights: int) -> None:
        widths = [inputs, *hidden]
        for index, (fan_in, fan_out) in enumerate(zip(widths, hidden, strict=False)):
            x, delta, weight = (torch.randn(shape) for shape in ((rows, fan_in), (rows, fan_out), (fan_in, fan_out)))
            back = to_inputs if index else to_first_input
            products.extend([(x, weight)] * forward + [(delta, weight.T)] * back + [(x.T, delta)] * to_weights)

    critics, inputs = config.agent.num_critics, observation_size + num_tasks
    # critics: own loss, targets, value of the new action (back to the action only); actor: targets, own loss
    layers(inputs + action_size, 3 * critics, 2 * critics, critics, critics)
    layers(inputs, 2, 1, 0, 1)
    return lambda: [left @ right for left, right in products]
