"""Timing that a drifting machine does not bend, and measurements in a process of their own."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def in_turns(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    wait: Callable[[], object] = lambda: None,
    unmeasured: int = 0,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, float]:
    """Median seconds of each function, measured in turns so that a drift of the machine hits all of them.

    Args:
        wait: called, and timed, after each function: waits for what it left running on a device.
        unmeasured: calls before the measured one in each turn, which find the caches full of another's data.
        before: called with a function's name before each of its calls, and not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):  # the first two warm up
        for name, function in functions.items():
            for _ in range(unmeasured):
                before(name)
                function()
            before(name)
            wait()
            start = time.perf_counter()
            function()
            wait()
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def wait_for(device: str) -> Callable[[], object]:
    """What to call to have a device finish its work."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


class ProcessError(RuntimeError):
    """A process of its own failed; one line says which and why."""


def in_a_process(module: str, arguments: Sequence[str]) -> Any:
    """What `python -m module` prints as JSON on its last line: a process of its own has a peak memory of its own.

    Raises:
        ProcessError: it failed; the last line it wrote to its error stream.
    """
    result = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise ProcessError(f"{module} {' '.join(arguments)}: {lines[-1]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def peak_gib(pid: int | None = None) -> float:
    """The most memory that this process, or a running one, has held so far."""
    if pid is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
