"""Stored settings of earlier versions in the words of this one."""

from __future__ import annotations

from typing import Any

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
    return _ENVIRONMENTS[name] | {"horizon": None} | kept  # training episodes were as long as those of evaluations


def settings(stored: Any) -> Any:
    """All stored settings, as `environments` has them; the environments' name goes where names of choices are."""
    if not isinstance(stored, dict) or not isinstance(stored.get("env"), dict):
        return stored
    found = {**stored, "env": environments(stored["env"])}
    name, choices = stored["env"].get("name"), stored.get("choices")
    if found["env"] is not stored["env"] and not (isinstance(choices, dict) and "env" in choices):
        found["choices"] = {**(choices if isinstance(choices, dict) else {}), "env": name}
    return found
