"""One clear line out of what Hydra, OmegaConf and YAML say of settings that cannot be used."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException
from yaml import MarkedYAMLError  # type: ignore[import-untyped]

from mtrl_conic.envs.environments import VectorConfig
from mtrl_conic.envs.evaluation import EvalConfig
from mtrl_conic.settings import paths
from mtrl_conic.settings.aliases import ALIASES, shortened
from mtrl_conic.settings.errors import first_line
from mtrl_conic.settings.overrides import LISTS, must_be_list
from mtrl_conic.settings.schema import TrainConfig

SECTIONS = {"env": VectorConfig, "eval": EvalConfig}

_SWEEP = 'pip install "mtrl_conic[sweep]"'
_LAUNCHERS = {
    **dict.fromkeys(("joblib", "submitit_local", "submitit_slurm"), _SWEEP),
    "ray": 'pip install "mtrl_conic[ray]", then pip install --no-deps hydra-ray-launcher',
}


def known_keys(schema: Any = TrainConfig, prefix: str = "") -> Iterator[str]:
    """The settings that there are, `choices` aside, which is for the record only."""
    for entry in dataclasses.fields(schema):
        if entry.name == "choices":
            continue
        yield prefix + entry.name
        if entry.name in SECTIONS:
            yield from known_keys(SECTIONS[entry.name], f"{prefix}{entry.name}.")


def unknown_key(key: str, settings: Mapping[str, Any] | None = None, choices: Mapping[str, Any] | None = None) -> str:
    """Says that there is no such setting, and what there is.

    Args:
        key: as given, such as `combiner.cc`.
        settings: those of the run, where they could be composed without the key.
        choices: what they were composed of.
    """
    name, choices = shortened(key), choices or {}
    if name in ("network", "critic_network"):
        return f"{name}: agent={choices.get('agent', '...')} has no {name} to choose"
    if key in ALIASES:  # in a yaml file; on the command line it would have been understood
        return f"{key}: a file must say {ALIASES[key]} now"
    *before, last = key.split(".")
    if before[:1] == ["combiners"]:
        return _own_combiner(key, settings or {})
    section = _section(settings or {}, before)
    if before and section is not None:
        return f"{key}: {_unknown_in(before, last, section, choices)}"
    if key in SECTIONS:
        return f"{key}: has other settings than {', '.join(entry.name for entry in dataclasses.fields(SECTIONS[key]))}"
    close = difflib.get_close_matches(key, [*known_keys(), *ALIASES, "experiment", "resume"], n=1, cutoff=0.6)
    hint = f" (did you mean {close[0]}?)" if close and close[0] != key else "; --help lists the settings"
    return f"{key}: no such setting{hint}"


def _section(settings: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any] | None:
    found: Any = settings
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _own_combiner(key: str, settings: Mapping[str, Any]) -> str:
    """What is said of `critic.combiner.c=...` where the critic has no such setting, or no combiner of its own."""
    _, network, *rest = key.split(".")
    section, name = _section(settings, ["combiners", network]), ".".join(rest)
    if not rest:
        return f"{key}: no such setting; {network}.combiner=NAME chooses a method for the {network}"
    if section is None:
        return f"{network}.combiner.{name}: needs {network}.combiner=..., the method that it is a setting of"
    there = ", ".join(each for each in section if not str(each).startswith("_"))
    return f"{network}.combiner.{name}: the method has no such setting; there are {there}"


def _unknown_in(path: Sequence[str], name: str, section: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    group, place = path[-1], ".".join(path)
    names = [str(each) for each in section if not str(each).startswith("_")]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    others = [] if close else [f"{group}={option}" for option in paths.choices(group) if name in _names(group, option)]
    hint = f" (did you mean {place}.{close[0]}?)" if close else f"; {_have(others[:3])}" if others else ""
    owner = f"{group}={choices[group]} has" if choices.get(group) else "there is"
    return f"{owner} no such setting{hint}; {'there are' if names else 'it has none'} {', '.join(names)}".rstrip()


def _have(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} it"


def _names(group: str, option: str) -> list[str]:
    """The settings of one of the package's choices."""
    loaded = OmegaConf.load(paths.CONFIG_DIR / group / f"{option}.yaml")
    return [str(key) for key in loaded if not str(key).startswith("_") and key != "defaults"]


def target_of(combiner: str) -> str:
    """The class of one of the package's combiners, as its yaml file has it."""
    return str(OmegaConf.select(OmegaConf.load(paths.CONFIG_DIR / "combiner" / f"{combiner}.yaml"), "_target_"))


def experiment_with(key: str, experiments: Sequence[Any], folders: Sequence[str]) -> str | None:
    """The last of the experiments whose own file sets that key, searched for as in a composition."""
    for name in reversed(experiments):
        files = [
            Path(paths.expand(str(folder)), "experiment", f"{name}.yaml") for folder in (paths.CONFIG_DIR, *folders)
        ]
        found = next((file for file in files if file.is_file()), None)
        if found and OmegaConf.select(OmegaConf.load(found), key, throw_on_missing=False) is not None:
            return str(name)
    return None


def bad_reference(error: Exception) -> str | None:
    """What is said of a `${...}` that stands for nothing."""
    if not isinstance(error, InterpolationResolutionError):
        return None
    hint = "; environment variables are ${oc.env:NAME}" if isinstance(error, InterpolationKeyError) else ""
    return f"{getattr(error, 'full_key', '') or '?'}: {first_line(error)}{hint}"


def unknown_in_composition(error: Exception) -> str | None:
    """The key that a composition failed over because there is no such setting."""
    found = re.search(r"Could not override '([^']+)'", str(error)) or re.search(r"full_key: (\S+)", str(error))
    return found[1] if found else None


def unknown_choice(error: Exception) -> str | None:
    """What is said where a choice such as `combiner=foo` has no yaml file."""
    text = str(error)
    if match := re.search(r"Could not load '(\w+)/([^']+)'", text):  # one of several
        return f"{match[1]}={match[2]}: no such choice; there are {', '.join(paths.choices(match[1]))}"
    match = re.search(r"(?:Could not find|In '.*?': Could not find) '([^']+)'", text)
    if match is None:
        return None
    group, _, name = match[1].rpartition("/")
    listed = re.search(r"Available options in '[^']+':\n((?:\t.*\n?)+)", text)
    options = ", ".join(line.strip() for line in listed[1].splitlines()) if listed else "those in configs/"
    how = _LAUNCHERS.get(name) if group == "hydra/launcher" else None
    return f"{group}={name}: no such choice; there are {options}{f'; for this one: {how}' if how else ''}"


def of_one_network(line: str, overrides: Sequence[str]) -> str:
    """A line about `combiner=foo` as one about `critic.combiner=foo`, where that is what was given."""
    said = line.partition(": no such choice")[0]
    names = (shortened(text.partition("=")[0]) + "=" + text.partition("=")[2] for text in overrides)
    meant = next((name for name in names if name.endswith(said)), said)
    return meant + line.removeprefix(said)


def bad_merge(error: Exception) -> str | None:
    """What is said of an override whose value cannot stand where it should."""
    match = re.match(r"Error merging override (([^=]+)=.*)", str(error))
    if match is None:
        return None
    if match[2] in LISTS:
        return f"{match[1]}: {must_be_list(match[2], '')}"
    return f"{match[1]}: {first_line(error.__cause__ or error)}"


def bad_file(error: Exception, folders: Sequence[str]) -> str | None:
    """What is said of a yaml file that cannot be read: its name and the line."""
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a yaml file"
        return f"{where}: {first_line(ValueError(error.problem or error))}"
    if isinstance(error, UnicodeDecodeError):
        files = (path for folder in folders for path in sorted(Path(folder).rglob("*.yaml")))
        return f"{next(filter(_is_undecodable, files), 'a yaml file')}: must be UTF-8"
    return None


def _is_undecodable(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return True
    except OSError:
        pass
    return False


def type_error(error: OmegaConfBaseException, config: DictConfig) -> str:
    """What is said of a value that does not fit the schema, or that refers to something that is not there."""
    key = str(getattr(error, "full_key", None) or next(_no_sections(config), "?"))
    message = first_line(error)
    if "not in" in message:
        return unknown_key(key)
    listed = key.partition("[")[0]
    if listed in LISTS and "nterpolation" not in message:
        return no_list(listed, raw_value(config, listed))
    value = raw_value(config, key)
    if "Cannot merge DictConfig" in message:
        return f"{key}={value}: must be settings by name, as in the yaml files of configs/"
    if value is None:
        return f"{key}=null: must have a value"
    hint = "; environment variables are ${oc.env:NAME}" if isinstance(error, InterpolationKeyError) else ""
    return f"{key}={value}: {message}{hint}"


def _no_sections(config: DictConfig) -> Iterator[str]:
    """The parts of a run whose yaml file holds something else than settings."""
    plain = OmegaConf.to_container(config, resolve=False)
    parts = ("env", "agent", "combiner")
    yield from (key for key in parts if isinstance(plain, dict) and not isinstance(plain.get(key), dict))


def no_list(key: str, value: Any) -> str:
    """What is said of a value for a setting that is a list of whole numbers."""
    text = "null" if value is None else str(value)
    return f"{key}={text}: {must_be_list(key, text)}"


def raw_value(config: DictConfig, key: str) -> Any:
    """The value of a key such as `eval.every` or `seeds[0]` with its `${...}` as written; None where there is none."""
    found: Any = OmegaConf.to_container(config, resolve=False)
    for part in re.findall(r"[^.\[\]]+", key):
        try:
            found = found[int(part)] if isinstance(found, list) else found[part]
        except (LookupError, TypeError, ValueError):
            return None
    return found
