"""The command line of the benchmark, checked before anything is measured."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl_conic.settings.arguments import path

PARTS = ("updates", "envs", "loop", "growth", "profile", "peers", "networks")
# Widths of the three hidden layers of `networks`, by the trunk's parameters in millions.
WIDTHS = {6: 1700, 25: 3500, 34: 4096}

_ABOUT = """\
Measures environments and updates. Run it with nothing else running: it reports medians and, as absolute times depend
on the machine, ratios of what was measured in turns."""
_MEANING = """\
parts:
  updates   one update of each combiner, beside LS and beside the update's matrix products alone
  envs      one environment step beside its physics; our vector and the registered one beside gymnasium's; start-up
  loop      environments, update and the whole training loop; evaluation; memory; hours of 2M steps per task
  growth    an update against the number of tasks and seeds, batch and width
  profile   where the time of an update goes, by operator or kernel
  peers     the same update in plain modules: one backward pass per task, and TorchJD (extra: torchjd)
  networks  a supervised step of large networks whose tasks share their inputs: seconds and peak memory"""


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


def parse(arguments: Sequence[str] | None) -> Options:
    """Read the command line; exits with status 2 and one line where something cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m mtrl_conic.benchmark",
        usage="%(prog)s [parts ...] [options]",
        description=_ABOUT,
        epilog=_MEANING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("parts", nargs="*", default=[], help=f"of {', '.join(PARTS)} (default: updates and envs)")
    every = "comma list, compared with the first (default: ls, then all but torchjd)"
    add("--combiners", default="", help=f"updates, networks: {every}")
    add("--combiner", default="conicgrad", help="loop, growth, profile: the method (default: conicgrad)")
    add(
        "--env",
        default="mt10",
        choices=("mt10", "mt25", "mt50", "toy"),
        help="its sizes and environments are measured (default: mt10)",
    )
    add("--seeds", default="", help="updates, loop, profile: numbers of seeds (default: 1, with loop 1,2,5,10)")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="updates, loop, growth, profile: where (default: cpu)")
    add("--matmul-precision", default="highest", choices=("highest", "high", "medium"), help="high is TF32 on a GPU")
    add("--workers", type=int, default=2, help="envs: processes (default: 2)")
    add("--sizes", default="6,25,34", help="networks: millions of parameters, of 6, 25 and 34")
    add("--rounds", type=int, default=15, help="measurements of each, whose median counts (default: 15)")
    add("--json", type=path, help="write the results with their provenance here")
    add("--picture", type=path, help="networks: draw the results here (png or svg)")
    found = parser.parse_args(arguments)
    parts = found.parts or ["updates", "envs"]
    for part in parts:
        if part not in PARTS:
            parser.error(f"{part}: no such part; there are {', '.join(PARTS)}")
    for name in ("rounds", "workers"):
        if getattr(found, name) < 1:
            parser.error(f"--{name} {getattr(found, name)}: at least 1 is needed")
    _check_outputs(parser, found)
    _check_device(parser, found.device)
    _combiners(parser, found.combiner)
    return Options(
        parts,
        _combiners(parser, found.combiners),
        found.combiner,
        found.env,
        _seeds(parser, found.seeds or ("1,2,5,10" if "loop" in parts else "1")),
        found.device,
        found.matmul_precision,
        found.workers,
        _sizes(parser, found.sizes),
        found.rounds,
        found.json,
        found.picture,
    )


def _check_outputs(parser: argparse.ArgumentParser, found: argparse.Namespace) -> None:
    """See that what comes last will not fail for a reason known from the start."""
    for name in ("json", "picture"):
        wanted = getattr(found, name)
        if wanted is None:
            continue
        if not os.path.isdir(wanted.parent):
            parser.error(f"--{name} {wanted}: there is no folder {wanted.parent}")
        if os.path.isdir(wanted):
            parser.error(f"--{name} {wanted}: is a folder")
        try:
            wanted.exists()  # raises where the name is too long
            tempfile.TemporaryFile(dir=wanted.parent).close()
        except OSError as error:
            parser.error(f"--{name} {wanted}: cannot be written ({error.strerror})")


def _check_device(parser: argparse.ArgumentParser, device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no usable CUDA device; use cpu")


def _combiners(parser: argparse.ArgumentParser, text: str) -> list[str]:
    from mtrl_conic.settings.compose import CONFIG_DIR

    known = sorted(path.stem for path in (CONFIG_DIR / "combiner").glob("*.yaml"))
    if not text:
        return ["ls", *(name for name in known if name not in ("ls", "torchjd"))]
    for name in text.split(","):
        if name not in known:
            parser.error(f"{name!r}: no such combiner; there are {', '.join(known)}")
    return text.split(",")


def _seeds(parser: argparse.ArgumentParser, text: str) -> list[int]:
    counts = text.split(",")
    if not all(re.fullmatch(r"[1-9][0-9]{0,3}", count) for count in counts):
        parser.error(f"--seeds {text}: numbers of seeds are needed, such as 1,10")
    return [int(count) for count in counts]


def _sizes(parser: argparse.ArgumentParser, text: str) -> list[int]:
    for size in text.split(","):
        if size not in map(str, WIDTHS):
            parser.error(f"--sizes {size}: there are {', '.join(map(str, WIDTHS))}")
    return [int(size) for size in text.split(",")]
