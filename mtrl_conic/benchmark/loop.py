"""The whole training loop beside its parts, for one and for many seeds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mtrl_conic.benchmark.timing import in_turns
from mtrl_conic.compose import compose_config
from mtrl_conic.evaluation import evaluate
from mtrl_conic.trainer import Trainer

_WARM_UP, _STEPS = 200, 20


def benchmark_loop(combiner: str, env: str, seed_counts: Sequence[int], rounds: int, device: str) -> list[Any]:
    """A row a number of seeds: milliseconds a vector step of the loop, its environments alone and its updates alone.

    The evaluation is timed once, with the configured episodes; its share is that of a run which evaluates every
    `eval.every` steps.
    """
    rows = []
    print(f"{env}, {combiner}, {device}: milliseconds a vector step of all seeds; evaluation in seconds")
    headings = {"seeds": 6, "env": 9, "update": 9, "loop": 9, "/ longer": 10, "a seed": 9, "evaluation": 12, "share": 8}
    print("".join(f"{text:>{width}}" for text, width in headings.items()))
    for count in seed_counts:
        overrides = [f"env={env}", f"combiner={combiner}", f"device={device}", f"seeds={[*range(count)]}"]
        row = _measure(overrides, rounds)
        rows.append(row)
        print(
            f"{count:>6}{row['env']:>9.1f}{row['update']:>9.1f}{row['loop']:>9.1f}{row['over_longer']:>10.2f}"
            f"{row['loop'] / count:>9.1f}{row['evaluation_seconds']:>12.1f}{row['evaluation_share']:>8.2f}",
            flush=True,
        )
    return rows


def _measure(overrides: Sequence[str], rounds: int) -> dict[str, Any]:
    config = compose_config([*overrides, f"warmup_steps={_WARM_UP}", "steps_per_task=1000000"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, Path(folder))
        try:
            for _ in range(_WARM_UP + 1):
                trainer._step()
            milliseconds = {k: 1e3 * v / _STEPS for k, v in in_turns(_parts(trainer), rounds).items()}
            start = time.perf_counter()
            evaluate(trainer.steps.exploit, trainer.eval_envs, config.eval.episodes, trainer.device, lambda: False)
            evaluation = time.perf_counter() - start
        finally:
            trainer.close()
    training = config.eval.every * milliseconds["loop"] / 1e3
    longer = max(milliseconds["env"], milliseconds["update"])
    return {
        "seeds": len(config.seeds),
        **milliseconds,
        "over_longer": milliseconds["loop"] / longer,
        "evaluation_seconds": evaluation,
        "evaluation_share": evaluation / (evaluation + training),
    }


def _parts(trainer: Trainer) -> dict[str, Callable[[], object]]:
    """The environments, the updates, and both as the trainer runs them; `_STEPS` vector steps each."""
    agent = trainer.agent
    action = agent.random_actions(trainer.observation).cpu().numpy()

    def wait() -> None:
        if trainer.device.type == "cuda":
            agent.halted.item()

    def env() -> None:
        for _ in range(_STEPS):
            trainer.envs.send(action)
            trainer.envs.receive()

    def update() -> None:
        for _ in range(_STEPS * trainer.config.updates_per_step):
            trainer.steps.update()
        wait()

    def loop() -> None:
        for _ in range(_STEPS):
            trainer._step()
        wait()

    return {"env": env, "update": update, "loop": loop}
