"""Named access to MuJoCo's data without a look-up by name at every call."""

from __future__ import annotations

from typing import Any

import numpy as np


class NamedView:
    """Stands for `data.body(name)` and the like; an array is fetched once, as it stays a live view."""

    def __init__(self, view: Any) -> None:
        self._view = view

    def __getattr__(self, field: str) -> Any:
        value = getattr(self._view, field)
        if isinstance(value, np.ndarray | int):
            self.__dict__[field] = value
        return value


class DataViews:
    """Stands for an `MjData` where only its positions are read; the rest is passed on to it."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._named: dict[tuple[str, str], NamedView] = {}

    def _get(self, kind: str, name: str) -> NamedView:
        view = self._named.get((kind, name))
        if view is None:
            view = self._named[kind, name] = NamedView(getattr(self._data, kind)(name))
        return view

    def body(self, name: str) -> NamedView:
        """The body's `xpos` [3], `xquat` [4], `xmat` [9]."""
        return self._get("body", name)

    def geom(self, name: str) -> NamedView:
        """The geom's `xpos` [3], `xmat` [9], `id`."""
        return self._get("geom", name)

    def site(self, name: str) -> NamedView:
        """The site's `xpos` [3], `xmat` [9]."""
        return self._get("site", name)

    def joint(self, name: str) -> NamedView:
        """The joint's `qpos`, `qvel`."""
        return self._get("joint", name)

    def __getattr__(self, field: str) -> Any:
        return getattr(self._data, field)
