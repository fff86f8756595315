"""The settings of a run: their types and what is allowed, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from omegaconf import OmegaConf

from mtrl_conic.agents.protocol import Agent, Setting
from mtrl_conic.agents.trial import try_out as try_out_agent
from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.trial import try_out
from mtrl_conic.envs.environments import Environments, VectorConfig, check_environments
from mtrl_conic.envs.evaluation import EvalConfig
from mtrl_conic.settings.device import validate_device
from mtrl_conic.settings.errors import ConfigError, first_line
from mtrl_conic.settings.parts import build, placed
from mtrl_conic.system import memory
from mtrl_conic.system.cores import available_cores
from mtrl_conic.system.trial import explained, is_own

VECTOR_KEYS = tuple(entry.name for entry in fields(VectorConfig))


@dataclass
class TrainConfig:
    """All settings of a training run; `configs/train.yaml` explains each."""

    env: dict[str, Any]  # `_target_`, its arguments, and those of `VectorConfig`
    seeds: list[int]
    steps_per_task: int
    metrics_every: int
    eval: EvalConfig
    device: str
    threads: int | None = None
    matmul_precision: str = "highest"
    cuda_graphs: bool = True
    run_dir: str | None = None
    max_wall_seconds: float | None = None
    logger: str | None = None
    variant: str | None = None
    agent: dict[str, Any] = field(default_factory=dict)
    combiner: dict[str, Any] = field(default_factory=dict)
    combiners: dict[str, dict[str, Any]] = field(default_factory=dict)  # of single networks, by name
    choices: dict[str, str] = field(default_factory=dict)  # names of env, agent, combiner and more; for the record

    def make_agent(self) -> Agent:
        """A new agent as configured, not yet set up.

        Raises:
            ConfigError: the agent cannot be built with these settings.
        """
        return build(self.agent, Agent, "agent")

    def make_combiner(self, network: str = "") -> Combiner:
        """A new combiner as configured, for the network of that name.

        Raises:
            ConfigError: the combiner cannot be built with these settings.
        """
        if network in self.combiners:
            return build(self.combiners[network], Combiner, f"{network}.combiner")
        return build(self.combiner, Combiner, "combiner")

    def setting(self) -> Setting:
        """What the agent is set up for."""
        environments = self.make_environments()
        sizes = (len(environments.tasks), environments.observation_size, environments.action_size)
        num_envs, repeat = self.vector.num_envs_per_task, self.vector.action_repeat
        how = (num_envs, self.make_combiner, self.torch_device())
        return Setting(self.seeds, *sizes, *how, action_repeat=repeat)

    def make_environments(self) -> Environments:
        """The environments as configured, before anything large is built.

        Raises:
            ConfigError: they cannot be built with these settings.
        """
        own = {key: value for key, value in self.env.items() if key not in VECTOR_KEYS}
        environments = build(own, Environments, "env")
        try:
            check_environments(environments)
        except ValueError as error:
            raise ConfigError(f"env: {first_line(error)}") from error
        return environments

    @property
    def vector(self) -> VectorConfig:
        """The settings of the vector that steps the environments."""
        return VectorConfig(**{key: self.env[key] for key in VECTOR_KEYS if key in self.env})

    @property
    def combiner_name(self) -> str:
        """The name of its yaml file, or the class where a version before stored none."""
        return self.choices.get("combiner") or _class_name(self.combiner)

    @property
    def env_name(self) -> str:
        """The name of the environments' yaml file, or the class where there is none."""
        return self.choices.get("env") or _class_name(self.env)

    @property
    def num_envs(self) -> int:
        """Environments of all seeds and tasks."""
        return len(self.seeds) * len(self.make_environments().tasks) * self.vector.num_envs_per_task

    @property
    def workers(self) -> int:
        """Worker processes, the default filled in."""
        workers = self.vector.workers
        return min(available_cores(), self.num_envs) if workers is None else workers

    def torch_device(self) -> torch.device:
        """The device, "auto" resolved."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


def _class_name(section: dict[str, Any]) -> str:
    return str(section.get("_target_", "none")).rpartition(".")[2]


@dataclass
class _VectorSection:
    """The part of the section `env` whose types are known; the rest is the class' own."""

    env: VectorConfig = field(default_factory=VectorConfig)


def with_typed_vector(env: dict[str, Any]) -> dict[str, Any]:
    """The section with all settings of the vector; OmegaConf's errors where one is of another type."""
    given = {"env": {key: env[key] for key in VECTOR_KEYS if key in env}}
    section = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(_VectorSection), given))
    assert isinstance(section, _VectorSection)
    return env | asdict(section.env)


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
    _validate_seeds(config.seeds)
    _validate_env(config)
    validate_device(config.device)
    _validate_agent(config, config.make_agent())


def _value(settings: dict[str, Any], key: str) -> Any:
    section, dot, name = key.partition(".")
    return settings[section][name] if dot else settings[key]


_MANY = 10**15  # more steps or episodes than anything counts to
_RANGES = {
    "steps_per_task": (1, _MANY),
    "metrics_every": (1, _MANY),
    "eval.every": (1, _MANY),
    "eval.episodes": (1, _MANY),
    "eval.final_episodes": (1, _MANY),
    "eval.parallel": (1, _MANY),
    "env.num_envs_per_task": (1, _MANY),
    "env.workers": (0, _MANY),
    "env.horizon": (1, _MANY),
    "env.action_repeat": (1, _MANY),
    "env.timeout": (0, 1_000_000),  # seconds; what waits for the workers counts milliseconds in 31 bits
    "threads": (1, 1024),
}
_POSITIVE = ("env.timeout", "max_wall_seconds")


def _validate_choices(config: TrainConfig) -> None:
    precisions = ("highest", "high", "medium")
    if config.matmul_precision not in precisions:
        raise ConfigError(f"matmul_precision={config.matmul_precision}: must be one of {', '.join(precisions)}")
    if config.logger not in (None, "wandb"):
        raise ConfigError(f"logger={config.logger}: must be null or wandb")
    variant = config.variant
    if variant is not None and not (variant.strip() and variant.isprintable() and len(variant) <= 40):
        raise ConfigError(f"variant={variant!r}: must be null or a name of at most 40 characters")


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
    if config.workers > config.num_envs:
        raise ConfigError(
            f"env.workers={config.vector.workers}: must be at most the number of environments, {config.num_envs}"
        )
    horizon, most = config.vector.horizon, config.make_environments().horizon
    if horizon is not None and horizon > most:
        raise ConfigError(f"env.horizon={horizon}: must be at most {most}, the steps of an evaluation's episodes")
    _validate_repeat(config.vector.action_repeat, {"an evaluation's": most, "a training": horizon or most})


def _validate_repeat(repeat: int, episodes: dict[str, int]) -> None:
    """Each decision counts as a whole one, and should be one: `episodes` are the steps of the kinds there are."""
    for whose, steps in episodes.items():
        if steps % repeat:
            raise ConfigError(f"env.action_repeat={repeat}: must divide {steps}, the steps of {whose} episode")


def _validate_agent(config: TrainConfig, agent: Agent) -> None:
    """The agent and its combiners, with each other and with the environments."""
    setting = config.setting()
    for network in config.combiners:
        if network not in agent.networks:
            names = ", ".join(f"{name}.combiner" for name in agent.networks)
            raise ConfigError(f"{network}.combiner: the agent has no combiner of that name; there are {names}")
    with _explained(config, f"{type(agent).__name__}.check"):
        agent.check(setting)
    with _explained(config, f"{type(agent).__name__}.check_length"):
        agent.check_length(config.steps_per_task)
    with _explained(config, f"{type(agent).__name__}.needs"):
        needs = agent.needs(setting)
    _validate_memory(config, needs)
    for network in agent.networks:
        _validate_combiner(config, network)
    if is_own(type(agent)):  # a network of a user's own is tried out when it is made
        with _explained(config, type(agent).__name__):
            try_out_agent(agent, setting)


@contextmanager
def _explained(config: TrainConfig, name: str) -> Iterator[None]:
    """Make a line of whatever the agent or its networks raise, which may be a user's."""
    try:
        with explained(name):
            yield
    except ConfigError:
        raise
    except (ValueError, ImportError) as error:
        raise ConfigError(placed("agent", config.agent, first_line(error))) from error


def _validate_memory(config: TrainConfig, needs: Mapping[str, int]) -> None:
    """Refuse what no step of the work could be done with; what merely swaps is the user's to judge."""
    device, envs = config.torch_device(), config.make_environments()
    one_per_task = len(config.seeds) * len(envs.tasks) * envs.least_memory
    for key, count in (
        ("env.num_envs_per_task", config.vector.num_envs_per_task),
        ("eval.parallel", config.eval.num_envs_per_task),
    ):
        _refuse_more_than_there_is(key, count, count * one_per_task, torch.device("cpu"))
    for key, needed in needs.items():
        _refuse_more_than_there_is(f"agent.{key}", config.agent.get(key), needed, device)


def _refuse_more_than_there_is(key: str, value: Any, needed: int, device: torch.device) -> None:
    there = memory.available(device)
    if needed > there:
        shown = {name: each for name, each in value.items() if name != "_target_"} if isinstance(value, dict) else value
        gib = f"{needed / 2**30:,.0f} GiB of memory for this alone, there are {there / 2**30:,.0f}"
        raise ConfigError(f"{key}={shown}: needs at least {gib}")


def _validate_combiner(config: TrainConfig, network: str) -> None:
    combiner = config.make_combiner(network)
    try:
        try_out(
            combiner, config.seeds, len(config.make_environments().tasks)
        )  # some settings must fit the number of tasks
    except (ValueError, ImportError) as error:
        key = f"{network}.combiner" if network in config.combiners else "combiner"
        raise ConfigError(f"{key}: {first_line(error)}") from error
