"""Paths as users write them, and the package's own."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
CONFIG_DIR = next(path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir())


def choices(group: str) -> list[str]:
    """The names that the package has for `env`, `agent`, `combiner` or `experiment`."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def expand(text: str) -> str:
    """A path word for word, but for `~` or `~user` at its start, which shells leave alone after `=`.

    Raises:
        ValueError: it is empty, as from a shell variable that is not set, or no text in UTF-8.
    """
    if not text:
        raise ValueError("must not be empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be text in UTF-8") from None
    return os.path.expanduser(text)
