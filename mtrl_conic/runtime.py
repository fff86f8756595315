"""Devices, random streams and provenance."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import shlex
import subprocess
import sys
import weakref
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mtrl_conic.cores import available_cores


class SeedStreams:
    """One random stream per seed, so that a seed draws the same numbers alone and among others.

    Args:
        seeds: the S seeds.
        purpose: a name; streams of one seed with different purposes are independent.
        device: where the numbers are drawn.
    """

    _all: ClassVar[weakref.WeakSet[SeedStreams]] = weakref.WeakSet()

    def __init__(self, seeds: Sequence[int], purpose: str, device: torch.device | str = "cpu") -> None:
        self._all.add(self)
        self.generators = [
            torch.Generator(device).manual_seed(_mix(seed, zlib.crc32(purpose.encode()))) for seed in seeds
        ]

    @classmethod
    def all_generators(cls) -> list[torch.Generator]:
        """Those of all streams in use: a CUDA graph must know the generators that it draws from."""
        return [generator for streams in cls._all for generator in streams.generators]

    def normal_(self, out: Tensor) -> Tensor:
        """Fill `out` [S, ...] with standard normal numbers."""
        for row, generator in zip(out, self.generators, strict=True):
            row.normal_(generator=generator)
        return out

    def uniform_(self, out: Tensor) -> Tensor:
        """Fill `out` [S, ...] with numbers uniform in [0, 1)."""
        for row, generator in zip(out, self.generators, strict=True):
            row.uniform_(generator=generator)
        return out

    def state_dict(self) -> dict[str, Any]:
        return {"streams": [generator.get_state() for generator in self.generators]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for generator, saved in zip(self.generators, state["streams"], strict=True):
            saved = saved.cpu()
            if saved.shape == generator.get_state().shape:
                generator.set_state(saved)
            else:  # the run moves between CPU and CUDA, whose generators differ: start a stream of its own
                generator.manual_seed(_mix(zlib.crc32(saved.numpy().tobytes())))


def _mix(*numbers: int) -> int:
    """A 63-bit generator seed that depends on all the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def provenance(device: torch.device) -> dict[str, Any]:
    """What is needed to say where a number came from: versions, code state, machine, command, time."""
    return {
        "command": command(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _RECORDED},
        "git": git_state(Path(__file__).parent),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        "cores": available_cores(),
        "torch_threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "float32_products": _float32_products(device),
    }


def command() -> str:
    """The command line of this process as one pastes it into a shell, in the folder where it was started."""
    script = Path(sys.argv[0]).absolute()
    package = Path(__file__).parent
    if not script.is_relative_to(package):
        return shlex.join(["python", *sys.argv])
    names = [part for part in script.relative_to(package.parent).with_suffix("").parts if part != "__main__"]
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


def _float32_products(device: torch.device) -> str:
    """How products of float32 matrices are computed now."""
    highest = torch.get_float32_matmul_precision() == "highest"
    if device.type == "cuda":
        return "float32" if highest else "TF32"
    if highest:
        return "float32"
    return "float32 (oneDNN)" if _onednn_is_exact() else "bfloat16 inside (oneDNN)"


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


def _onednn_is_exact() -> bool:
    """Whether torch's "medium", which hands products to oneDNN and allows it bfloat16, computes in float32 here.

    It does unless the processor has matrix units for bfloat16. All numbers below are powers of two or 1 + 2^-20,
    which bfloat16 and TF32 would round, and so are the results in float32.
    """
    value = 1 + 2.0**-20
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return all(_is_exact(value, *shape) for shape in _PROBES)
    finally:
        torch.set_float32_matmul_precision(before)


_PROBES = ((1, 1280, 400, 400), (1, 320, 49, 256), (10, 128, 400, 400), (2, 64, 64, 16))


def _is_exact(value: float, batch: int, rows: int, inner: int, columns: int) -> bool:
    left = torch.full((batch, rows, inner), value)
    right = torch.zeros(batch, inner, columns)
    right[:, 0] = 1
    bias = torch.zeros(batch, 1, columns)
    found = (torch.bmm(left, right), torch.baddbmm(bias, left, right), torch.bmm(right.mT, left.mT))
    return all(bool((product == value).all()) for product in found)


_RECORDED = ("mtrl_conic", "torch", "metaworld", "mujoco", "gymnasium", "numpy", "hydra-core")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def make_current(device: torch.device) -> None:
    """Have CUDA graphs and events, which belong to the current device, belong to this one."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def keep_freed_memory() -> None:
    """Ask the C library to reuse freed blocks of any size, and the kernel to back them by large pages.

    By default glibc gives large blocks back to the kernel at once, and each update pays for mapping its activations
    anew; and pages of 4 KiB, once the machine's memory is fragmented, make an update a sixth slower. Does nothing with
    other C libraries, or where the kernel has no large pages.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # bytes; glibc refuses more
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        library.mallopt(_M_TOP_PAD, _AHEAD)
        library.malloc.restype = ctypes.c_void_p
        library.free(ctypes.c_void_p(library.malloc(24 << 20)))  # the heap grows now, by all of it
        start, end = _heap()
        start = -(-start // _LARGE_PAGE) * _LARGE_PAGE
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(max(end - start, 0)), _MADV_HUGEPAGE)


def _heap() -> tuple[int, int]:
    """The addresses between which this process's heap lies.

    Raises:
        ValueError: there is none.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("[heap]"):
            start, end = line.split()[0].split("-")
            return int(start, 16), int(end, 16)
    raise ValueError("no heap")


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # from malloc.h
_MADV_HUGEPAGE, _LARGE_PAGE = 14, 2 << 20  # from mman.h; bytes
_AHEAD = 1 << 30  # bytes of addresses, not of memory, that the heap grows by
