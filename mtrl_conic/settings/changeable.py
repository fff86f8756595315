"""What a resumed run may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtrl_conic.settings import classes

# Of every run; a name that ends in a dot stands for all settings below it.
_ALWAYS = (
    "steps_per_task",
    "device",
    "threads",
    "cuda_graphs",
    "env.workers",
    "eval.",
    "max_wall_seconds",
    "logger",
)
MISSING = object()  # stands for a setting that the run does not have


def is_changeable(key: str, agent: Mapping[str, Any]) -> bool:
    """Whether `resume` may change the setting of a run with this `agent` section."""
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in _names(agent))


def refusal(key: str, value: Any, stored: Any, agent: Mapping[str, Any]) -> str:
    """The line that refuses another value than the stored one."""
    names = ", ".join(name + "*" if name.endswith(".") else name for name in _names(agent))
    has = "" if stored is MISSING else f", the run has {stored}"
    return f"{key}={value}: cannot change on resume{has}; only {names} can"


def of_agent(agent: Mapping[str, Any]) -> tuple[str, ...]:
    """The hyperparameters that the class of the agent lets a resumed run change (`Agent.changeable`)."""
    try:
        return tuple(getattr(classes.find(agent.get("_target_")), "changeable", ()))
    except ValueError:  # who builds the agent says so
        return ()


def _names(agent: Mapping[str, Any]) -> tuple[str, ...]:
    return (*_ALWAYS, *(f"agent.{name}" for name in of_agent(agent)))
