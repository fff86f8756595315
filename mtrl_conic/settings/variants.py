"""Named variants of one base, each a few changed settings: the yaml files of `configs/sweep`, or a user's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mtrl_conic.settings import paths
from mtrl_conic.settings.aliases import expanded
from mtrl_conic.settings.compose import search_path
from mtrl_conic.settings.errors import ConfigError, first_line
from mtrl_conic.settings.explain import bad_file


@dataclass(frozen=True)
class Variants:
    """What a file says.

    Args:
        settings: of every variant, each `key=value` as on the command line.
        changes: the settings that a variant changes, by its name.
    """

    settings: list[str]
    changes: dict[str, list[str]]

    def chosen(self, only: str) -> list[str]:
        """The names of the variants in `only`, in the order of the file.

        Args:
            only: names, or those of their folders in small letters or large, separated by commas.

        Raises:
            ConfigError: one of them is none, or is there twice.
        """
        folders = {folder_name(name).casefold(): name for name in self.changes}
        wanted = []
        for text in only.split(","):
            name = folders.get(folder_name(text).casefold())
            if name is None:
                close = difflib.get_close_matches(folder_name(text).casefold(), folders, n=1, cutoff=0.6)
                meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(folders)}"
                raise ConfigError(f"only={only}: no variant {text.strip() or 'without a name'}; {meant}")
            if name in wanted:
                raise ConfigError(f"only={only}: {text.strip()} is named twice")
            wanted.append(name)
        return [name for name in self.changes if name in wanted]


def read_variants(name: str, config_dirs: Sequence[str] = (), reserved: Sequence[str] = ()) -> Variants:
    """Read `sweep/<name>.yaml`; what the settings are worth is for whoever composes them.

    Args:
        name: of the file, or the path of one, which ends in .yaml.
        config_dirs: folders searched after the package's own.
        reserved: settings that no variant may have.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    path = _find(name, config_dirs)
    try:
        return _checked(_load(path), reserved)
    except ValueError as error:
        raise ConfigError(f"variants={name}: {error}") from error


def folder_name(variant: str) -> str:
    """The name as a folder's that no shell and no file system minds: "action repeat 2" is action_repeat_2."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", variant).strip("_.-")


def layered(*layers: Sequence[str]) -> list[str]:
    """The settings of all layers, but those that a later layer gives anew."""
    keys = [{_key(argument) for argument in layer} for layer in layers]
    kept = []
    for index, layer in enumerate(layers):
        later = set().union(*keys[index + 1 :])
        kept += [argument for argument in layer if _key(argument) not in later]
    return kept


def _key(argument: str) -> str:
    return expanded(argument).partition("=")[0].lstrip("+~")


def _find(name: str, config_dirs: Sequence[str]) -> Path:
    search_path(config_dirs)  # they must exist
    try:
        if name.endswith((".yaml", ".yml")):
            found = [Path(paths.expand(name))]
            there = "no such file"
        else:
            folders = [paths.CONFIG_DIR, *(Path(paths.expand(folder)) for folder in config_dirs)]
            found = [folder / "sweep" / f"{name}.yaml" for folder in folders]
            names = sorted({path.stem for folder in folders for path in (folder / "sweep").glob("*.yaml")})
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
            there = f"no such file of variants; {meant}; a path ends in .yaml"
        path = next((path for path in found if path.is_file()), None)
    except (OSError, ValueError) as error:  # a name that is none for a file
        raise ConfigError(f"variants={name}: {first_line(error)}") from error
    if path is None:
        raise ConfigError(f"variants={name}: {there}")
    return path


def _load(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:  # OmegaConf, YAML and the disk have no common kind
        raise ValueError(bad_file(error, ()) or first_line(error)) from error


def _checked(plain: Any, reserved: Sequence[str]) -> Variants:
    if not isinstance(plain, dict) or not isinstance(plain.get("variants"), dict) or not plain["variants"]:
        raise ValueError("must have variants, with a name and a list of settings for each")
    if unknown := [key for key in plain if key not in ("settings", "variants")]:
        raise ValueError(f"{unknown[0]}: no such entry; there are settings and variants")
    settings = _arguments("settings", plain.get("settings") or [], reserved)
    changes: dict[str, list[str]] = {}
    folders: dict[str, str] = {}
    for name, given in plain["variants"].items():
        if not isinstance(name, str) or not folder_name(name) or not name.isprintable():
            raise ValueError(f"variant {name!r}: its name must be text with a letter from a to z or a digit")
        other = folders.setdefault(folder_name(name).casefold(), name)
        if other != name:
            raise ValueError(f"variants {other} and {name}: would share the run folder {folder_name(name)}")
        changes[name] = _arguments(f"variant {name}", given, reserved)
    return Variants(settings, changes)


def _arguments(owner: str, given: Any, reserved: Sequence[str]) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(each, str) and "=" in each for each in given):
        raise ValueError(f"{owner}: must be a list of key=value, such as [env.action_repeat=2], not {given}")
    for argument in given:
        if (key := _key(argument)) in reserved:
            raise ValueError(f"{owner}: {argument}: the sweep sets {key} itself")
    return given
