"""Environment steps: one beside its physics and the shipped class, the vectors beside gymnasium's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import metaworld  # noqa: F401  # registers the environments with gymnasium
import mujoco
import numpy as np

from mtrl_conic.benchmark.options import Options
from mtrl_conic.benchmark.timing import in_turns
from mtrl_conic.envs.base import EnvSpec
from mtrl_conic.envs.metaworld import MetaWorld
from mtrl_conic.envs.registered.registration import NAMESPACE, register
from mtrl_conic.envs.vector import VectorEnv

_STEPS = 200


def benchmark_envs(options: Options) -> dict[str, Any]:
    """All of it, random actions, medians of measurements in turns."""
    name = options.env
    start = time.perf_counter()
    spec = MetaWorld(name).setup()
    goals = time.perf_counter() - start
    rounds = max(3, options.rounds // 3)
    steps = _one_step(name, spec, rounds)
    print(f"{name}, one step on one core, microseconds, mean over tasks")
    for key, value in steps.items():
        print(f"{key:<40}{value:>10.0f}{value / steps[_PHYSICS]:>8.2f}")
    speeds, start_up = _vectors(name, spec, options.workers, rounds)
    theirs = list(speeds)[-1]
    print(f"{name}, steps per second; start-up {goals + start_up:.1f} s, of which {goals:.1f} s draw the goals")
    for key, speed in speeds.items():
        print(f"{key:<40}{speed:>10.0f}{speed / speeds[theirs]:>8.2f}")
    return {"microseconds_a_step": steps, "steps_per_second": speeds, "start_up_seconds": goals + start_up}


_PHYSICS = "physics alone (mj_step, mj_forward)"


def _one_step(name: str, spec: EnvSpec, rounds: int) -> dict[str, float]:
    tasks = range(len(spec.tasks))
    shipped_spec = MetaWorld(name, fast=False).setup()
    fast, idle, shipped = ([s.make(task) for task in tasks] for s in (spec, spec, shipped_spec))
    for env in (*fast, *idle, *shipped):
        env.reset(0)
    actions = np.random.default_rng(0).uniform(-1, 1, (_STEPS, spec.action_size)).astype(np.float32)

    def physics() -> None:
        for env in idle:
            official = env.env  # type: ignore[attr-defined]
            for _ in actions:
                mujoco.mj_step(official.model, official.fast_data, nstep=official.frame_skip)
                mujoco.mj_forward(official.model, official.fast_data)

    functions: dict[str, Callable[[], object]] = {
        _PHYSICS: physics,
        "mtrl_conic": lambda: [env.step(action) for env in fast for action in actions],
        "as shipped": lambda: [env.step(action) for env in shipped for action in actions],
    }
    medians = in_turns(functions, rounds)
    return {key: 1e6 * seconds / _STEPS / len(spec.tasks) for key, seconds in medians.items()}


def _vectors(name: str, spec: EnvSpec, workers: int, rounds: int) -> tuple[dict[str, float], float]:
    """Steps per second of the vectors, gymnasium's last, and the seconds to start and reset ours."""
    shape = (_STEPS, len(spec.tasks), spec.action_size)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    register()
    benchmark, same = name.upper(), dict[str, Any](vector_strategy="async", seed=0)
    shipped = gymnasium.make_vec(f"Meta-World/{benchmark}", **same)
    registered = gymnasium.make_vec(f"{NAMESPACE}/{benchmark}", workers=workers, **same)
    shipped.reset()
    registered.reset()
    start = time.perf_counter()
    many = VectorEnv(spec, [0], workers=workers)
    many.reset()
    start_up = time.perf_counter() - start
    with many, VectorEnv(spec, [0], workers=1) as one:
        one.reset()
        functions: dict[str, Callable[[], object]] = {
            f"mtrl_conic, {workers} workers": lambda: [many.step(action[None, :, None]) for action in actions],
            "mtrl_conic, 1 worker": lambda: [one.step(action[None, :, None]) for action in actions],
            f"registered, {workers} workers": lambda: [registered.step(action) for action in actions],
            "gymnasium async": lambda: [shipped.step(action) for action in actions],
        }
        medians = in_turns(functions, rounds)
    registered.close()
    shipped.close()
    return {key: _STEPS * len(spec.tasks) / seconds for key, seconds in medians.items()}, start_up
