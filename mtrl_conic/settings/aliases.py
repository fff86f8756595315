"""Other names of settings: those of earlier versions, and short ones for what Hydra's grammar makes long."""

from __future__ import annotations

import re

# Where the settings of versions before 0.2 are now; read on the command line and in stored settings.
ALIASES = {
    "warmup_steps": "agent.warmup_steps",
    "batch_size_per_task": "agent.batch_size_per_task",
    "capacity_per_task": "agent.capacity_per_task",
    "updates_per_step": "agent.updates_per_step",
    "agent.hidden_sizes": "agent.network.hidden_sizes",
    "agent.layer_norm": "agent.network.layer_norm",
}

# A group whose choice goes to a place of its own.
_PLACES = {"network": "network@agent.network", "critic_network": "network@agent.critic_network"}
_OWN_COMBINER = re.compile(r"(\w+)\.combiner(\.[\w.]+)?")
_PLACED = re.compile(r"combiner@combiners\.(\w+)")


def expanded(argument: str) -> str:
    """An argument `key=value` of a training command with the key as Hydra wants it: `critic.combiner=ls` too."""
    plus, key, equals, value = _taken_apart(argument)
    if own := _OWN_COMBINER.fullmatch(key):
        network, setting = own.groups()
        return f"{plus}combiners.{network}{setting}{equals}{value}" if setting else _choice(network, equals, value)
    if key in _PLACES:
        place = _PLACES[key]
        return f"{'' if place.startswith('+') else plus}{place}{equals}{value}"
    return f"{plus}{ALIASES.get(key, key)}{equals}{value}"


def _choice(network: str, equals: str, value: str) -> str:
    return f"+combiner@combiners.{network}{equals}{value}"


def _taken_apart(argument: str) -> tuple[str, str, str, str]:
    found = re.match(r"([+~]*)([^=]*)(=?)(.*)", argument, re.DOTALL)
    assert found is not None
    return found[1], found[2], found[3], found[4]


def shortened(key: str) -> str:
    """The name that a user gives to a key as Hydra has it: the inverse of `expanded` for choices."""
    key = key.lstrip("+")
    if placed := _PLACED.fullmatch(key):
        return f"{placed[1]}.combiner"
    return {place.lstrip("+"): name for name, place in _PLACES.items()}.get(key, key)
