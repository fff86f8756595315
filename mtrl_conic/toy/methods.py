"""The combiners that run on the toy problem, with the settings that they have there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from mtrl_conic.combiners.base import Combiner
from mtrl_conic.settings.errors import ConfigError, first_line
from mtrl_conic.settings.parts import build
from mtrl_conic.settings.paths import CONFIG_DIR, choices

# The yaml files are made for MT10. Where the literature has other settings for this problem:
TOY_SETTINGS: dict[str, dict[str, Any]] = {
    "cagrad": {"c": 0.4},  # the authors' script for this problem (arXiv 2110.14048)
    "conicgrad": {"c": 0.5, "gamma": 0.001},  # arXiv 2502.00217; the optimizer of the task weights is ours
    "conicgrad_exact": {"c": 0.5, "gamma": 0.001},
    "famo": {"gamma": 0.001},  # the authors' figure of this problem (arXiv 2306.03792)
}

_LEFT_OUT = {"torchjd"}  # a bridge to another package's methods; they run when it is named


def available() -> list[str]:
    """The names of all combiners that have a yaml file."""
    return choices("combiner")


def default_methods() -> list[str]:
    """The names of those that run when none is named."""
    return [name for name in available() if name not in _LEFT_OUT]


def make(name: str, changes: dict[str, Any] | None = None) -> tuple[Combiner, dict[str, Any]]:
    """A new combiner and its hyperparameters: those of its yaml file, of `TOY_SETTINGS` and the changes given.

    Raises:
        ConfigError: there is no such combiner or hyperparameter, or a value cannot be used.
    """
    if name not in available():
        raise ConfigError(f"{name!r}: no such combiner; there are {', '.join(available())}")
    loaded = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "combiner" / f"{name}.yaml"))
    assert isinstance(loaded, dict)
    config = {str(key): value for key, value in loaded.items()}
    known = [key for key in config if key != "_target_"]
    for key, value in (TOY_SETTINGS.get(name, {}) | (changes or {})).items():
        if key not in known:
            raise ConfigError(f"{name}.{key}: no such setting; {name} has {', '.join(known) or 'none'}")
        config[key] = value
    return build(config, Combiner, name), {key: config[key] for key in known}


def check(name: str, changes: dict[str, Any] | None = None) -> None:
    """See that a combiner can be made for two tasks.

    Raises:
        ConfigError: as `make`.
    """
    combiner, _ = make(name, changes)
    try:
        combiner.setup([0], num_tasks=2)
    except ValueError as error:
        raise ConfigError(f"{name}: {first_line(error)}") from error


def parse_overrides(texts: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Changes by method, from texts `method.key=value`.

    Raises:
        ConfigError: a text has another form, or names a method that is not among those given.
    """
    changes: dict[str, dict[str, Any]] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        name, dot, key = path.partition(".")
        if not (name and dot and key and equals):
            raise ConfigError(f"{text}: not of the form combiner.key=value")
        if name not in methods:
            raise ConfigError(f"{text}: {name} is not among {', '.join(methods)}")
        changes.setdefault(name, {})[key] = _value(text, value)
    return changes


def _value(text: str, value: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]), resolve=True)["value"]  # type: ignore[index, call-overload]
    except Exception as error:  # any parser error means the same to the user
        raise ConfigError(f"{text}: {first_line(error)}") from error
