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
from mtrl_conic.envs.evaluation import evaluate
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.threads import threads_of
from mtrl_conic.system.matmul import set_matmul_precision
from mtrl_conic.training.trainer import Trainer

_WARM_UP = 200  # random steps, so that there is something to sample
_STEPS = 20  # vector steps in a measurement with one seed; fewer with more
_FULL_LENGTH = 2_000_000  # steps per task of the full protocol


def benchmark_loop(options: Options) -> list[dict[str, Any]]:
    """A row per number of seeds, each in a process of its own.

    Milliseconds per vector step of the loop, of its environments alone and of its updates alone. The evaluation is
    timed once, with the configured episodes; its share, and the hours of 2M steps per task, are those of a run that
    evaluates every `eval.every` steps.
    """
    rows = []
    print(
        f"{options.env}, {options.combiner}, {options.device}, matmul_precision {options.matmul_precision}:"
        " milliseconds per vector step of all seeds; evaluation in seconds"
    )
    widths = {"seeds": 6, "env": 9, "update": 9, "loop": 9, "/ longer": 10, "per seed": 9, "steps/s": 9}
    widths |= {"evaluation": 12, "share": 8, "2M in h": 9, "GiB": 8, "workers": 9}
    print("".join(f"{text:>{width}}" for text, width in widths.items()))
    for count in options.seeds:
        arguments = [str(options.rounds), *options.overrides(options.combiner, count)]
        row = in_a_process("mtrl_conic.benchmark.loop", arguments)
        rows.append(row)
        print(
            f"{count:>6}{row['env']:>9.2f}{row['update']:>9.2f}{row['loop']:>9.2f}{row['over_longer']:>10.2f}"
            f"{row['loop'] / count:>9.2f}{row['steps_per_second']:>9.0f}{row['evaluation_seconds']:>12.1f}"
            f"{row['evaluation_share']:>8.3f}{row['full_length_hours']:>9.2f}{row['peak_gib']:>8.2f}"
            f"{row['workers_peak_gib']:>9.2f}",
            flush=True,
        )
    return rows


def measure(overrides: Sequence[str], rounds: int) -> dict[str, Any]:
    """One row."""
    config = compose_config([*overrides, f"warmup_steps={_WARM_UP}", f"steps_per_task={_FULL_LENGTH}"])
    torch.set_num_threads(threads_of(config))
    set_matmul_precision(config.matmul_precision, config.torch_device())
    steps = max(_STEPS // len(config.seeds), 4)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder))
        try:
            for _ in range(_WARM_UP + 1):
                trainer._step()
            seconds = in_turns(_parts(trainer, steps), rounds, wait_for(trainer.device.type))
            start = time.perf_counter()
            evaluate(trainer.steps.exploit, trainer.eval_envs, config.eval.episodes, trainer.device)
            evaluation = time.perf_counter() - start
            memory = _memory(trainer)
        finally:
            trainer.close()
    return _row(config.eval.every, {key: value / steps for key, value in seconds.items()}, evaluation) | {
        "seeds": len(config.seeds),
        "workers": config.workers,
        "threads": torch.get_num_threads(),
        **memory,
    }


def _row(every: int, seconds: dict[str, float], evaluation: float) -> dict[str, Any]:
    training = every * seconds["loop"]
    return {
        **{key: 1e3 * value for key, value in seconds.items()},
        "over_longer": seconds["loop"] / max(seconds["env"], seconds["update"]),
        "steps_per_second": 1 / seconds["loop"],
        "evaluation_seconds": evaluation,
        "evaluation_share": evaluation / (evaluation + training),
        "full_length_hours": _FULL_LENGTH / every * (evaluation + training) / 3600,
    }


def _memory(trainer: Trainer) -> dict[str, float]:
    workers = [process.process.pid for envs in (trainer.envs, trainer.eval_envs) for process in envs._processes]
    on_device = torch.cuda.max_memory_allocated() / 2**30 if trainer.device.type == "cuda" else 0.0
    return {"peak_gib": peak_gib(), "workers_peak_gib": sum(map(peak_gib, workers)), "device_peak_gib": on_device}


def _parts(trainer: Trainer, steps: int) -> dict[str, Callable[[], object]]:
    """The environments, the updates, and both as the trainer runs them; `steps` vector steps each."""
    action = trainer.steps.explore(trainer.observation).cpu().numpy()

    def env() -> None:
        for _ in range(steps):
            trainer.envs.step(action)

    def update() -> None:
        for _ in range(steps * trainer.agent.updates_due()):
            trainer.steps.update()

    def loop() -> None:
        for _ in range(steps):
            trainer._step()

    return {"env": env, "update": update, "loop": loop}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[2:], int(sys.argv[1]))))
