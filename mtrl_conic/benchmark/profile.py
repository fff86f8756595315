"""Where the time of one update goes, by operator (on the CPU) or by kernel (on CUDA)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mtrl_conic.benchmark.learning import LearningAgent
from mtrl_conic.benchmark.options import Options
from mtrl_conic.benchmark.timing import wait_for
from mtrl_conic.benchmark.updates import sizes_of
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.threads import threads_of
from mtrl_conic.system.heap import keep_freed_memory

_ROWS = 14


def benchmark_profile(options: Options) -> list[dict[str, Any]]:
    """For each number of seeds, ls and the combiner: time and calls of each operator per update, the dearest first."""
    keep_freed_memory()
    results = []
    for seeds, name in itertools.product(options.seeds, dict.fromkeys(("ls", options.combiner))):
        rows = _profile(name, seeds, options)
        results.append({**options.chosen, "combiner": name, "seeds": seeds, "operators": rows})
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
    torch.set_num_threads(threads_of(config))
    agent, wait = LearningAgent(config, sizes_of(config)), wait_for(options.device)
    for _ in range(8):
        agent.ready()
        agent.update()
    on_cuda = options.device == "cuda"
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    events: list[Any] = []
    for _ in range(options.rounds):
        agent.ready()
        wait()
        with profile(activities=[activity]) as profiler:
            agent.update()
            wait()
        events += profiler.key_averages()
    return _table(events, options.rounds, on_cuda)


def _table(events: Iterable[Any], updates: int, on_cuda: bool) -> list[dict[str, Any]]:
    """A row per operator, of all its events."""
    table: dict[str, dict[str, Any]] = {}
    for event in events:
        row = table.setdefault(event.key, {"operator": event.key, "milliseconds": 0.0, "calls": 0.0})
        own = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        row["milliseconds"] += own / 1e3 / updates
        row["calls"] += event.count / updates
    return sorted(table.values(), key=lambda row: -row["milliseconds"])
