"""Whether what a command writes at its end can be written: found out before the work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mtrl_conic.runs.files import check_disk
from mtrl_conic.settings.errors import ConfigError

_LONGEST_NAME = 240  # bytes; a file is first written under a longer name


def check_file(key: str, path: Path, make_folder: bool = False) -> None:
    """See that a file can be written.

    Args:
        key: of the setting that names the file.
        path: the file; another may be in its place.
        make_folder: make the folder where there is none, which is otherwise an error.

    Raises:
        ConfigError: it cannot.
        WriteError: the disk is full.
    """
    if os.path.isdir(path):
        raise ConfigError(f"{key}={path}: is a folder")
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise ConfigError(f"{key}={path.name[:30]}...: the name is too long, at most {_LONGEST_NAME} bytes")
    if make_folder:
        check_folder(key, path.parent)
    _probe(key, path, path.parent)


def check_folder(key: str, folder: Path) -> None:
    """Make a folder and see that files can be written in it.

    Raises:
        ConfigError: it cannot be made, or they cannot.
        WriteError: the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        check_disk(folder, error)
        raise ConfigError(f"{key}={folder}: cannot be written ({error.strerror})") from error
    _probe(key, folder, folder)


def _probe(key: str, named: Path, folder: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        check_disk(named, error)
        raise ConfigError(f"{key}={named}: cannot be written ({error.strerror})") from error
