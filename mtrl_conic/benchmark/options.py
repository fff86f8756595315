"""The command line of the benchmark, checked before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrl_conic.runs.outputs import check_file
from mtrl_conic.settings import arguments as read
from mtrl_conic.settings import paths
from mtrl_conic.settings.errors import ConfigError

PARTS = ("updates", "agents", "envs", "loop", "command", "growth", "profile", "peers", "networks")
_OF_A_RUN = ("updates", "loop", "command", "profile")  # measure the run that an experiment describes
_FIRST_AGENT = "mtmhsac"
ENVS = ("mt10", "mt25", "mt50", "toy")
# Widths of the three hidden layers of `networks`, by the trunk's parameters in millions.
WIDTHS = {6: 1700, 25: 3500, 34: 4096}

USAGE = """\
usage: python -m mtrl_conic.benchmark [PART ...] [key=value ...]

Measures environments and updates. Run it with nothing else running: it reports medians and, as absolute times depend
on the machine, ratios of what was measured in turns.

parts (updates envs)
  updates   one update of each combiner, beside LS and beside the update's matrix products alone
  agents    one update of each agent with LS, beside the first agent's and beside its own matrix products alone
  envs      one environment step beside its physics; our vector and the registered one beside gymnasium's; start-up
  loop      environments, collecting, update and the whole training loop; evaluation; memory; hours of 2M steps per task
  command   the whole training command to its end, evaluations included, beside the bare vector of its environments
  growth    an update against the number of tasks and seeds, batch and width
  profile   where the time of an update goes, by operator or kernel
  peers     the same update in plain modules: one backward pass per task, and TorchJD (extra: torchjd)
  networks  a supervised step of large networks whose tasks share their inputs: seconds and peak memory

settings (default)
  agents=A,B,...          agents: compared with the first (mtmhsac, then all but brc, which is for GPUs)
  combiners=A,B,...       updates, networks: compared with the first (ls, then all but torchjd)
  combiner=NAME           loop, command, growth, profile: the method (conicgrad, or that of the experiment)
  experiment={experiments}
                          updates, loop, command, profile: measures its runs (those of no experiment)
  env=mt10|mt25|mt50|toy  its sizes and environments are measured (mt10, or that of the experiment)
  seeds=N,N,...           updates, agents, loop, command, profile: numbers of seeds (1; with loop 1,2,5,10)
  steps=N                 command: steps per task (those of the experiment)
  device=cpu|cuda         updates, agents, loop, command, growth, profile: where (cpu)
  matmul_precision=highest|high|medium  high is TF32 on a GPU (highest, or that of the experiment)
  workers=N               envs: processes (2)
  sizes=N,N,...           networks: millions of parameters, of 6, 25 and 34 (6,25,34)
  rounds=N                measurements of each, whose median counts (15)
  json=PATH               write the results with their provenance here
  picture=PATH            networks: draw the results here (png or svg)

Environments, threads and products of float32 matrices are those of the training run. The first resets to each goal,
which simulate it, are made before anything is measured. On-policy agents are measured by whole rollouts.

exit status: 0 done, 2 bad input, 130 stopped, 1 other
"""


@dataclass
class Options:
    """What to measure, and how; `env`, `combiner` and `matmul_precision` are the experiment's where not given."""

    parts: list[str]
    agents: list[str]
    combiners: list[str]
    experiment: str | None
    combiner: str
    env: str
    seeds: list[int]
    steps: int | None
    device: str
    matmul_precision: str
    workers: int
    sizes: list[int]
    rounds: int
    json: Path | None
    picture: Path | None

    @property
    def chosen(self) -> dict[str, str]:
        """What the settings of the runs were chosen by, for the results."""
        experiment = {} if self.experiment is None else {"experiment": self.experiment}
        return experiment | {"env": self.env}

    @property
    def title(self) -> str:
        """The same in words."""
        return ", ".join(self.chosen.values())

    def overrides(self, combiner: str, num_seeds: int = 1) -> list[str]:
        """The settings of a training run that is measured."""
        precision = f"matmul_precision={self.matmul_precision}"
        seeds = f"seeds={[*range(num_seeds)]}"
        chosen = [f"{key}={value}" for key, value in self.chosen.items()]
        return [*chosen, f"combiner={combiner}", f"device={self.device}", precision, seeds]


def usage() -> str:
    """What `--help` prints."""
    return USAGE.format(experiments="|".join(paths.choices("experiment")))


def parse(arguments: Sequence[str]) -> Options:
    """Read the parts and the `key=value` arguments.

    Raises:
        ConfigError: one is unknown, given twice or of no use.
    """
    parts = [argument for argument in arguments if "=" not in argument]
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"{part}: no such part; there are {', '.join(PARTS)}")
    known, agents = paths.choices("combiner"), paths.choices("agent")
    readers: dict[str, read.Reader] = {
        "agents": read.listed(*agents),
        "combiners": read.listed(*known),
        "combiner": read.choice(*known),
        "experiment": read.choice(*paths.choices("experiment")),
        "env": read.choice(*ENVS),
        "seeds": _numbers_of_seeds,
        "steps": read.whole(1),
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
    parts = parts or ["updates", "envs"]
    _check_use(parts, found)
    device = found.get("device", "cpu")
    _check_device(device)
    return Options(
        parts=parts,
        agents=found.get("agents", [_FIRST_AGENT, *(name for name in agents if name not in (_FIRST_AGENT, "brc"))]),
        combiners=found.get("combiners", ["ls", *(name for name in known if name not in ("ls", "torchjd"))]),
        experiment=found.get("experiment"),
        **_choices(found),
        seeds=found.get("seeds", [1, 2, 5, 10] if "loop" in parts else [1]),
        steps=found.get("steps"),
        device=device,
        workers=found.get("workers", 2),
        sizes=[*map(int, found.get("sizes", WIDTHS))],
        rounds=found.get("rounds", 15),
        json=found.get("json"),
        picture=found.get("picture"),
    )


def _check_use(parts: Sequence[str], found: Mapping[str, Any]) -> None:
    """See that the settings given are those of one of the parts, where measuring without them would mislead."""
    uses = {
        "experiment": _OF_A_RUN,
        "combiners": ("updates", "networks"),
        "combiner": ("loop", "command", "growth", "profile"),
        "steps": ("command",),
        "agents": ("agents",),
    }
    for key, of in uses.items():
        if key in found and not set(of) & set(parts):
            given = ",".join(found[key]) if isinstance(found[key], list) else found[key]
            raise ConfigError(f"{key}={given}: only with {' or '.join(of)}")
    if "agents" in parts and "experiment" in found:
        raise ConfigError(f"experiment={found['experiment']}: not with agents, which have settings of their own")
    if "envs" in parts and found.get("env") == "toy":
        raise ConfigError("env=toy: envs measures the environments of Meta-World: mt10, mt25 or mt50")


def _choices(found: Mapping[str, Any]) -> dict[str, str]:
    """Environments, method and products as given, or else those of the experiment, which is composed and checked."""
    choices = {"env": "mt10", "combiner": "conicgrad", "matmul_precision": "highest"}
    given = {key: found[key] for key in choices if key in found}
    if "experiment" in found:
        from mtrl_conic.settings.compose import compose_config

        length = {"steps_per_task": found["steps"]} if "steps" in found else {}
        settings = {"experiment": found["experiment"], **given, **length}
        config = compose_config([f"{key}={value}" for key, value in settings.items()])
        choices = {
            "env": config.env_name,
            "combiner": config.combiner_name,
            "matmul_precision": config.matmul_precision,
        }
    return choices | given


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
