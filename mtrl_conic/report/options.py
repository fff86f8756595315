"""What the command line asks for, and the run folders that it names."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl_conic.settings import arguments as read
from mtrl_conic.settings.errors import ConfigError

RECORDS = ("config.yaml", "provenance.json", "evaluations.jsonl", "metrics.jsonl")


@dataclass(frozen=True)
class Options:
    """A request for a report.

    Args:
        runs: folders, globs, or both, separated by commas.
        out: the folder to write.
        steps: compare at this step per task instead of at the end of the runs.
    """

    runs: str
    out: Path
    steps: int | None = None


def parse(arguments: Sequence[str]) -> Options:
    """Read `key=value` arguments.

    Raises:
        ConfigError: one is unknown, missing, given twice or of no use.
    """
    readers: dict[str, read.Reader] = {"runs": read.text, "out": read.path, "steps": read.whole(1)}
    values = read.parse(arguments, readers, required=("runs", "out"))
    return Options(values["runs"], values["out"], values.get("steps"))


def find_runs(runs: str, notes: list[str]) -> list[Path]:
    """The run folders that `runs` names or that lie below what it names, each once; a named folder without is noted.

    Raises:
        ConfigError: a part of it names nothing, or there is no run folder at all.
    """
    found: dict[Path, Path] = {}
    for part in _parts(runs):
        folders = _named(part)
        if not folders:
            raise ConfigError(f"runs={part}: no such folder")
        below = [run for folder in folders for run in _below(folder)]
        if not below:
            notes.append(f"{part}: no run folder there")
        for run in below:
            found.setdefault(run.resolve(), run)
    if not found:
        raise ConfigError(f"runs={runs}: no run folder there; one holds {' or '.join(RECORDS)}")
    return list(found.values())


def _parts(runs: str) -> list[str]:
    """Split at commas, but where that would split the name of a folder: those of Hydra's multirun hold commas."""
    pieces, parts = runs.split(","), []
    while pieces:
        ends = (end for end in range(len(pieces), 1, -1) if _named(",".join(pieces[:end])))
        end = next(ends, 1)
        parts.append(",".join(pieces[:end]).strip())
        pieces = pieces[end:]
    return [part for part in parts if part]


def _named(part: str) -> list[Path]:
    """The folder of that name, or those that the glob finds."""
    part = os.path.expanduser(part.strip())
    return [Path(part)] if os.path.exists(part) else sorted(map(Path, glob.glob(part, recursive=True)))


def _below(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):
        return []
    if any(os.path.exists(folder / name) for name in RECORDS):
        return [folder]
    try:
        children = sorted(folder.iterdir())
    except OSError:  # not ours to read
        return []
    return [run for child in children if not child.is_symlink() for run in _below(child)]
