"""The whole training loop beside its parts, for one and for many seeds."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mtrl_conic.benchmark.options import Options
from mtrl_conic.benchmark.timing import in_a_process, in_turns, peak_gib, wait_for
from mtrl_conic.benchmark.vectors import RandomSteps, reset_warm
from mtrl_conic.envs.evaluation import evaluate
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.threads import threads_of
from mtrl_conic.system.matmul import set_matmul_precision
from mtrl_conic.training.trainer import Trainer

_WARM_UP = 200  # random steps of agents that begin with them, so that there is something to sample
_STEPS = 20  # vector steps in a measurement with one seed; fewer with more
_FULL_LENGTH = 2_000_000  # steps per task of the full protocol

_COLUMNS = {"seeds": 6, "env": 9, "collect": 9, "env / it": 10, "update": 9, "loop": 9, "/ longer": 10, "per seed": 9}
_COLUMNS |= {"steps/s": 9, "evaluation": 12, "share": 8, "2M in h": 9, "GiB": 8, "workers": 9}


def benchmark_loop(options: Options) -> list[dict[str, Any]]:
    """A row per number of seeds, each in a process of its own.

    Milliseconds per vector step of the loop and of its parts: the environments alone with random actions, collecting
    (the same with the agent's actions, which observes what comes of them) and the updates alone, of which those of an
    on-policy agent are shared out among the steps of a rollout. Steps per second are the environment's per task. The
    evaluation is timed once, with the configured episodes; its share, and the hours of 2M steps per task, are those
    of a run that evaluates every `eval.every` steps. What the first resets to each goal simulate is in none of it.
    """
    rows = []
    overlaps = compose_config(options.overrides(options.combiner)).make_agent().overlaps
    print(
        f"{options.title}, {options.combiner}, {options.device}, matmul_precision {options.matmul_precision}:"
        " milliseconds per vector step of all seeds; evaluation in seconds"
    )
    names = ("/ sum" if name == "/ longer" and not overlaps else name for name in _COLUMNS)
    print("".join(f"{name:>{width}}" for name, width in zip(names, _COLUMNS.values(), strict=True)))
    for count in options.seeds:
        arguments = [str(options.rounds), *options.overrides(options.combiner, count)]
        row = in_a_process("mtrl_conic.benchmark.loop", arguments)
        rows.append({**options.chosen, **row})
        over = row["over_longer" if overlaps else "over_sum"]
        print(
            f"{count:>6}{row['env']:>9.2f}{row['collect']:>9.2f}{row['env_over_collect']:>10.2f}{row['update']:>9.2f}"
            f"{row['loop']:>9.2f}{over:>10.2f}{row['loop'] / count:>9.2f}{row['steps_per_second']:>9.0f}"
            f"{row['evaluation_seconds']:>12.1f}{row['evaluation_share']:>8.3f}{row['full_length_hours']:>9.2f}"
            f"{row['peak_gib']:>8.2f}{row['workers_peak_gib']:>9.2f}",
            flush=True,
        )
    return rows


def measure(overrides: Sequence[str], rounds: int) -> dict[str, Any]:
    """One row."""
    config = compose_config([*overrides, f"steps_per_task={_FULL_LENGTH}"])
    if "warmup_steps" in config.agent:
        config.agent["warmup_steps"] = _WARM_UP
    torch.set_num_threads(threads_of(config))
    set_matmul_precision(config.matmul_precision, config.torch_device())
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder))
        try:
            steps, functions = _parts(trainer)
            seconds = in_turns(functions, rounds, wait_for(trainer.device.type))
            evaluation = _evaluation_seconds(trainer)
            memory = _memory(trainer)
        finally:
            trainer.close()
    each = {key: value / steps for key, value in seconds.items()}
    return _row(trainer, each, evaluation) | {
        "seeds": len(config.seeds),
        "workers": config.workers,
        "threads": torch.get_num_threads(),
        **memory,
    }


def _row(trainer: Trainer, seconds: dict[str, float], evaluation: float) -> dict[str, Any]:
    env, update, loop = (seconds[key] for key in ("env", "update", "loop"))
    steps = trainer.config.vector.steps_per_decision
    every, per_step = trainer.config.eval.every, loop / steps
    over = {"over_longer": loop / max(env, update)} if trainer.agent.overlaps else {"over_sum": loop / (env + update)}
    return {
        **{key: 1e3 * value for key, value in seconds.items()},
        "env_over_collect": env / seconds["collect"],
        **over,
        "steps_per_vector_step": steps,
        "steps_per_second": 1 / per_step,
        "evaluation_seconds": evaluation,
        "evaluation_share": evaluation / (evaluation + every * per_step),
        "full_length_hours": _FULL_LENGTH / every * (evaluation + every * per_step) / 3600,
    }


def _evaluation_seconds(trainer: Trainer) -> float:
    """Of the second evaluation: the first simulates its goals."""
    for _ in range(2):
        start = time.perf_counter()
        evaluate(trainer.steps.exploit, trainer.eval_envs, trainer.config.eval.episodes, trainer.device)
    return time.perf_counter() - start


def _memory(trainer: Trainer) -> dict[str, float]:
    workers = [process.process.pid for envs in (trainer.envs, trainer.eval_envs) for process in envs._processes]
    on_device = torch.cuda.max_memory_allocated() / 2**30 if trainer.device.type == "cuda" else 0.0
    return {"peak_gib": peak_gib(), "workers_peak_gib": sum(map(peak_gib, workers)), "device_peak_gib": on_device}


def _parts(trainer: Trainer) -> tuple[int, dict[str, Callable[[], object]]]:
    """How many vector steps each part makes at a time, and the parts; to be called in this order, in turns.

    With an agent that makes environments wait for its updates these are all the steps between updates: collecting
    fills the memory, which the updates then use up.
    """
    trainer.observation = trainer.transfer.observation(reset_warm(trainer.envs, trainer.config.workers))
    _step_until_updated(trainer)
    between = _step_until_updated(trainer)
    overlaps = trainer.agent.overlaps
    steps = max(_STEPS // len(trainer.config.seeds), 4) if overlaps else between

    def collect() -> None:
        for _ in range(steps):
            trainer._collect()

    def update() -> None:
        for _ in range(steps if overlaps else 1):
            trainer._update()

    def loop() -> None:
        for _ in range(steps):
            trainer._step()

    return steps, {"env": RandomSteps(trainer.envs, steps), "collect": collect, "update": update, "loop": loop}


def _step_until_updated(trainer: Trainer) -> int:
    """How many vector steps there are until an update has been made."""
    trainer.metrics, steps = {}, 0
    while not trainer.metrics:
        trainer._step()
        steps += 1
    return steps


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[2:], int(sys.argv[1]))))
