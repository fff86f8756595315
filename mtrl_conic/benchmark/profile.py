"""Where the time of one update goes, by operator (on the CPU) or by kernel (on CUDA)."""

from __future__ import annotations

import itertools
from typing import Any

from torch.profiler import ProfilerActivity, profile

from mtrl_conic.benchmark.options import Options
from mtrl_conic.benchmark.timing import wait_for
from mtrl_conic.benchmark.updates import agent_update, filled_replay
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.system.heap import keep_freed_memory

_ROWS = 14


def benchmark_profile(options: Options) -> list[dict[str, Any]]:
    """For each number of seeds, ls and the combiner: time and calls of each operator per update, the dearest first."""
    keep_freed_memory()
    results = []
    for seeds, name in itertools.product(options.seeds, dict.fromkeys(("ls", options.combiner))):
        rows = _profile(name, seeds, options)
        results.append({"combiner": name, "seeds": seeds, "operators": rows})
        total = sum(row["milliseconds"] for row in rows)
        many = f", {seeds} seeds" if seeds > 1 else ""
        print(f"one update of {name}{many}, {options.device}: {total:.1f} ms under the profiler")
        print(f"{'':<52}ms   share   calls")
        for row in rows[:_ROWS]:
            share = row["milliseconds"] / total
            print(f"{row['operator'][:44]:<44}{row['milliseconds']:>10.2f}{share:>8.1%}{row['calls']:>8.1f}")
    return results


def _profile(name: str, seeds: int, options: Options) -> list[dict[str, Any]]:
    config = compose_config(options.overrides(name, seeds))
    spec = config.make_environments().setup()
    sizes = (len(spec.tasks), spec.observation_size, spec.action_size)
    update, wait = agent_update(config, sizes, filled_replay(config, sizes)), wait_for(options.device)
    for _ in range(8):
        update()
    wait()
    on_cuda = options.device == "cuda"
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        for _ in range(options.rounds):
            update()
        wait()
    return _table(profiler.key_averages(), options.rounds, on_cuda)


def _table(events: Any, updates: int, on_cuda: bool) -> list[dict[str, Any]]:
    rows = [
        {
            "operator": event.key,
            "milliseconds": (event.self_device_time_total if on_cuda else event.self_cpu_time_total) / 1e3 / updates,
            "calls": event.count / updates,
        }
        for event in events
    ]
    return sorted(rows, key=lambda row: -row["milliseconds"])
