"""What the command line asks for, and the run folders that it names."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RECORDS = ("config.yaml", "provenance.json", "evaluations.jsonl", "metrics.jsonl")
_KEYS = ("runs", "out", "steps")


class ReportError(ValueError):
    """A request that cannot be met: one line that names the value and says what is allowed."""


@dataclass(frozen=True)
class Options:
    """A request for a report.

    Args:
        runs: folders, globs, or both, separated by commas.
        out: the folder to write.
        steps: compare at this step a task instead of at the end of the runs.
    """

    runs: str
    out: Path
    steps: int | None = None


def parse(arguments: Sequence[str]) -> Options:
    """Read `key=value` arguments.

    Raises:
        ReportError: one is unknown, missing, given twice or of no use.
    """
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ReportError(f"{argument}: not of the form key=value")
        if key not in _KEYS:
            raise ReportError(f"{key}: no such setting{_closest(key)}")
        if key in values:
            raise ReportError(f"{key}: given twice")
        if not value:
            raise ReportError(f"{key}=: must not be empty")
        values[key] = value
    for key in ("runs", "out"):
        if key not in values:
            raise ReportError(f"{key}=... is missing; --help shows how")
    return Options(values["runs"], Path(values["out"]), _whole_number(values.get("steps")))


def _closest(key: str) -> str:
    close = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else f"; there are {', '.join(_KEYS)}"


def _whole_number(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        number = 0.0
    if not (number >= 1 and number.is_integer()):
        raise ReportError(f"steps={text}: must be a whole number of at least 1")
    return int(number)


def find_runs(runs: str, notes: list[str]) -> list[Path]:
    """The run folders that `runs` names or that lie below what it names, each once; a named folder without is noted.

    Raises:
        ReportError: a part of it names nothing, or there is no run folder at all.
    """
    found: dict[Path, Path] = {}
    for part in _parts(runs):
        folders = [Path(part)] if Path(part).exists() else sorted(map(Path, glob.glob(part, recursive=True)))
        if not folders:
            raise ReportError(f"runs={part}: no such folder")
        below = [run for folder in folders for run in _below(folder)]
        if not below:
            notes.append(f"{part}: no run folder there")
        for run in below:
            found.setdefault(run.resolve(), run)
    if not found:
        raise ReportError(f"runs={runs}: no run folder there; one holds {' or '.join(RECORDS)}")
    return list(found.values())


def _parts(runs: str) -> list[str]:
    if Path(runs).exists():  # a name may hold commas, as those that Hydra's multirun makes do
        return [runs]
    return [part.strip() for part in runs.split(",") if part.strip()]


def _below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    if any((folder / name).exists() for name in RECORDS):
        return [folder]
    try:
        children = sorted(folder.iterdir())
    except OSError:  # not ours to read
        return []
    return [run for child in children if not child.is_symlink() for run in _below(child)]
