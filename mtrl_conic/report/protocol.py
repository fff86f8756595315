"""What may share a table, and what makes a method: runs are told apart by their settings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mtrl_conic.envs.environments import Environments, repeat_in_words
from mtrl_conic.report.reading import Run
from mtrl_conic.settings import paths
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.parts import arguments_of, build, with_defaults

Settings = dict[str, str]

# Settings of the environments that change how fast a run is, not what it is asked to do.
_EXECUTION = ("workers", "timeout", "fast", "num_envs_per_task", "horizon")


def protocol_of(run: Run) -> Settings:
    """What must be equal for two runs to share a table: all settings of the environments, the repeat, and the tasks.

    Settings that a run's version did not know yet have their defaults; those that only change the speed are left out.
    """
    env = with_defaults(run.config["env"])
    found = {f"env.{key}": _text(value) for key, value in env.items() if key not in _EXECUTION}
    found["env.action_repeat"] = _text(_repeat(run))
    if not isinstance(env.get("tasks"), dict):  # a mapping says what each task is, a list no more than the tasks below
        found.pop("env.tasks", None)
    return {"env": env_name(run), **found, "tasks": ", ".join(sorted(run.tasks))}


def _repeat(run: Run) -> Any:
    """The steps that an action is held for: 1 in versions that did not know of it."""
    return run.config["env"].get("action_repeat", 1)


def env_name(run: Run) -> str:
    """The name of the environments' yaml file, or their class where there is none."""
    choices = run.config.get("choices")
    chosen = choices.get("env") if isinstance(choices, dict) else None
    return chosen if isinstance(chosen, str) else str(run.config["env"]["_target_"]).rpartition(".")[2]


def method_of(run: Run) -> Settings:
    """What makes two runs the same method: combiner, agent, and the other settings it learns by; a variant's name.

    Where every network has a combiner of its own, the one for all of them is no part of it.
    """
    own_combiners = run.config.get("combiners", {})
    parts = {} if _combining(run) <= own_combiners.keys() else {"combiner": run.config["combiner"]}
    parts |= {f"{network}.combiner": own for network, own in own_combiners.items()}
    parts["agent"] = run.config.get("agent", {})
    found: dict[str, Any] = {}
    for key, section in parts.items():
        found |= dict(_flat(key, with_defaults(section)))
    found["env.num_envs_per_task"] = run.config["env"].get("num_envs_per_task", 1)
    found["env.horizon"] = run.config["env"].get("horizon")
    found["env.action_repeat"] = _repeat(run)  # where methods are compared across protocols, in `load_runs`
    variant = run.config.get("variant")
    named = {"variant": variant} if isinstance(variant, str) else {}
    return named | {key: _text(value) for key, value in found.items()}


def _combining(run: Run) -> set[str]:
    """The names of what may have a combiner of its own; with an unknown one where the records do not say."""
    networks = run.pieces[-1].get("parameters_per_seed") if run.pieces else None
    temperature = {"temperature"} if run.config.get("agent", {}).get("temperatures") == "combined" else set()
    return {*networks, *temperature} if isinstance(networks, dict) and networks else {""}


def _flat(key: str, section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings by their whole names; those of a class within, such as the agent's network, one by one."""
    for name, value in section.items():
        if isinstance(value, Mapping) and "_target_" in value:
            yield from _flat(f"{key}.{name}", value)
        else:
            yield f"{key}.{name}", value


def combiner_name(method: Mapping[str, str], chosen: str | None = None) -> str:
    """The class' name, as papers write it; of a user's own yaml file its name.

    With TorchJD's the aggregator's, with an exact ConicGrad that it is one.

    Args:
        method: settings; "" where they have no combiner for all networks.
        chosen: the name of the yaml file, where it was stored.
    """
    if "combiner._target_" not in method:
        return ""
    if chosen and chosen not in paths.choices("combiner"):
        return chosen
    return _class_name(method, "combiner")


def _class_name(method: Mapping[str, str], key: str) -> str:
    name = method[f"{key}._target_"].rpartition(".")[2]
    if method.get(f"{key}.weights") == "exact":
        return f"{name} exact"
    return f"{name} {method[f'{key}.aggregator']}" if f"{key}.aggregator" in method else name


def _own_combiners(method: Mapping[str, str]) -> str:
    """The combiners that single networks have, such as ", critic FairGrad"."""
    keys = (key.removesuffix("._target_") for key in method if key.endswith(".combiner._target_"))
    return "".join(f", {key.removesuffix('.combiner')} {_class_name(method, key)}" for key in keys)


def chosen_combiner(run: Run) -> str | None:
    """The name of the combiner's yaml file; None of versions that did not store it."""
    choices = run.config.get("choices")
    chosen = choices.get("combiner") if isinstance(choices, dict) else None
    return chosen if isinstance(chosen, str) else None


def labels(methods: Iterable[Settings], chosen: Sequence[str | None] | None = None) -> list[str]:
    """A name for each of several distinct methods: the combiner and what sets it apart, or that of the variant.

    Named are settings of the combiner in which methods of that name differ, and all others where a method departs
    from most. Variants of one name are told apart by their combiners and by all settings in which they differ.

    Args:
        methods: their settings.
        chosen: the names of their combiners' yaml files, where known.
    """
    methods = list(methods)
    pairs = zip(methods, chosen or [None] * len(methods), strict=True)
    combiners = [(combiner_name(*pair) + _own_combiners(pair[0])).removeprefix(", ") for pair in pairs]
    names = [_with_variant(*pair, methods, combiners) for pair in zip(methods, combiners, strict=True)]
    others = [method for method in methods if "variant" not in method]
    result = []
    for method, name in zip(methods, names, strict=True):
        alike = [other for other, its_name in zip(methods, names, strict=True) if its_name == name]
        words = [
            f"{_short(key)}={value}"
            for key, value in method.items()
            if not key.endswith(("combiner.aggregator", ".combiner._target_"))
            and (_differs(key, alike) if _is_own(key) or "variant" in method else _usual(key, method, others) != value)
        ]
        result.append(" ".join([name, *words]))
    return result


def _with_variant(method: Settings, combiner: str, methods: Sequence[Settings], combiners: Sequence[str]) -> str:
    """The variant's name, with the combiner where those of the name differ in it; the combiner of what is none."""
    variant = method.get("variant")
    if variant is None:
        return combiner
    same = {name for other, name in zip(methods, combiners, strict=True) if other.get("variant") == variant}
    return variant if len(same) == 1 else f"{variant}, {combiner}"


def _usual(key: str, method: Settings, methods: Sequence[Settings]) -> Any:
    """What most methods have that could have such a setting: an agent's own are those of methods with that agent."""
    agent, which = method.get("agent._target_"), "agent._target_"
    of_agent = key.startswith("agent.") and key != which
    return usual(other.get(key) for other in methods if not of_agent or other.get(which) == agent)


def differing(method: Settings, methods: Sequence[Settings]) -> list[str]:
    """The settings of a method, as "name=value", in which `methods` differ."""
    shared = [key for key in method if _differs(key, methods) and not _of_combiner(key) and key != "variant"]
    alike = [other for other in methods if other.get("combiner._target_") == method.get("combiner._target_")]
    own = [key for key in method if _of_combiner(key) and _differs(key, alike)]
    return [f"{_short(key)}={method[key]}" for key in (*own, *shared)]


def usual(values: Iterable[Any]) -> Any:
    """The value of more than half; None where there is none."""
    values = list(values)
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _differs(key: str, methods: Iterable[Settings]) -> bool:
    return len({method.get(key) for method in methods}) > 1


def _is_own(key: str) -> bool:
    return _of_combiner(key) or key == "steps_per_task"


def _of_combiner(key: str) -> bool:
    return key.startswith("combiner.") or ".combiner." in key


def _short(key: str) -> str:
    """The last part, unless it says too little by itself."""
    return key if key.endswith("._target_") or ".combiner." in key else key.rpartition(".")[2]


def title(run: Run) -> str:
    """A heading such as "MT10, Meta-World V3, reward v2, goal seed 0"."""
    environments = _environments(run)
    name = env_name(run) if environments is None else environments.title(env_name(run))
    return name + repeat_in_words(_repeat(run))


def sentence(run: Run) -> str:
    """The protocol in words, with the lengths and sizes of the environments where this version knows them."""
    environments, env = _environments(run), run.config["env"]
    known = {
        *_EXECUTION,
        "action_repeat",
        "_target_",
        "tasks",
        *(() if environments is None else arguments_of(env["_target_"])),
    }
    others = [f"{key} {_text(value)}" for key, value in env.items() if key not in known and value is not None]
    facts = [] if environments is None else environments.facts()
    if _repeat(run) != 1:
        others.append(f"each action held for {_text(_repeat(run))} steps")
    return ", ".join([f"{len(run.tasks)} task{'s' * (len(run.tasks) > 1)}", *facts, *others])


def slug(run: Run) -> str:
    """A folder name for the protocol's tables and pictures, such as "mt10_v2_goals0"."""
    environments = _environments(run)
    name = env_name(run) if environments is None else environments.file_name(env_name(run))
    name += "" if _repeat(run) == 1 else f"_repeat{_text(_repeat(run))}"
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".") or "protocol"


def _environments(run: Run) -> Environments | None:
    """Those of this package; of a user's own class, which is not imported for a report, and of another version None."""
    env = run.config["env"]
    known = arguments_of(env["_target_"])
    try:
        section = {key: value for key, value in env.items() if key == "_target_" or key in known}
        return build(section, Environments, "env") if known else None
    except ConfigError:
        return None


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(entry) for entry in value)}]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
