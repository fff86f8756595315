"""Multi-task reinforcement learning with gradient combiners."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

# Our commands have OpenMP's threads sleep while they wait for each other. A spinning one holds the core that the other
# needs as soon as anything else runs beside them (docs/performance.md). It must be said before torch is imported, which
# the module of a command may do at once: sys.argv[0] is "-m" while Python is on its way to that module.
if sys.argv and os.path.basename(sys.argv[0]) in ("-m", "mtrl-conic"):
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from mtrl_conic.agents.replay import ReplayBuffer
    from mtrl_conic.agents.sac import MultiTaskSAC
    from mtrl_conic.gradients.backward import MultiTaskBackward
    from mtrl_conic.policies.policy import load_policy
    from mtrl_conic.report.frame import load_runs
    from mtrl_conic.training.program import train

__version__ = "0.1.0"
__all__ = ["MultiTaskBackward", "MultiTaskSAC", "ReplayBuffer", "load_policy", "load_runs", "train"]

_MODULES = {
    "MultiTaskBackward": "gradients.backward",
    "MultiTaskSAC": "agents.sac",
    "ReplayBuffer": "agents.replay",
    "load_policy": "policies.policy",
    "load_runs": "report.frame",
}


def __getattr__(name: str) -> Any:
    if name == "train":  # the module of the command, which can be called
        return importlib.import_module("mtrl_conic.train")
    if name in _MODULES:  # imported when first asked for, as it brings torch
        return getattr(importlib.import_module(f"mtrl_conic.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _on_the_way_to_a_command() -> bool:
    """Whether this process is a command of ours, whose `--help` should not wait for gymnasium."""
    if sys.argv[:1] == ["-m"]:  # what follows the module in the command line is in sys.argv already
        module = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)].removeprefix("-m")
        return module.split(".")[0] == __name__
    return os.path.basename(sys.argv[0]) == "mtrl-conic" if sys.argv else False


if not _on_the_way_to_a_command():
    from mtrl_conic.envs.registered.registration import register

    register()  # gymnasium.make("mtrl_conic/push-v3") works from here on
