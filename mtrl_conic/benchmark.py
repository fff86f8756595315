"""Measures the speed of environments and updates: `python -m mtrl_conic.benchmark`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DEFAULT_ROUNDS = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mtrl_conic.benchmark",
        description="Measures environments and updates. Run it with nothing else running: it reports medians and,"
        " as absolute times depend on the machine, ratios of what was measured in turns.",
    )
    parser.add_argument("parts", nargs="*", default=[], help="updates, envs (default: both)")
    parser.add_argument("--combiners", default="ls,pcgrad,cagrad,conicgrad", help="compared with the first")
    parser.add_argument("--env", default="mt10", help="whose sizes and environments are measured")
    parser.add_argument("--workers", type=int, default=2, help="processes of the environments")
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, help="measurements of each")
    parser.add_argument("--json", type=Path, help="write the results with their provenance here")
    options = parser.parse_args(arguments)
    unknown = sorted({*options.parts} - {"updates", "envs"})
    if unknown:
        parser.error(f"{unknown[0]}: no such part; there are updates and envs")
    import torch

    from mtrl_conic.runtime import provenance

    results: dict[str, Any] = {"provenance": provenance(torch.device("cpu"))}
    if "updates" in options.parts or not options.parts:
        results["updates"] = benchmark_updates(options.combiners.split(","), options.rounds)
    if "envs" in options.parts or not options.parts:
        results["envs"] = benchmark_envs(options.env, options.workers, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def in_turns(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function, measured in turns so that a drift of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):  # the first two warm up
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def benchmark_updates(combiners: Sequence[str], rounds: int) -> dict[str, Any]:
    """One update of the default agent on random transitions, for each combiner and for its matrix products alone."""
    from mtrl_conic.compose import compose_config
    from mtrl_conic.runtime import keep_freed_memory

    keep_freed_memory()
    functions: dict[str, Callable[[], object]] = {}
    for name in combiners:
        config = compose_config(["env=mt10", f"combiner={name}", "device=cpu"])
        functions[name] = _update(config)
    functions["matrix products"] = _matrix_products(config)
    medians = in_turns(functions, rounds)
    first, floor = medians[combiners[0]], medians["matrix products"]
    print(f"one update, batch {config.batch_size_per_task} a task, trunk {config.agent.hidden_sizes}")
    print(f"{'':<18}{'ms':>8}{'/ ' + combiners[0]:>12}{'/ products':>12}")
    for name, seconds in medians.items():
        print(f"{name:<18}{1e3 * seconds:>8.1f}{seconds / first:>12.2f}{seconds / floor:>12.2f}")
    return {"milliseconds": {name: 1e3 * seconds for name, seconds in medians.items()}, "rounds": rounds}


def _update(config: Any) -> Callable[[], object]:
    import torch

    from mtrl_conic.agent import MultiTaskSAC
    from mtrl_conic.replay import ReplayBuffer

    sizes = (10, 39, 4)
    agent = MultiTaskSAC(config.agent, config.seeds, *sizes, config.make_combiner)
    replay = ReplayBuffer(config.seeds, *sizes, config.capacity_per_task)
    rows = torch.randn(replay.storage[:, :, :20_000].shape)
    rows[..., -1] = 0  # nothing terminates
    replay.write_rows(0, rows)
    return lambda: agent.update(replay.sample(config.batch_size_per_task))


def _matrix_products(config: Any) -> Callable[[], object]:
    """The matrix products of one update and nothing else: the floor of its time."""
    import torch

    rows, hidden = 10 * config.batch_size_per_task, config.agent.hidden_sizes
    products: list[tuple[torch.Tensor, torch.Tensor]] = []

    def layers(inputs: int, forward: int, to_inputs: int, to_first_input: int, to_weights: int) -> None:
        sizes = [inputs, *hidden]
        for index, (fan_in, fan_out) in enumerate(zip(sizes, hidden, strict=False)):
            x, delta, weight = (torch.randn(shape) for shape in ((rows, fan_in), (rows, fan_out), (fan_in, fan_out)))
            back = to_inputs if index else to_first_input
            products.extend([(x, weight)] * forward + [(delta, weight.T)] * back + [(x.T, delta)] * to_weights)

    critics = config.agent.num_critics
    # critics: own loss, targets, value of the new action (back to the action only); actor: targets, own loss
    layers(39 + 10 + 4, 3 * critics, 2 * critics, critics, critics)
    layers(39 + 10, 2, 1, 0, 1)
    return lambda: [left @ right for left, right in products]


def benchmark_envs(name: str, workers: int, rounds: int) -> dict[str, Any]:
    """Steps a second of the vector and of gymnasium's asynchronous vector, random actions, in turns."""
    import gymnasium
    import metaworld  # noqa: F401  # registers the environments with gymnasium
    import numpy as np

    from mtrl_conic.envs import EnvConfig, make_spec
    from mtrl_conic.envs.vector import VectorEnv

    spec = make_spec(EnvConfig(name))
    num_tasks, steps = len(spec.tasks), 200
    random = np.random.default_rng(0)
    actions = random.uniform(-1, 1, (steps, num_tasks, spec.action_size)).astype(np.float32)
    shipped = gymnasium.make_vec(f"Meta-World/{name.upper()}", vector_strategy="async", seed=0)
    with VectorEnv(spec, [0], workers=workers) as vector:
        vector.reset()
        shipped.reset()
        ours, theirs = f"mtrl_conic, {workers} workers", "gymnasium async"
        functions: dict[str, Callable[[], object]] = {
            ours: lambda: [vector.step(action[None, :, None]) for action in actions],
            theirs: lambda: [shipped.step(action) for action in actions],
        }
        medians = in_turns(functions, max(3, rounds // 3))
    shipped.close()
    speeds = {key: steps * num_tasks / seconds for key, seconds in medians.items()}
    print(f"{name}, random actions, environment steps a second")
    for key, speed in speeds.items():
        print(f"{key:<24}{speed:>10.0f}{speed / speeds[theirs]:>8.2f}")
    return {"steps_per_second": speeds}


if __name__ == "__main__":
    sys.exit(main())
