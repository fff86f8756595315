"""Multi-task reinforcement learning with gradient combiners."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

# Our commands have OpenMP's threads sleep while they wait for each other. A spinning one holds the core that the other
# needs as soon as anything else runs beside them (docs/performance.md). It must be said before torch is imported, which
# the module of a command may do at once: sys.argv[0] is "-m" while Python is on its way to that module.
if sys.argv[:1] == ["-m"]:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from mtrl_conic.gradients.backward import MultiTaskBackward
    from mtrl_conic.policies.policy import load_policy

__version__ = "0.1.0"
__all__ = ["MultiTaskBackward", "load_policy"]


def __getattr__(name: str) -> Any:
    if name == "MultiTaskBackward":  # imported when first asked for, as it brings torch
        from mtrl_conic.gradients.backward import MultiTaskBackward

        return MultiTaskBackward
    if name == "load_policy":
        from mtrl_conic.policies.policy import load_policy

        return load_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _on_the_way_to_a_command() -> bool:
    """Whether this process is a command of ours, whose `--help` should not wait for gymnasium."""
    if sys.argv[:1] == ["-m"]:  # what follows the module in the command line is in sys.argv already
        module = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)].removeprefix("-m")
        return module.split(".")[0] == __name__
    return os.path.basename(sys.argv[0]) == "mtrl-conic" if sys.argv else False


if not _on_the_way_to_a_command():
    from mtrl_conic.envs.registration import register

    register()  # gymnasium.make("mtrl_conic/push-v3") works from here on
