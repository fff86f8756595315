"""Multi-task reinforcement learning with gradient combiners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrl_conic.backward import MultiTaskBackward

__version__ = "0.1.0"
__all__ = ["MultiTaskBackward"]


def __getattr__(name: str) -> Any:
    if name == "MultiTaskBackward":  # imported when first asked for, as it brings torch
        from mtrl_conic.backward import MultiTaskBackward

        return MultiTaskBackward
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
