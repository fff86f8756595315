"""Environments: the vector that steps them, the Meta-World tasks and a toy."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from mtrl_conic.envs.base import EnvSpec


@dataclass
class EnvConfig:
    """Settings of the environments; `configs/env/*.yaml` explains each."""

    name: str
    num_envs_per_task: int = 1
    workers: int | None = None
    timeout: float = 60.0
    task: str | None = None
    fast: bool = True
    goal_seed: int = 0
    reward_version: str = "v2"


def task_names(config: EnvConfig) -> tuple[str, ...]:
    """The K tasks of an environment.

    Raises:
        ValueError: there is no such environment or task.
    """
    if config.name == "toy":
        from mtrl_conic.envs.toy import ToySpec

        return ToySpec().tasks
    from mtrl_conic.envs import metaworld

    if config.name != "mt1":
        return metaworld.benchmark_tasks(config.name)
    known = metaworld.all_tasks()
    if config.task is None:
        some = "reach-v3, push-v3, pick-place-v3, door-open-v3"
        raise ValueError(f"env=mt1: needs env.task=..., one of Meta-World's {len(known)} V3 tasks, such as {some}")
    if config.task not in known:
        close = difflib.get_close_matches(config.task, known, n=3, cutoff=0.0)
        raise ValueError(f"env.task={config.task}: no such Meta-World task; the closest are {', '.join(close)}")
    return (config.task,)


def space_sizes(config: EnvConfig) -> tuple[int, int]:
    """The entries of an observation and of an action, without the seconds that `make_spec` takes."""
    if config.name == "toy":
        from mtrl_conic.envs.toy import ToySpec

        return ToySpec.observation_size, ToySpec.action_size
    from mtrl_conic.envs import metaworld

    return metaworld.OBSERVATION_SIZE, metaworld.ACTION_SIZE


def make_spec(config: EnvConfig) -> EnvSpec:
    """What the vector needs to build the environments; drawing Meta-World's goals takes seconds."""
    tasks = task_names(config)
    if config.name == "toy":
        from mtrl_conic.envs.toy import ToySpec

        return ToySpec()
    from mtrl_conic.envs import metaworld

    return metaworld.make_spec(tasks, config.goal_seed, config.reward_version, config.fast)
