"""Gradient combiners: one file and one `configs/combiner/*.yaml` per method."""

from mtrl_conic.combiners.base import Combiner

__all__ = ["Combiner"]
