"""The vectors of environments that a run trains and evaluates in."""

from __future__ import annotations

from typing import Any

from mtrl_conic.envs.base import EnvSpec
from mtrl_conic.envs.shortened import Shortened
from mtrl_conic.envs.vector import VectorEnv
from mtrl_conic.settings.schema import TrainConfig


def training_vector(config: TrainConfig, spec: EnvSpec) -> VectorEnv:
    """Episodes on random goals, no longer than `env.horizon`.

    Raises:
        WorkerError: an environment could not be built.
    """
    vector = config.vector
    shortened = Shortened(spec, vector.horizon) if vector.horizon else spec
    return _vector(config, shortened, num_envs_per_task=vector.num_envs_per_task, workers=config.workers)


def evaluation_vector(config: TrainConfig, spec: EnvSpec) -> VectorEnv:
    """Episodes that take the goals in turn and have the protocol's length, unless they end with success.

    Raises:
        WorkerError: an environment could not be built.
    """
    num_envs = config.eval.num_envs_per_task
    workers = min(config.workers, len(config.seeds) * len(spec.tasks) * num_envs)
    how = {"goals": "in_turn", "terminate_on_success": config.eval.terminate_on_success}
    return _vector(config, spec, num_envs_per_task=num_envs, workers=workers, **how)


def _vector(config: TrainConfig, spec: EnvSpec, **settings: Any) -> VectorEnv:
    timeout, repeat = config.vector.timeout, config.vector.action_repeat
    return VectorEnv(spec, config.seeds, timeout=timeout, action_repeat=repeat, **settings)
