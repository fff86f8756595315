"""The cores that a process may use: its affinity, and the quotas of its control groups in made-up trees."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from mtrl_conic.system import cores
from mtrl_conic.system.cores import available_cores, cpu_quota

V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 31 0:30 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
OTHERS = (
    "31 23 0:28 / / rw,relatime - ext4 /dev/sda rw\n36 31 0:33 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"
)


def tree(root: Path, groups: str, mount: str, files: dict[str, str]) -> Path:
    """A root with the two files of `/proc/self` and those of the groups."""
    contents = {"proc/self/cgroup": groups, "proc/self/mountinfo": f"{OTHERS}\n{mount}\n"}
    contents |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


TREES = {
    "half a core in a container": ("0::/\n", V2, {"cpu.max": "50000 100000\n"}, 0.5),
    "no limit": ("0::/\n", V2, {"cpu.max": "max 100000\n"}, math.inf),
    "the real root has no file": ("0::/\n", V2, {"cgroup.procs": "1\n"}, math.inf),
    "a parent has less than its child": (
        "0::/user.slice/job/task\n",
        V2,
        {"user.slice/cpu.max": "150000 100000\n", "user.slice/job/cpu.max": "max 100000\n"}
        | {"user.slice/job/task/cpu.max": "400000 100000\n", "other/cpu.max": "1000 100000\n"},
        1.5,
    ),
    "version 1": ("4:cpu,cpuacct:/a\n2:cpuset:/\n", V1.format(top="/"), v1("cpu,cpuacct/a", 250_000), 2.5),
    "version 1, a parent": (
        "4:cpu,cpuacct:/a/b\n",
        V1.format(top="/"),
        v1("cpu,cpuacct/a/b", -1) | v1("cpu,cpuacct/a", 20_000, 10_000) | v1("cpu,cpuacct", -1),
        2.0,
    ),
    "version 1, a container that is shown the host's name of its group": (
        "4:cpu,cpuacct:/docker/1f\n",
        V1.format(top="/docker/1f"),
        v1("cpu,cpuacct", 70_000),
        0.7,
    ),
    "only another controller has that group": ("2:cpuset:/a\n", V1.format(top="/"), v1("cpu,cpuacct/a", 1), math.inf),
    "both versions": (
        "4:cpu,cpuacct:/a\n0::/\n",
        f"{V2.replace('/sys/fs/cgroup ', '/sys/fs/cgroup/unified ')}\n{V1.format(top='/')}",
        v1("cpu,cpuacct/a", 100_000) | {"unified/cgroup.procs": "1\n"},
        1.0,
    ),
    "nonsense": ("4\n", "nonsense", {"cpu.max": "one two three\n"}, math.inf),
}


@pytest.mark.parametrize("name", TREES)
def test_quota(name, tmp_path):
    groups, mount, files, cores_worth = TREES[name]
    assert cpu_quota(tree(tmp_path, groups, mount, files)) == pytest.approx(cores_worth)


def test_without_control_groups(tmp_path):
    assert cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize(("quota", "cores_seen"), [(0.5, 1), (1.5, 2), (2.0, 2), (9.0, 4), (math.inf, 4)])
def test_the_quota_counts_as_the_affinity_does(quota, cores_seen, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 7}, raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert available_cores() == cores_seen


def test_python_can_be_told_of_fewer(monkeypatch):
    monkeypatch.setattr(os, "process_cpu_count", lambda: 1, raising=False)  # as PYTHON_CPU_COUNT=1 makes it
    monkeypatch.setattr(cores, "cpu_quota", lambda: math.inf)
    assert available_cores() == 1
