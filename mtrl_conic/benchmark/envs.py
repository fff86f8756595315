"""Environment steps a second, beside gymnasium's asynchronous vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import metaworld  # noqa: F401  # registers the environments with gymnasium
import numpy as np

from mtrl_conic.benchmark.timing import in_turns
from mtrl_conic.envs import EnvConfig, make_spec
from mtrl_conic.envs.vector import VectorEnv

_STEPS = 200


def benchmark_envs(name: str, workers: int, rounds: int) -> dict[str, Any]:
    """Steps a second of the two vectors, random actions, in turns."""
    spec = make_spec(EnvConfig(name))
    num_tasks = len(spec.tasks)
    random = np.random.default_rng(0)
    actions = random.uniform(-1, 1, (_STEPS, num_tasks, spec.action_size)).astype(np.float32)
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
    speeds = {key: _STEPS * num_tasks / seconds for key, seconds in medians.items()}
    print(f"{name}, random actions, environment steps a second")
    for key, speed in speeds.items():
        print(f"{key:<24}{speed:>10.0f}{speed / speeds[theirs]:>8.2f}")
    return {"steps_per_second": speeds}
