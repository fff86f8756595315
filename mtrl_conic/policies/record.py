"""What an evaluation of a stored run writes down, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtrl_conic.envs.base import EnvSpec
from mtrl_conic.envs.environments import repeat_in_words
from mtrl_conic.envs.evaluation import Evaluation
from mtrl_conic.policies.actors import Weights
from mtrl_conic.settings.schema import VECTOR_KEYS, TrainConfig
from mtrl_conic.system.provenance import provenance

# Settings that say nothing about what is measured; the tasks have a place of their own.
_NO_PROTOCOL = {*VECTOR_KEYS, "_target_", "tasks"}
_SHOWN_VERSIONS = ("mtrl_conic", "metaworld", "mujoco", "torch")


def facts(
    run: Path,
    checkpoint: str,
    config: TrainConfig,
    weights: Weights,
    spec: EnvSpec,
    seeds: Sequence[int],
    episodes: int,
) -> dict[str, Any]:
    """What is known before the first episode; docs/evaluation.md explains the keys."""
    return {
        "run": str(run),
        "checkpoint": checkpoint,
        "file": weights.file,
        "step": weights.step,
        "combiner": config.combiner,
        **({"combiners": config.combiners} if config.combiners else {}),
        "choices": config.choices,
        "title": config.make_environments().title(config.env_name) + repeat_in_words(config.vector.action_repeat),
        "protocol": protocol(config, spec, episodes),
        "tasks": list(spec.tasks),
        "seeds": list(seeds),
        "provenance": provenance(config.torch_device()),
        "trained_with": _trained_with(run),
    }


def results(known: dict[str, Any], result: Evaluation) -> dict[str, Any]:
    """What was measured: means over seeds, and for each seed a line like those of `evaluations.jsonl`."""
    tasks = known["tasks"]
    return {
        "success_rate": float(result.success_rate.mean()),
        "success": dict(zip(tasks, result.success_rate.mean(0).tolist(), strict=True)),
        "return": dict(zip(tasks, result.episode_return.mean(0).tolist(), strict=True)),
        "evaluations": result.lines(known["step"], known["seeds"], tasks),
    }


def protocol(config: TrainConfig, spec: EnvSpec, episodes: int) -> dict[str, Any]:
    """What two evaluations must share to stand in one table."""
    own = {key: value for key, value in config.env.items() if value is not None and key not in _NO_PROTOCOL}
    facts = {"env": config.env_name, "horizon": spec.horizon, "goals": spec.num_goals, "episodes": episodes}
    repeat = config.vector.action_repeat
    held = {} if repeat == 1 else {"action_repeat": repeat}  # earlier versions knew none, and their records compare
    ends = {"terminate_on_success": True} if config.eval.terminate_on_success else {}
    return facts | {"policy": "deterministic", "success": "any step"} | held | ends | own


def method(known: dict[str, Any]) -> str:
    """The name of the combiner's yaml file, or its class where a version before stored no choices.

    Combiners that single networks have follow it.
    """
    choices = known["choices"]
    shared = choices.get("combiner") or str(known["combiner"].get("_target_", "no combiner")).rpartition(".")[2]
    own = (f", {key.removesuffix('.combiner')} {name}" for key, name in choices.items() if key.endswith(".combiner"))
    return shared + "".join(own)


def heading(known: dict[str, Any]) -> str:
    """The facts for the eye."""
    shared, versions = known["protocol"], known["provenance"]["versions"]
    goals = min(shared["goals"], shared["episodes"])
    plural = "s" if shared["episodes"] > 1 else ""
    which = f"goals 0 to {goals - 1}" if goals > 1 else "goal 0"
    lines = [
        f"run         {known['run']} ({method(known)})",
        f"checkpoint  {known['checkpoint']}: {known['file']}, step {known['step']} per task",
        f"protocol    {known['title']}; {shared['episodes']} episode{plural} per task and seed on {which},",
        f"            deterministic policy, success at any step{_ending(shared)}",
        "versions    " + ", ".join(f"{name} {versions[name]}" for name in _SHOWN_VERSIONS),
        *_differences(known),
    ]
    return "\n".join(lines) + "\n"


def _ending(protocol: dict[str, Any]) -> str:
    return ", which ends the episode and its return" if protocol.get("terminate_on_success") else ""


def _differences(known: dict[str, Any]) -> list[str]:
    now, then = known["provenance"]["versions"], known["trained_with"] or {}
    changed = [f"{name} {then[name]}" for name in _SHOWN_VERSIONS if name in then and then[name] != now[name]]
    return [f"note        trained with {', '.join(changed)}"] if changed else []


def _trained_with(run: Path) -> dict[str, Any] | None:
    """The versions that the last piece of the training ran with, where they can be read."""
    try:
        return json.loads((run / "provenance.json").read_text())["pieces"][-1]["versions"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
