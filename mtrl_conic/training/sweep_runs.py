"""The runs of a sweep: combiners, or named variants, × seeds, each with its settings checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl_conic.runs.records import check_logger
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.overrides import quote
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.settings.variants import folder_name, layered, read_variants

_VARIANTS = "variants="
_SET_HERE = ("seeds", "run_dir", "resume")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Args:
        name: of its folder, in the sweep's.
        settings: all that the command line says of it, but its folder.
        flags: `--config-dir` and a folder, as often as need be.
        config: the settings composed and checked.
        replaced: settings of the command line in whose place the variant puts its own.
    """

    name: str
    settings: list[str]
    flags: list[str]
    config: TrainConfig
    replaced: list[str]

    @property
    def arguments(self) -> list[str]:
        """Of a training command that begins it or goes on with it."""
        return [*self.flags, *self.settings, f"run_dir={self.config.run_dir}", "resume=auto"]


@dataclass(frozen=True)
class Row:
    """What runs of different seeds share: a combiner, or a variant.

    Args:
        folder: of these runs, in the sweep's.
        defaults: settings that the command line may change.
        changes: settings that make it what it is.
        said: before what cannot be used of them.
    """

    folder: str
    defaults: list[str]
    changes: list[str]
    said: str = ""


def list_runs(
    what: str, seeds: Sequence[str], folder: str, rest: Sequence[str], only: str | None = None
) -> list[SweepRun]:
    """All runs of a sweep, each with its settings checked.

    Args:
        what: names of combiners, or `variants=` and the name of a file.
        seeds: of each run, such as "0" or "0,1,2".
        folder: of the sweep.
        rest: the arguments that go to every run.
        only: the variants to run, separated by commas; None for all.

    Raises:
        ConfigError: one of them cannot be used.
    """
    of_variants = what.startswith(_VARIANTS)
    flags, given = _split(rest, "variant" if of_variants else "combiner")
    if only is not None and not of_variants:
        raise ConfigError(f"only={only}: chooses among variants; combiners are named one by one")
    rows = _variants(what.removeprefix(_VARIANTS), flags, only) if of_variants else _combiners(what.split())
    _check_names("seeds", seeds)
    return [_run(row, group, folder, flags, given) for row in rows for group in seeds]


def _check_names(kind: str, names: Sequence[str]) -> None:
    if not names:
        raise ConfigError(f"{kind}: must name at least one")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{kind} {repeated[0]}: named twice")


def _combiners(names: Sequence[str]) -> list[Row]:
    _check_names("combiner", names)
    return [Row(name, [], [f"combiner={name}"]) for name in names]


def _variants(file: str, flags: Sequence[str], only: str | None) -> list[Row]:
    found = read_variants(file, flags[1::2], ("variant", *_SET_HERE))
    return [
        Row(
            folder_name(name),
            found.settings,
            [*found.changes[name], f"variant={quote(name)}"],
            f"variant {name}: ",
        )
        for name in (found.changes if only is None else found.chosen(only))
    ]


def _run(row: Row, group: str, folder: str, flags: list[str], given: list[str]) -> SweepRun:
    if not re.fullmatch(r"(0|[1-9]\d*)(,(0|[1-9]\d*))*", group):
        raise ConfigError(f"seeds {group}: must be numbers, such as 0 or 0,1,2 for three in one process")
    name = f"{row.folder}/seed{'s' if ',' in group else ''}_{group.replace(',', '_')}"
    settings = [*layered(row.defaults, given, row.changes), f"seeds=[{group}]"]
    try:
        config = compose_config([*settings, f"run_dir={Path(folder, name)}"], flags[1::2])
        check_logger(config.logger)
    except ConfigError as error:
        raise ConfigError(f"{row.said}{error}") from error
    kept = {*layered(given, row.changes), *row.changes}
    return SweepRun(name, settings, flags, config, [each for each in given if each not in kept])


def _split(rest: Sequence[str], own: str) -> tuple[list[str], list[str]]:
    """Flags, as pairs, and overrides; `own` is a setting that the sweep sets, beside those of all sweeps."""
    flags: list[str] = []
    overrides: list[str] = []
    arguments = iter(rest)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            flags += ["--config-dir", value if equals else next(arguments, "")]
        elif flag.startswith("-"):
            raise ConfigError(f"{argument}: no such option; there are --config-dir and --help")
        elif flag in (own, *_SET_HERE):
            raise ConfigError(f"{argument}: the sweep sets {flag} itself")
        else:
            overrides.append(argument)
    return flags, overrides
