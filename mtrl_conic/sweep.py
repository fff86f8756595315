"""Combiners or variants × seeds, each pair a process and a run folder: `python -m mtrl_conic.sweep`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.paths import expand
from mtrl_conic.system import console
from mtrl_conic.system.signals import Signals

if TYPE_CHECKING:
    from mtrl_conic.settings.schema import TrainConfig

USAGE = """\
usage: sweep_seeds.sh "<combiners>" "<seeds>" <folder> [jobs=N] [--config-dir DIR] [key=value ...]
       sweep_seeds.sh variants=<file> "<seeds>" <folder> [jobs=N] [--config-dir DIR] [key=value ...]

Trains each combiner, or each variant of a file, with each entry of <seeds>, one process and one run folder per pair:

  "ls cagrad" "0 1 2" runs/s     six runs of one seed: runs/s/ls/seed_0, runs/s/ls/seed_1, ...
  "ls cagrad" "0,1,2" runs/s     two runs with all three seeds in one process: runs/s/ls/seeds_0_1_2, ...
  "ls cagrad" "0,1 2,3" runs/s   four runs of two seeds
  variants=fast_ablation "0,1,2" runs/a   runs/a/base/seeds_0_1_2, runs/a/action_repeat_2/seeds_0_1_2, ...

A file of variants is configs/sweep/<file>.yaml, DIR/sweep/<file>.yaml, or a path that ends in .yaml. It holds settings
of all variants, which the command line may change, and what each variant changes.

jobs=N (1) runs N processes at a time; with more than one, what they print goes to <run folder>.log.
Other arguments go to every run: `python -m mtrl_conic.train --help` lists them.

Started again it does what is missing: complete runs are left as they are, interrupted ones resumed. All settings
are checked before the first run starts. When a run fails the others go on.

exit status: 0 done, 1 some run failed (they are listed), 2 bad input, 129, 130 or 143 interrupted (with checkpoints)
"""


@dataclass
class Job:
    """One process of the sweep."""

    name: str
    arguments: list[str]
    config: TrainConfig
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0


@dataclass
class Outcome:
    """What became of the runs that were to do."""

    failed: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    try:
        if len(arguments) < 3:
            raise ConfigError("combiners (or variants=FILE), seeds and a folder are needed; --help explains")
        what, seeds, folder, *rest = arguments
        folder = _path(folder)
        jobs = _jobs([each for each in rest if each.startswith("jobs=")])
        runs = list_runs(what, seeds.split(), folder, [e for e in rest if not e.startswith("jobs=")])
        return Sweep(runs, Path(folder), jobs).run()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _path(folder: str) -> str:
    try:
        return expand(folder)
    except ValueError as error:
        raise ConfigError(f"the sweep's folder {error}") from error


def _jobs(given: list[str]) -> int:
    text = given[-1].partition("=")[2] if given else "1"
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise ConfigError(f"jobs={text}: must be a number from 1 to 9999")
    return int(text)


def list_runs(what: str, seeds: Sequence[str], folder: str, rest: Sequence[str]) -> list[Job]:
    """All runs of a sweep, each with its settings checked.

    Args:
        what: names of combiners, or `variants=` and the name of a file.
        seeds: of each run, such as "0" or "0,1,2".
        folder: of the sweep.
        rest: the arguments that go to every run.

    Raises:
        ConfigError: one of them cannot be used.
    """
    of_variants = what.startswith(_VARIANTS)
    flags, given = _split(rest, "variant" if of_variants else "combiner")
    rows = _variants(what.removeprefix(_VARIANTS), flags) if of_variants else _combiners(what.split())
    _check_names("seeds", seeds)
    return [_run(row, group, folder, flags, given) for row in rows for group in seeds]


_VARIANTS = "variants="
_SET_HERE = ("seeds", "run_dir", "resume")


@dataclass(frozen=True)
class Row:
    """What runs of different seeds share: a combiner, or a variant.

    Args:
        folder: of these runs, in the sweep's.
        defaults: settings that the command line may change.
        changes: settings that make it what it is.
        said: before what cannot be used of them.
    """

    folder: str
    defaults: list[str]
    changes: list[str]
    said: str = ""


def _check_names(kind: str, names: Sequence[str]) -> None:
    if not names:
        raise ConfigError(f"{kind}: must name at least one")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{kind} {repeated[0]}: named twice")


def _combiners(names: Sequence[str]) -> list[Row]:
    _check_names("combiner", names)
    return [Row(name, [], [f"combiner={name}"]) for name in names]


def _variants(file: str, flags: Sequence[str]) -> list[Row]:
    from mtrl_conic.settings.overrides import quote
    from mtrl_conic.settings.variants import folder_name, read_variants

    found = read_variants(file, flags[1::2], ("variant", *_SET_HERE))
    return [
        Row(folder_name(name), found.settings, [*changes, f"variant={quote(name)}"], f"variant {name}: ")
        for name, changes in found.changes.items()
    ]


def _run(row: Row, group: str, folder: str, flags: list[str], given: list[str]) -> Job:
    from mtrl_conic.runs.records import check_logger
    from mtrl_conic.settings.compose import compose_config
    from mtrl_conic.settings.variants import layered

    if not re.fullmatch(r"(0|[1-9]\d*)(,(0|[1-9]\d*))*", group):
        raise ConfigError(f"seeds {group}: must be numbers, such as 0 or 0,1,2 for three in one process")
    name = f"{row.folder}/seed{'s' if ',' in group else ''}_{group.replace(',', '_')}"
    overrides = layered(row.defaults, given, row.changes)
    overrides += [f"seeds=[{group}]", f"run_dir={Path(folder, name)}"]
    try:
        config = compose_config(overrides, flags[1::2])
        check_logger(config.logger)
    except ConfigError as error:
        raise ConfigError(f"{row.said}{error}") from error
    return Job(name, [*flags, *overrides, "resume=auto"], config)


def _split(rest: Sequence[str], own: str) -> tuple[list[str], list[str]]:
    """Flags, as pairs, and overrides; `own` is a setting that the sweep sets, beside those of all sweeps."""
    flags: list[str] = []
    overrides: list[str] = []
    arguments = iter(rest)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            flags += ["--config-dir", value if equals else next(arguments, "")]
        elif flag.startswith("-"):
            raise ConfigError(f"{argument}: no such option; there are --config-dir and --help")
        elif flag in (own, *_SET_HERE):
            raise ConfigError(f"{argument}: the sweep sets {flag} itself")
        else:
            overrides.append(argument)
    return flags, overrides


class Sweep:
    """Runs `jobs` processes at a time until all are done or a signal comes."""

    def __init__(self, runs: list[Job], folder: Path, jobs: int) -> None:
        from mtrl_conic.runs.stage import Stage, look
        from mtrl_conic.training.seed_watch import read_halted

        self.waiting = [run for run in runs if look(run.config) is not Stage.COMPLETE]
        complete = [run for run in runs if run not in self.waiting]
        self.folder, self.jobs = folder, jobs
        self.running: list[Job] = []
        self.outcome = Outcome()
        for run in complete:
            self.outcome.failed += [f"{run.name}: {halted}" for halted in read_halted(Path(str(run.config.run_dir)))]
        self.stopped = Signals(self._stop)
        print(f"sweep folder: {folder} ({len(runs)} runs, {len(complete)} of them complete)", flush=True)

    def run(self) -> int:
        """Returns the exit status."""
        if self.waiting:
            self._make_folder()
        while self.running or (self.waiting and not self.stopped()):
            while self.waiting and len(self.running) < self.jobs and not self.stopped():
                self._start(self.waiting.pop(0))
            time.sleep(0.05)
            for run in [run for run in self.running if run.process and run.process.poll() is not None]:
                self.running.remove(run)
                self._ended(run)
        return self._report()

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot be written ({error.strerror})") from error

    def _start(self, run: Job) -> None:
        """Start in a shell that ignores SIGINT until the run has its own handler: Ctrl-C reaches it as well."""
        log = self._log(run) if self.jobs > 1 else None
        command = [sys.executable, "-m", "mtrl_conic.train", *run.arguments, "--no-summary"]
        print(f"start: {run.name}", flush=True)
        run.started = time.monotonic()
        shell = ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
        run.process = subprocess.Popen([*shell, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if log is not None:
            os.close(log)
        self.running.append(run)
        if self.stopped():  # it came in between
            run.process.send_signal(signal.SIGTERM)

    def _log(self, run: Job) -> int:
        """A descriptor for what the run prints; where it has no log the run goes on all the same."""
        path = self.folder / f"{run.name}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            print(f"note: no {path} ({error.strerror})", file=sys.stderr)
            return os.open(os.devnull, os.O_WRONLY)

    def _ended(self, run: Job) -> None:
        from mtrl_conic.runs.stage import Stage, look

        assert run.process is not None
        status, seconds = run.process.returncode, time.monotonic() - run.started
        if self.stopped():
            return
        if status != 0:
            log = f", see {self.folder / run.name}.log" if self.jobs > 1 else ""
            how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            self.outcome.failed.append(f"{run.name}: {how}{log}")
            print(f"failed: {self.outcome.failed[-1]}", file=sys.stderr, flush=True)
        elif look(run.config) is not Stage.COMPLETE:  # out of max_wall_seconds
            self.outcome.unfinished.append(run.name)
        print(f"end: {run.name} after {seconds:.0f} s, {len(self.waiting)} waiting", flush=True)

    def _stop(self, _: int) -> None:
        """Have the running ones write their checkpoints.

        They are sent SIGTERM: the terminal has sent SIGINT to all of them already, and a second one would end them.
        """
        for run in self.running:
            if run.process is not None:
                run.process.send_signal(signal.SIGTERM)

    def _report(self) -> int:
        if self.stopped.received is not None:
            print("stopped; the same command goes on", file=sys.stderr)
            return 128 + self.stopped.received
        if self.outcome.unfinished:
            print(f"out of time, the same command goes on: {' '.join(self.outcome.unfinished)}", file=sys.stderr)
        for line in self.outcome.failed:
            print(f"failed: {line}", file=sys.stderr)
        return 1 if self.outcome.failed else 0


if __name__ == "__main__":
    sys.exit(console.run(main))
