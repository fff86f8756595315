"""The processor, for those who do without torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_cores() -> int:
    """The cores that this process may use: what its affinity and the quota of its control groups leave, at least 1."""
    return max(1, math.ceil(min(_cores(), cpu_quota())))


def _cores() -> int:
    count = getattr(os, "process_cpu_count", None)  # Python 3.13: knows PYTHON_CPU_COUNT
    if count is not None:
        return count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float:
    """The processor time that this process may use, in cores; infinite without a limit or without control groups.

    A container's limit (`docker run --cpus=0.5`, Kubernetes, systemd's `CPUQuota`) leaves the affinity as it is. Each
    group on the way up has a quota of its own, and the least of them counts.

    Args:
        root: the folder that holds `proc` and `sys`, for tests.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
        return min(map(_quota, _group_folders(groups, mounts, root)), default=math.inf)
    except (OSError, ValueError):  # no such files, or none that this function understands
        return math.inf


def _group_folders(groups: list[str], mounts: list[str], root: Path) -> Iterator[Path]:
    """The folders of the process's groups and of all groups above them, as far as they are mounted here.

    Args:
        groups: of `/proc/self/cgroup`, lines "number:controllers:/path"; version 2 names no controllers.
        mounts: of `/proc/self/mountinfo`; the fields are in proc(5).
    """
    of_version: dict[str, str] = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            of_version["cgroup" if controllers else "cgroup2"] = path
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in of_version or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        top, mounted = (_unescaped(text) for text in before.split(" ")[3:5])
        path = os.path.relpath(of_version[kind], top)
        # A container may be shown its group by the host's name, which no folder here has: its own is on top.
        parts = () if path.startswith("..") else Path(path).parts
        for length in range(len(parts) + 1):
            yield root / mounted.lstrip("/") / Path(*parts[:length])


def _unescaped(text: str) -> str:
    return text.replace("\\040", " ").replace("\\134", "\\")


def _quota(folder: Path) -> float:
    """Of one group; infinite where it has none, or where its files are not those of the controller."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
