"""Run folders with made-up records, as a training run leaves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

TASKS = ("reach-v3", "push-v3", "door-open-v3")
COMBINERS = {
    "ls": {"_target_": "mtrl_conic.combiners.ls.LS"},
    "famo": {"_target_": "mtrl_conic.combiners.famo.FAMO", "gamma": 0.01, "weights_lr": 0.025},
    "pcgrad": {"_target_": "mtrl_conic.combiners.pcgrad.PCGrad"},
    "cagrad": {"_target_": "mtrl_conic.combiners.cagrad.CAGrad", "c": 0.9},
    "conicgrad": {"_target_": "mtrl_conic.combiners.conicgrad.ConicGrad", "c": 0.75, "gamma": 0.05},
}
_JACOBIAN = ("pcgrad", "cagrad", "conicgrad")


def make_run(
    folder: Path,
    combiner: str = "conicgrad",
    seeds: Sequence[int] = (0, 1, 2),
    *,
    steps: int = 1000,
    reached: int | None = None,
    every: int = 100,
    tasks: Sequence[str] = TASKS,
    level: float = 0.7,
    episodes: tuple[int, int] = (5, 50),
    env: dict[str, Any] | None = None,
    recorded: Sequence[int] | None = None,
    **settings: Any,
) -> Path:
    """Write the four records of a run.

    Args:
        folder: made.
        combiner: one of `COMBINERS`.
        seeds: in config.yaml.
        steps: of config.yaml.
        reached: the last step with an evaluation; default: `steps`.
        every: between evaluations; metrics are four times as frequent.
        tasks: names.
        level: of success at the end, roughly.
        episodes: during training and at the end.
        env: changes of its settings.
        recorded: the seeds with records; default: all.
        settings: changes of other settings; "combiner.c" and "agent.discount" name those of a group as `combiner__c`.
    """
    folder.mkdir(parents=True)
    reached, recorded = reached or steps, seeds if recorded is None else recorded
    config = _config(combiner, list(seeds), steps, every, episodes, env or {}, settings)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "provenance.json").write_text(json.dumps({"pieces": [_piece()]}))
    evaluations, metrics = [], []
    for seed in recorded:
        random = np.random.default_rng((seed, len(combiner), int(1000 * level)))
        ends = np.clip(level + 0.4 * np.linspace(1, -1, len(tasks)) + random.normal(0, 0.05, len(tasks)), 0, 1)
        for step in range(every, reached + 1, every):
            count = episodes[1] if step >= steps else episodes[0]
            rates = random.binomial(count, np.clip(ends * (1 - np.exp(-4 * step / steps)), 0, 1)) / count
            evaluations.append(_evaluation(step, seed, tasks, rates.tolist(), count))
        for step in range(every // 4, reached + 1, every // 4):
            metrics.append({"step": step, "seed": seed, **_diagnostics(combiner, tasks, random)})
    for name, lines in (("evaluations", evaluations), ("metrics", metrics)):
        lines.sort(key=lambda line: line["step"])
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _config(combiner, seeds, steps, every, episodes, env, settings):
    config = {
        "env": {"name": "mt10", "task": None, "goal_seed": 0, "reward_version": "v2", "workers": 2} | env,
        "agent": {"hidden_sizes": [400, 400, 400], "learning_rate": 3e-4, "gradient_scope": "shared"},
        "seeds": seeds,
        "steps_per_task": steps,
        "warmup_steps": 100,
        "batch_size_per_task": 128,
        "capacity_per_task": 100000,
        "updates_per_step": 1,
        "metrics_every": every // 4,
        "eval": {"every": every, "episodes": episodes[0], "final_episodes": episodes[1]},
        "combiner": dict(COMBINERS[combiner]),
    }
    for key, value in settings.items():
        group, _, name = key.partition("__") if "__" in key else ("", "", key)
        (config[group] if group else config)[name] = value
    return config


def _piece():
    versions = {"mtrl_conic": "0.1.0", "torch": "2.13.0", "metaworld": "3.1.1", "mujoco": "3.3.0"}
    git = {"commit": "0123456789abcdef0123456789abcdef01234567", "clean": True}
    machine = {"device": "cpu (x86_64)", "cores": 2, "torch_threads": 2}
    return {"command": ["train.py"], "started": "2026-11-01T12:00:00+00:00", "versions": versions, "git": git} | machine


def _evaluation(step, seed, tasks, rates, episodes):
    return {
        "step": step,
        "seed": seed,
        "success_rate": sum(rates) / len(rates),
        "success": dict(zip(tasks, rates, strict=True)),
        "return": dict.fromkeys(tasks, 100.0),
        "episodes": episodes,
        "wall_seconds": 0.5 * step,
    }


def _diagnostics(combiner, tasks, random):
    line = {}
    for network in ("critic", "actor"):
        prefix = f"combiner/{network}/"
        weights = np.full(len(tasks), 1 / len(tasks)) if combiner == "ls" else random.dirichlet(np.full(len(tasks), 5))
        line |= {f"{prefix}weight/{task}": weight for task, weight in zip(tasks, weights.tolist(), strict=True)}
        if combiner in _JACOBIAN:
            line |= {f"{prefix}cosine": random.uniform(0.7, 1), f"{prefix}conflict": random.uniform(0.2, 0.5)}
    return line
