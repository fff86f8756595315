"""Multi-task reinforcement learning with gradient combiners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrl_conic.backward import MultiTaskBackward
    from mtrl_conic.policy import load_policy

__version__ = "0.1.0"
__all__ = ["MultiTaskBackward", "load_policy"]


def __getattr__(name: str) -> Any:
    if name == "MultiTaskBackward":  # imported when first asked for, as it brings torch
        from mtrl_conic.backward import MultiTaskBackward

        return MultiTaskBackward
    if name == "load_policy":
        from mtrl_conic.policy import load_policy

        return load_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
