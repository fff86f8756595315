"""What may share a table, and what makes a method: runs are told apart by their settings."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtrl_conic.agents.sac import AgentConfig
from mtrl_conic.envs.environments import Environments
from mtrl_conic.report.reading import Run
from mtrl_conic.settings import paths
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.parts import build

Settings = dict[str, str]

# Settings of the environments that change how fast a run is, not what it is asked to do.
_EXECUTION = ("workers", "timeout", "fast", "num_envs_per_task")
# Settings outside of env, agent and combiner that a method learns by.
_LEARNING = ("warmup_steps", "batch_size_per_task", "capacity_per_task", "updates_per_step")


def protocol_of(run: Run) -> Settings:
    """What must be equal for two runs to share a table: all settings of the environments, and the tasks.

    Settings that a run's version did not know yet have their defaults; those that only change the speed are left out.
    """
    env = _with_signature(run.config["env"])
    found = {f"env.{key}": _text(value) for key, value in env.items() if key not in _EXECUTION}
    if not isinstance(env.get("tasks"), dict):  # a mapping says what each task is, a list no more than the tasks below
        found.pop("env.tasks", None)
    return {"env": env_name(run), **found, "tasks": ", ".join(sorted(run.tasks))}


def env_name(run: Run) -> str:
    """The name of the environments' yaml file, or their class where there is none."""
    choices = run.config.get("choices")
    chosen = choices.get("env") if isinstance(choices, dict) else None
    return chosen if isinstance(chosen, str) else str(run.config["env"]["_target_"]).rpartition(".")[2]


def method_of(run: Run) -> Settings:
    """What makes two runs the same method: combiner, agent, and the other settings it learns by."""
    combiner, agent = run.config["combiner"], run.config.get("agent", {})
    found = {f"combiner.{key}": value for key, value in _with_signature(combiner).items()}
    found |= {f"agent.{key}": value for key, value in _with_defaults(agent, AgentConfig).items()}
    found |= {key: run.config.get(key) for key in _LEARNING}
    found["env.num_envs_per_task"] = run.config["env"].get("num_envs_per_task", 1)
    return {key: _text(value) for key, value in found.items()}


def combiner_name(method: Mapping[str, str], chosen: str | None = None) -> str:
    """The class' name, as papers write it; of a user's own yaml file its name.

    With TorchJD's the aggregator's, with an exact ConicGrad that it is one.

    Args:
        method: settings.
        chosen: the name of the yaml file, where it was stored.
    """
    if chosen and chosen not in paths.choices("combiner"):
        return chosen
    name = method["combiner._target_"].rpartition(".")[2]
    if method.get("combiner.weights") == "exact":
        return f"{name} exact"
    return f"{name} {method['combiner.aggregator']}" if "combiner.aggregator" in method else name


def chosen_combiner(run: Run) -> str | None:
    """The name of the combiner's yaml file; None of versions that did not store it."""
    choices = run.config.get("choices")
    chosen = choices.get("combiner") if isinstance(choices, dict) else None
    return chosen if isinstance(chosen, str) else None


def labels(methods: Iterable[Settings], chosen: Sequence[str | None] | None = None) -> list[str]:
    """A name for each of several distinct methods: the combiner and what sets it apart.

    Named are settings of the combiner in which methods of that name differ, and all others where a method departs
    from most.

    Args:
        methods: their settings.
        chosen: the names of their combiners' yaml files, where known.
    """
    methods = list(methods)
    names = [combiner_name(*each) for each in zip(methods, chosen or [None] * len(methods), strict=True)]
    result = []
    for method, name in zip(methods, names, strict=True):
        alike = [other for other, its_name in zip(methods, names, strict=True) if its_name == name]
        words = [
            f"{_short(key)}={value}"
            for key, value in method.items()
            if key != "combiner.aggregator"
            and (_differs(key, alike) if _is_own(key) else usual(other.get(key) for other in methods) != value)
        ]
        result.append(" ".join([name, *words]))
    return result


def differing(method: Settings, methods: Sequence[Settings]) -> list[str]:
    """The settings of a method, as "name=value", in which `methods` differ."""
    shared = [key for key in method if _differs(key, methods) and not key.startswith("combiner.")]
    alike = [other for other in methods if other["combiner._target_"] == method["combiner._target_"]]
    own = [key for key in method if key.startswith("combiner.") and _differs(key, alike)]
    return [f"{_short(key)}={method[key]}" for key in (*own, *shared)]


def usual(values: Iterable[Any]) -> Any:
    """The value of more than half; None where there is none."""
    values = list(values)
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _differs(key: str, methods: Iterable[Settings]) -> bool:
    return len({method.get(key) for method in methods}) > 1


def _is_own(key: str) -> bool:
    return key.startswith("combiner.") or key == "steps_per_task"


def _short(key: str) -> str:
    return key if key == "combiner._target_" else key.rpartition(".")[2]


def title(run: Run) -> str:
    """A heading such as "MT10, Meta-World V3, reward v2, goal seed 0"."""
    environments = _environments(run)
    return env_name(run) if environments is None else environments.title(env_name(run))


def sentence(run: Run) -> str:
    """The protocol in words, with the lengths and sizes of the environments where this version knows them."""
    environments, env = _environments(run), run.config["env"]
    known = {*_EXECUTION, "_target_", "tasks", *(() if environments is None else _signature(env["_target_"]))}
    others = [f"{key} {_text(value)}" for key, value in env.items() if key not in known and value is not None]
    facts = [] if environments is None else environments.facts()
    return ", ".join([f"{len(run.tasks)} task{'s' * (len(run.tasks) > 1)}", *facts, *others])


def slug(run: Run) -> str:
    """A folder name for the protocol's tables and pictures, such as "mt10_v2_goals0"."""
    environments = _environments(run)
    name = env_name(run) if environments is None else environments.file_name(env_name(run))
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".") or "protocol"


def _environments(run: Run) -> Environments | None:
    """Those of this package; of a user's own class, which is not imported for a report, and of another version None."""
    env = run.config["env"]
    known = _signature(env["_target_"])
    try:
        section = {key: value for key, value in env.items() if key == "_target_" or key in known}
        return build(section, Environments, "env") if known else None  # type: ignore[type-abstract]
    except ConfigError:
        return None


def _with_defaults(stored: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    defaults = {entry.name: entry.default for entry in dataclasses.fields(schema)}
    known = {key: value for key, value in defaults.items() if value is not dataclasses.MISSING}
    return known | dict(stored)


def _with_signature(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section with `_target_`, and the defaults of what is left out."""
    defaults = _signature(section["_target_"])
    return {key: value for key, value in defaults.items() if value is not inspect.Parameter.empty} | dict(section)


def _signature(target: str) -> dict[str, Any]:
    """The arguments of a class of this package and their defaults; a user's own file is not imported for a report."""
    module, _, name = target.rpartition(".")
    if not module.startswith("mtrl_conic."):
        return {}
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return {}  # of another version
    return {key: entry.default for key, entry in parameters.items()}


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float) and not isinstance(value, bool):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(entry) for entry in value)}]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
