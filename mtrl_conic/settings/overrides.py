"""The `key=value` arguments of a training command, before and after Hydra's parser."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from mtrl_conic.settings import paths
from mtrl_conic.settings.aliases import expanded, shortened
from mtrl_conic.settings.errors import ConfigError

GROUPS = ("env", "agent", "network", "critic_network", "combiner", "experiment")  # settings that choose a yaml file
LISTS = {"seeds": "seeds=[0,1,2]", "agent.network.hidden_sizes": "agent.network.hidden_sizes=[256,256]"}

_PATHS = ("run_dir", "hydra.sweep.dir")
_LITERAL = re.compile(rf"(\+{{0,2}})({'|'.join(map(re.escape, (*_PATHS, 'hydra.sweep.subdir')))})=(.*)", re.DOTALL)


def quote(text: str) -> str:
    """Text as Hydra's grammar wants it, so that it is read word for word (`${...}` is looked up all the same)."""
    return QuotedString(text, Quote.single).with_quotes()


def as_hydra_has_them(arguments: Sequence[str]) -> list[str]:
    """The arguments with keys by their present names and paths, which Hydra's grammar would split, quoted and expanded.

    Raises:
        ConfigError: a path is empty.
    """
    return [_quoted(expanded(argument)) for argument in arguments]


def _quoted(argument: str) -> str:
    found = _LITERAL.fullmatch(argument)
    if not found or (found[2] == "run_dir" and found[3] == "null"):
        return argument
    plus, key, value = found.groups()
    if argument == "hydra.sweep.dir=null":
        raise ConfigError(f"{argument}: must be a folder")
    if key in _PATHS:
        try:
            value = paths.expand(value)
        except ValueError as error:
            raise ConfigError(f"{argument}: {error}") from error
    return f"{plus}{key}={quote(value)}"


def parse(arguments: Sequence[str], sweeps: bool = False, loader: ConfigLoader | None = None) -> list[Override]:
    """Parse arguments whose paths are quoted.

    Args:
        arguments: each `key=value`.
        sweeps: several values per setting, and Hydra's own settings, may stand here.
        loader: knows the choices that `glob(...)` stands for.

    Raises:
        ConfigError: one is not of the form key=value, or cannot stand here.
    """
    parser = OverridesParser.create(config_loader=loader)
    parsed: list[Override] = []
    for text in arguments:
        try:
            override = parser.parse_overrides([text])[0]
        except (HydraException, ValueError) as error:  # a number of thousands of digits is the latter
            raise ConfigError(_not_understood(text)) from error
        if not override.key_or_group:
            raise ConfigError(_not_understood(text))
        if override.is_sweep_override() and not sweeps:
            raise ConfigError(f"{text}: {_one_value(text, override)}")
        _check_key(text, override.key_or_group, sweeps)
        _check_choice(text, override)
        parsed.append(override)
    _check_once(parsed)
    return parsed


def _not_understood(text: str) -> str:
    key, _, value = text.partition("=")
    if value and re.fullmatch(r"[+~]*\w+([./@]\w+)*", key):
        return f"{text}: this value needs quotes of its own: {key}='\"...\"'"
    return f"{text}: not of the form key=value"


def _one_value(text: str, override: Override) -> str:
    key = override.key_or_group
    value = text.partition("=")[2]
    if key in LISTS:
        return must_be_list(key, value)
    listed = f"; a list is {key}=[{value}]" if key.startswith("combiner.") and override.is_choice_sweep() else ""
    return f"one value per setting{listed}; with --multirun each is a run of its own"


def must_be_list(key: str, value: str) -> str:
    """What is said of another value for a setting that is a list, with the form that was probably meant."""
    numbers = value.replace(" ", "")
    meant = f"{key}=[{numbers}]" if re.fullmatch(r"\d+(,\d+)*", numbers) else LISTS[key]
    return f"must be a list of whole numbers, such as {meant}"


def _check_key(text: str, key: str, sweeps: bool) -> None:
    if not re.match(r"hydra($|[./])", key):
        return
    if key in ("hydra", "hydra.launcher", "hydra.sweeper", "hydra.sweep", "hydra.job"):
        raise ConfigError(f"{text}: is not a single setting; hydra/launcher=... chooses a launcher")
    if key.startswith("hydra.run."):
        raise ConfigError(f"{text}: the folder is run_dir=..., with --multirun hydra.sweep.dir=...")
    if not sweeps:
        folder = "; the folder of one run is run_dir=..." if key.startswith("hydra.sweep.") else ""
        raise ConfigError(f"{text}: only with --multirun{folder}")


def _check_choice(text: str, override: Override) -> None:
    """A choice is a name; Hydra would fail over a number or null with a traceback."""
    key = shortened(override.get_key_element())
    own = key.endswith(".combiner")  # of one network
    if not (own or key in GROUPS or key.startswith("hydra/")) or override.is_sweep_override() or override.is_delete():
        return
    value = override.value()
    several = value if isinstance(value, list) and key == "experiment" else [value]
    if not all(isinstance(one, str) for one in several):
        none = "; leave it out for none" if own or key in ("experiment", "critic_network") else ""
        group = "combiner" if own else "network" if key == "critic_network" else key
        names = ", ".join(paths.choices(group)) or "those of Hydra's plugins"
        raise ConfigError(f"{key}={text.partition('=')[2]}: must be one of {names}{none}")
    if override.is_add() and key in ("env", "agent", "combiner", "experiment"):
        raise ConfigError(f"{text}: without the +, and once: {key}={text.partition('=')[2]}")


def _check_once(parsed: Sequence[Override]) -> None:
    """Of choices that are added Hydra takes only one, and says so in words of its own."""
    given: set[str] = set()
    for override in parsed:
        key = shortened(override.get_key_element())
        if override.is_add() and key.endswith(".combiner") and key in given:
            raise ConfigError(f"{key}={override.get_value_element_as_str()}: {key} is given twice")
        given.add(key)
