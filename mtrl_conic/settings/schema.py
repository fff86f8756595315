"""The settings of a run: their types and what is allowed, checked before anything starts."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from mtrl_conic.agents.learner import AgentConfig
from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.trial import try_out
from mtrl_conic.envs import EnvConfig, space_sizes, task_names
from mtrl_conic.settings.errors import ConfigError, first_line
from mtrl_conic.settings.parts import build
from mtrl_conic.system import memory
from mtrl_conic.system.cores import available_cores


@dataclass
class EvalConfig:
    """When and how long to evaluate."""

    every: int
    episodes: int
    final_episodes: int


@dataclass
class TrainConfig:
    """All settings of a training run; `configs/train.yaml` explains each."""

    env: EnvConfig
    agent: AgentConfig
    seeds: list[int]
    steps_per_task: int
    warmup_steps: int
    batch_size_per_task: int
    capacity_per_task: int
    updates_per_step: int
    metrics_every: int
    eval: EvalConfig
    device: str
    threads: int | None = None
    matmul_precision: str = "highest"
    cuda_graphs: bool = True
    run_dir: str | None = None
    max_wall_seconds: float | None = None
    logger: str | None = None
    combiner: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)  # names of env, agent, combiner, experiment; for the record

    def make_combiner(self) -> Combiner:
        """A new combiner as configured.

        Raises:
            ConfigError: the combiner cannot be built with these settings.
        """
        return build(self.combiner, Combiner, "combiner")

    @property
    def combiner_name(self) -> str:
        """The name of its yaml file, or the class where a version before stored none."""
        return self.choices.get("combiner") or str(self.combiner.get("_target_", "no combiner")).rpartition(".")[2]

    @property
    def num_envs(self) -> int:
        """Environments of all seeds and tasks."""
        return len(self.seeds) * len(task_names(self.env)) * self.env.num_envs_per_task

    @property
    def workers(self) -> int:
        """Worker processes, the default filled in."""
        if self.env.workers is None:
            return min(available_cores(), self.num_envs)
        return self.env.workers

    def torch_device(self) -> torch.device:
        """The device, "auto" resolved."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


def validate(config: TrainConfig) -> None:
    """Check ranges and what depends on this machine.

    Raises:
        ConfigError: naming the first setting that cannot be used.
    """
    settings = asdict(config)
    for key, (low, high) in _RANGES.items():
        value = _value(settings, key)
        if value is not None and not value >= low:  # NaN is not
            raise ConfigError(f"{key}={value}: must be {'a number of ' if math.isnan(value) else ''}at least {low}")
        if value is not None and value > high:
            raise ConfigError(f"{key}={value}: must be at most {high}")
    for key in _POSITIVE:
        value = _value(settings, key)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{key}={value}: must be a positive number")
    _validate_choices(config)
    _validate_logger(config.logger)
    _validate_seeds(config.seeds)
    _validate_env(config)
    validate_device(config.device)
    _validate_memory(config)
    _validate_combiner(config)


def _value(settings: dict[str, Any], key: str) -> Any:
    section, dot, name = key.partition(".")
    return settings[section][name] if dot else settings[key]


_MANY = 10**15  # more steps or episodes than anything counts to
_RANGES = {
    "steps_per_task": (1, _MANY),
    "warmup_steps": (0, _MANY),
    "batch_size_per_task": (1, _MANY),
    "capacity_per_task": (1, _MANY),
    "updates_per_step": (1, _MANY),
    "metrics_every": (1, _MANY),
    "eval.every": (1, _MANY),
    "eval.episodes": (1, _MANY),
    "eval.final_episodes": (1, _MANY),
    "env.num_envs_per_task": (1, _MANY),
    "env.workers": (0, _MANY),
    "env.timeout": (0, 1_000_000),  # seconds; what waits for the workers counts milliseconds in 31 bits
    "threads": (1, 1024),
    "env.goal_seed": (0, 2**32 - 1),  # all that the benchmark's generator takes
    "agent.num_critics": (1, 1000),
    "agent.target_entropy": (-1_000_000, 1_000_000),  # nats
}
_POSITIVE = (
    "env.timeout",
    "max_wall_seconds",
    "agent.learning_rate",
    "agent.adam_epsilon",
    "agent.max_grad_norm",
    "agent.initial_temperature",
    "agent.reward_scale",
)


def _validate_choices(config: TrainConfig) -> None:
    for key, value, choices in (
        ("agent.gradient_scope", config.agent.gradient_scope, ("shared", "all")),
        ("env.reward_version", config.env.reward_version, ("v1", "v2")),
        ("matmul_precision", config.matmul_precision, ("highest", "high", "medium")),
    ):
        if value not in choices:
            raise ConfigError(f"{key}={value}: must be one of {', '.join(choices)}")
    for key, share in (("agent.discount", config.agent.discount), ("agent.tau", config.agent.tau)):
        if not 0 < share <= 1:
            raise ConfigError(f"{key}={share}: must be above 0 and at most 1")
    sizes = config.agent.hidden_sizes
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"agent.hidden_sizes={sizes}: must be one or more positive widths")


def _validate_logger(logger: str | None) -> None:
    if logger not in (None, "wandb"):
        raise ConfigError(f"logger={logger}: must be null or wandb")


_HIGHEST_SEED = 2**64 - 1  # all that torch's generators take


def _validate_seeds(seeds: list[int]) -> None:
    if not seeds:
        raise ConfigError("seeds=[]: must name at least one seed")
    if min(seeds) < 0:
        raise ConfigError(f"seeds={seeds}: must not be negative")
    if max(seeds) > _HIGHEST_SEED:
        raise ConfigError(f"seeds={seeds}: must be at most {_HIGHEST_SEED}")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={seeds}: must not repeat a seed")


def _validate_env(config: TrainConfig) -> None:
    try:
        task_names(config.env)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.workers > config.num_envs:
        raise ConfigError(
            f"env.workers={config.env.workers}: must be at most the number of environments, {config.num_envs}"
        )
    if config.env.num_envs_per_task > config.capacity_per_task:
        raise ConfigError(
            f"capacity_per_task={config.capacity_per_task}: must be at least env.num_envs_per_task,"
            f" {config.env.num_envs_per_task}"
        )


def _validate_memory(config: TrainConfig) -> None:
    """Refuse what no step of the work could be done with; what merely swaps is the user's to judge."""
    agent, env = config.agent, config.env
    cells = len(config.seeds) * len(task_names(env))
    rows = (config.capacity_per_task, config.batch_size_per_task)
    envs = (env.name, env.num_envs_per_task)
    needs = memory.needs(agent.hidden_sizes, space_sizes(env), cells, *rows, agent.num_critics, envs)
    for key, needed in needs.items():
        there = memory.available(torch.device("cpu") if key.startswith("env.") else config.torch_device())
        if needed > there:
            gib = f"{needed / 2**30:,.0f} GiB of memory for this alone, there are {there / 2**30:,.0f}"
            raise ConfigError(f"{key}={_value(asdict(config), key)}: needs at least {gib}")


def _validate_combiner(config: TrainConfig) -> None:
    combiner = config.make_combiner()
    try:
        try_out(combiner, config.seeds, len(task_names(config.env)))  # some settings must fit the number of tasks
    except (ValueError, ImportError) as error:
        raise ConfigError(f"combiner: {first_line(error)}") from error


def validate_device(device: str) -> None:
    """Check the name of a device, and that this machine has it."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,9})?", device):
        raise ConfigError(f"device={device}: must be auto, cpu, cuda or cuda:<n>")
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(device.partition(":")[2] or 0)
        if index >= count:
            raise ConfigError(f"device={device}: this machine has {count} usable CUDA devices; use cpu or auto")
