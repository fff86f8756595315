"""How products of float32 matrices are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

_PROBES = ((1, 1280, 400, 400), (1, 320, 49, 256), (10, 128, 400, 400), (2, 64, 64, 16))


def set_matmul_precision(precision: str, device: torch.device | str) -> None:
    """Choose how products of float32 matrices are computed, in this process.

    "highest" is float32 throughout; "high" is TF32 on CUDA, and float32 on the CPU. There float32 is computed by oneDNN
    where that is exact: with AVX-512 on an AMD processor it takes half the time of MKL, which torch would use.
    "medium" allows bfloat16 inside.
    """
    on_cpu = torch.device(device).type == "cpu"
    torch.set_float32_matmul_precision("highest" if on_cpu and precision == "high" else precision)
    if on_cpu and precision != "medium" and _onednn_is_exact():
        torch.set_float32_matmul_precision("medium")


def float32_products(device: torch.device) -> str:
    """How products of float32 matrices are computed now."""
    highest = torch.get_float32_matmul_precision() == "highest"
    if device.type == "cuda":
        return "float32" if highest else "TF32"
    if highest:
        return "float32"
    return "float32 (oneDNN)" if _onednn_is_exact() else "bfloat16 inside (oneDNN)"


def by_onednn() -> bool:
    """Whether the CPU's products of float32 matrices are now computed by oneDNN, be it in float32 or not."""
    return torch.get_float32_matmul_precision() != "highest"


@contextmanager
def by_mkl() -> Iterator[None]:
    """Float32 products on the CPU are MKL's inside, also where oneDNN is set to compute the same: for small ones.

    The setting is the process's: no other thread may multiply in the meantime.
    """
    before = torch.get_float32_matmul_precision()
    if not by_onednn() or not cpu_is_exact():
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cpu_is_exact() -> bool:
    """Whether the CPU's products of float32 matrices are now computed in float32. Changes nothing: any thread may ask.

    oneDNN may use bfloat16 where torch allows it, and does if the processor has matrix units for it.
    """
    return not by_onednn() or _is_exact_at(torch.get_float32_matmul_precision())


def _onednn_is_exact() -> bool:
    """Whether torch's "medium", which hands products to oneDNN and allows it bfloat16, computes in float32 here."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return _is_exact_at("medium")
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def _is_exact_at(precision: str) -> bool:
    """Whether the present setting of torch, which is this one, computes in float32 on this processor.

    All numbers of the probes are powers of two or 1 + 2^-20, which bfloat16 and TF32 would round, and so are the
    results in float32.
    """
    return all(_is_exact(1 + 2.0**-20, *shape) for shape in _PROBES)


def _is_exact(value: float, batch: int, rows: int, inner: int, columns: int) -> bool:
    as_probed: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults are
    left = torch.full((batch, rows, inner), value, **as_probed)
    right = torch.zeros(batch, inner, columns, **as_probed)
    right[:, 0] = 1
    bias = torch.zeros(batch, 1, columns, **as_probed)
    found = (torch.bmm(left, right), torch.baddbmm(bias, left, right), torch.bmm(right.mT, left.mT))
    return all(bool((product == value).all()) for product in found)
