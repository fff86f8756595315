"""A class by its dotted name, and what is said where there is none."""

from __future__ import annotations

import difflib
import importlib
import inspect
from types import ModuleType
from typing import Any

from mtrl_conic.system.foreign import FAILURES, told


def find(dotted: Any) -> Any:
    """What a name such as `mine.Mine` stands for.

    Raises:
        ValueError: it is no such name, or a part of it is not there; one line.
    """
    if not isinstance(dotted, str) or "." not in dotted or not all(part.isidentifier() for part in dotted.split(".")):
        raise ValueError("must name a class, such as mine.Mine for the class Mine in mine.py")
    first, *rest = dotted.split(".")
    found, name = _imported(first), first
    if found is None:
        raise ValueError(f"there is no module {first} in the folder that the command is started from, or installed")
    for part in rest:
        inner = getattr(found, part, None)
        if inner is None and isinstance(found, ModuleType) and hasattr(found, "__path__"):
            inner = _imported(f"{name}.{part}")
        if inner is None:
            raise ValueError(f"{name} has no {part}{_has(found, part)}")
        found, name = inner, f"{name}.{part}"
    return found


def _imported(module: str) -> ModuleType | None:
    try:
        return importlib.import_module(module)
    except FAILURES as error:  # the module is the user's, and may do anything
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return None
        raise ValueError(f"{module} cannot be imported ({told(error)})") from error


def _has(owner: Any, name: str) -> str:
    """Its classes that may have been meant: the one of a similar name, or all that are defined there."""
    if not isinstance(owner, ModuleType):
        return ""
    classes = {key: value for key, value in vars(owner).items() if inspect.isclass(value) and not key.startswith("_")}
    close = difflib.get_close_matches(name, classes, n=1, cutoff=0.6)
    there = ", ".join(key for key, value in classes.items() if value.__module__ == owner.__name__)
    return f" (did you mean {close[0]}?)" if close else f"; its classes are {there}" if there else ""
