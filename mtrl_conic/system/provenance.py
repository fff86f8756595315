"""Where a number came from: versions, code state, machine, command, time."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mtrl_conic.system.cores import available_cores
from mtrl_conic.system.matmul import float32_products

_PACKAGE = Path(__file__).resolve().parent.parent
_RECORDED = ("mtrl_conic", "torch", "metaworld", "mujoco", "gymnasium", "numpy", "hydra-core")


def provenance(device: torch.device) -> dict[str, Any]:
    """What is needed to say where a number came from: versions, code state, machine, command, time."""
    return {
        "command": command(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _RECORDED},
        "git": git_state(_PACKAGE),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        "cores": available_cores(),
        "torch_threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "float32_products": float32_products(device),
    }


def command() -> str:
    """The command line of this process as one pastes it into a shell, in the folder where it was started."""
    script = Path(sys.argv[0]).absolute()
    if script.name == "mtrl-conic":  # may lie in a folder that is not searched for programs
        return shlex.join(["python", "-m", "mtrl_conic", *sys.argv[1:]])
    if not script.is_relative_to(_PACKAGE):
        return shlex.join(["python", *sys.argv])
    names = [part for part in script.relative_to(_PACKAGE.parent).with_suffix("").parts if part != "__main__"]
    return shlex.join(["python", "-m", ".".join(names), *sys.argv[1:]])


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and cleanness of the checkout that holds `folder`; None outside of one."""
    try:
        commit, status = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.strip(), "clean": not status.strip()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
