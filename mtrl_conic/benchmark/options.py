"""The command line of the benchmark, checked before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl_conic.runs.outputs import check_file
from mtrl_conic.settings import arguments as read
from mtrl_conic.settings import paths
from mtrl_conic.settings.errors import ConfigError

PARTS = ("updates", "envs", "loop", "growth", "profile", "peers", "networks")
ENVS = ("mt10", "mt25", "mt50", "toy")
# Widths of the three hidden layers of `networks`, by the trunk's parameters in millions.
WIDTHS = {6: 1700, 25: 3500, 34: 4096}

USAGE = """\
usage: python -m mtrl_conic.benchmark [PART ...] [key=value ...]

Measures environments and updates. Run it with nothing else running: it reports medians and, as absolute times depend
on the machine, ratios of what was measured in turns.

parts (updates envs)
  updates   one update of each combiner, beside LS and beside the update's matrix products alone
  envs      one environment step beside its physics; our vector and the registered one beside gymnasium's; start-up
  loop      environments, update and the whole training loop; evaluation; memory; hours of 2M steps per task
  growth    an update against the number of tasks and seeds, batch and width
  profile   where the time of an update goes, by operator or kernel
  peers     the same update in plain modules: one backward pass per task, and TorchJD (extra: torchjd)
  networks  a supervised step of large networks whose tasks share their inputs: seconds and peak memory

settings (default)
  combiners=A,B,...       updates, networks: compared with the first (ls, then all but torchjd)
  combiner=NAME           loop, growth, profile: the method (conicgrad)
  env=mt10|mt25|mt50|toy  its sizes and environments are measured (mt10)
  seeds=N,N,...           updates, loop, profile: numbers of seeds (1; with loop 1,2,5,10)
  device=cpu|cuda         updates, loop, growth, profile: where (cpu)
  matmul_precision=highest|high|medium  high is TF32 on a GPU (highest)
  workers=N               envs: processes (2)
  sizes=N,N,...           networks: millions of parameters, of 6, 25 and 34 (6,25,34)
  rounds=N                measurements of each, whose median counts (15)
  json=PATH               write the results with their provenance here
  picture=PATH            networks: draw the results here (png or svg)

exit status: 0 done, 2 bad input, 1 other
"""


@dataclass
class Options:
    """What to measure, and how."""

    parts: list[str]
    combiners: list[str]
    combiner: str
    env: str
    seeds: list[int]
    device: str
    matmul_precision: str
    workers: int
    sizes: list[int]
    rounds: int
    json: Path | None
    picture: Path | None

    def overrides(self, combiner: str, num_seeds: int = 1) -> list[str]:
        """The settings of a training run that is measured."""
        precision = f"matmul_precision={self.matmul_precision}"
        seeds = f"seeds={[*range(num_seeds)]}"
        return [f"env={self.env}", f"combiner={combiner}", f"device={self.device}", precision, seeds]


def parse(arguments: Sequence[str]) -> Options:
    """Read the parts and the `key=value` arguments.

    Raises:
        ConfigError: one is unknown, given twice or of no use.
    """
    parts = [argument for argument in arguments if "=" not in argument]
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"{part}: no such part; there are {', '.join(PARTS)}")
    known = paths.choices("combiner")
    readers: dict[str, read.Reader] = {
        "combiners": read.listed(*known),
        "combiner": read.choice(*known),
        "env": read.choice(*ENVS),
        "seeds": _numbers_of_seeds,
        "device": read.choice("cpu", "cuda"),
        "matmul_precision": read.choice("highest", "high", "medium"),
        "workers": read.whole(1),
        "sizes": read.listed(*map(str, WIDTHS)),
        "rounds": read.whole(1),
        "json": read.path,
        "picture": read.path,
    }
    found = read.parse([argument for argument in arguments if "=" in argument], readers)
    for key in ("json", "picture"):  # what comes last must not fail for a reason known from the start
        if key in found:
            check_file(key, found[key])
    options = Options(
        parts=parts or ["updates", "envs"],
        combiners=found.get("combiners", ["ls", *(name for name in known if name not in ("ls", "torchjd"))]),
        combiner=found.get("combiner", "conicgrad"),
        env=found.get("env", "mt10"),
        seeds=found.get("seeds", [1, 2, 5, 10] if "loop" in parts else [1]),
        device=found.get("device", "cpu"),
        matmul_precision=found.get("matmul_precision", "highest"),
        workers=found.get("workers", 2),
        sizes=[*map(int, found.get("sizes", WIDTHS))],
        rounds=found.get("rounds", 15),
        json=found.get("json"),
        picture=found.get("picture"),
    )
    _check_device(options.device)
    return options


def _numbers_of_seeds(text: str) -> list[int]:
    try:
        counts = [*map(read.whole(1), text.split(","))]
        if max(counts) >= 10_000:
            raise ValueError
    except ValueError:
        raise ValueError("must be numbers of seeds below 10000, such as 1,10") from None
    return counts


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: this machine has no usable CUDA device; use cpu")
