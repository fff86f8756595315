"""Stored settings of earlier versions in the words of this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtrl_conic.settings.aliases import ALIASES

_FIRST_AGENT = {"_target_": "mtrl_conic.agents.sac.MultiTaskSAC"}  # there was one
_FIRST_NETWORK = {"_target_": "mtrl_conic.networks.multi_head.MultiHeadMLP"}

_META_WORLD = "mtrl_conic.envs.metaworld.MetaWorld"
# `env.name`, which there was once, to what stands in its place.
_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "toy": {"_target_": "mtrl_conic.envs.toy.Toy", "tasks": None},
    "mt1": {"_target_": _META_WORLD, "benchmark": "mt1"},
    **{name: {"_target_": _META_WORLD, "benchmark": name, "tasks": None} for name in ("mt10", "mt25", "mt50")},
}
# Settings that stood in every section, also where the environments had no use for them.
_UNUSED: dict[str, tuple[str, ...]] = {
    "toy": ("task", "fast", "goal_seed", "reward_version"),
    "mt1": (),
    **dict.fromkeys(("mt10", "mt25", "mt50"), ("task",)),
}


def environments(stored: Any) -> Any:
    """The stored section `env` with a class in place of a name; one that has a class already is left as it is."""
    name = stored.get("name") if isinstance(stored, dict) else None
    if not isinstance(name, str) or name not in _ENVIRONMENTS or "_target_" in stored:
        return stored
    kept = {key: value for key, value in stored.items() if key not in ("name", *_UNUSED[name])}
    # Training episodes were as long as those of evaluations, and each step had an action of its own.
    return _ENVIRONMENTS[name] | {"horizon": None, "action_repeat": 1} | kept


def settings(stored: Any) -> Any:
    """All stored settings by today's names; what is no mapping is left as it is.

    The environments' name goes where names of choices are.
    """
    if not isinstance(stored, dict):
        return stored
    found = _with_agent({str(key): value for key, value in stored.items()})
    env = stored.get("env")
    if isinstance(env, dict) and environments(env) is not env:
        choices = found.get("choices")
        found["choices"] = {"env": env["name"], **(choices if isinstance(choices, dict) else {})}
        found["env"] = environments(env)
    return found


def _with_agent(found: dict[str, Any]) -> dict[str, Any]:
    """The settings with a class for the agent and for its networks, where there was one of each."""
    agent = found.get("agent")
    if not isinstance(agent, Mapping) or "_target_" in agent:
        return found
    found["agent"] = {**_FIRST_AGENT, "network": dict(_FIRST_NETWORK), **agent}
    for old, new in ALIASES.items():
        *before, name = old.split(".")
        owner = found["agent"] if before else found
        if name in owner:
            _put(found, new, owner.pop(name))
    return found


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        settings = settings[section]
    settings[name] = value
