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

from mtrl_conic.runs.command import answer
from mtrl_conic.runs.outputs import check_folder
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.paths import expand
from mtrl_conic.system import console
from mtrl_conic.system.signals import Signals

if TYPE_CHECKING:
    from mtrl_conic.settings.schema import TrainConfig
    from mtrl_conic.training.sweep_runs import SweepRun

USAGE = """\
usage: sweep_seeds.sh "<combiners>" "<seeds>" <folder> [jobs=N] [--config-dir DIR] [key=value ...]
       sweep_seeds.sh variants=<file> "<seeds>" <folder> [only=NAMES] [jobs=N] [--config-dir DIR] [key=value ...]

Trains each combiner, or each variant of a file, with each entry of <seeds>, one process and one run folder per pair:

  "ls cagrad" "0 1 2" runs/s     six runs of one seed: runs/s/ls/seed_0, runs/s/ls/seed_1, ...
  "ls cagrad" "0,1,2" runs/s     two runs with all three seeds in one process: runs/s/ls/seeds_0_1_2, ...
  "ls cagrad" "0,1 2,3" runs/s   four runs of two seeds
  variants=fast_ablation "0,1,2" runs/a   runs/a/base/seeds_0_1_2, runs/a/action_repeat_2/seeds_0_1_2, ...

A file of variants is configs/sweep/<file>.yaml, DIR/sweep/<file>.yaml, or a path that ends in .yaml. It holds settings
of all variants, which the command line may change, and what each variant changes. only=base,action_repeat_2 runs some
of them, by the names of their folders.

jobs=N (1) runs N processes at a time; with more than one, what they print goes to <run folder>.log.
hydra/launcher=joblib, submitit_slurm or ray, with hydra.launcher.<setting>=..., start them elsewhere (docs/sweeps.md).
report=DIR makes the report of the whole folder at the end (docs/report.md).
Other arguments go to every run: `python -m mtrl_conic.train --help` lists them.

Started again it does what is missing: complete runs are left as they are, interrupted ones resumed. All settings
are checked before the first run starts. When a run fails the others go on.

exit status: 0 done, 1 some run failed (they are listed), 2 bad input, 129, 130 or 143 interrupted (with checkpoints)
"""


@dataclass(eq=False)
class Job:
    """A run of the sweep as a process."""

    run: SweepRun
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    @property
    def name(self) -> str:
        """Of its folder, in the sweep's."""
        return self.run.name

    @property
    def config(self) -> TrainConfig:
        """Its settings."""
        return self.run.config


@dataclass
class Outcome:
    """What became of the runs that were to do."""

    failed: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


_OWN = ("jobs", "only", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments:
        print(USAGE, end="", file=sys.stderr)
        return 2
    return answer(arguments, lambda: USAGE, _sweep)


def _sweep(arguments: list[str]) -> int:
    from mtrl_conic.training.sweep_runs import list_runs

    if len(arguments) < 3:
        raise ConfigError("combiners (or variants=FILE), seeds and a folder are needed; --help explains")
    what, seeds, folder, *rest = arguments
    folder = _path("the sweep's folder", folder)
    jobs, only, report = (_last(key, rest) for key in _OWN)
    at_a_time = _jobs("1" if jobs is None else jobs)
    out = None if report is None else Path(_path("report=: the folder", report))
    launcher = [each for each in rest if each.lstrip("+~").startswith(("hydra/", "hydra."))]
    if launcher and jobs:
        raise ConfigError(f"jobs={jobs}: the launcher has its own setting, such as hydra.launcher.n_jobs of joblib")
    others = [each for each in rest if each not in launcher and each.partition("=")[0] not in _OWN]
    runs = list_runs(what, seeds.split(), folder, others, only)
    for setting in dict.fromkeys(setting for run in runs for setting in run.replaced):
        owners = dict.fromkeys(run.name.partition("/")[0] for run in runs if setting in run.replaced)
        print(f"note: {setting} is not for {', '.join(owners)}: a variant's own settings come last", file=sys.stderr)
    if out is not None and not out.is_relative_to(folder):  # the sweep's own folder is seen to before the first run
        check_folder("report", out)
    if launcher:
        from mtrl_conic.training.multirun import launch_listed

        status = launch_listed(runs, folder, launcher)
    else:
        status = Sweep([Job(run) for run in runs], Path(folder), at_a_time).run()
    return status if out is None or status > 1 else _report(runs, folder, out) or status


def _report(runs: Sequence[SweepRun], folder: str, out: Path) -> int:
    """Make the report of whatever has been evaluated; returns its exit status."""
    from mtrl_conic.report.__main__ import main as report

    records = (Path(str(run.config.run_dir), "evaluations.jsonl") for run in runs)
    if not any(path.is_file() and path.stat().st_size for path in records):
        print("no report: nothing has been evaluated", file=sys.stderr)
        return 0
    return report([f"runs={folder}", f"out={out}"])


def _path(what: str, folder: str) -> str:
    try:
        return expand(folder)
    except ValueError as error:
        raise ConfigError(f"{what} {error}") from error


def _last(key: str, arguments: Sequence[str]) -> str | None:
    """The value that was given last, as Hydra has it."""
    given = [each.partition("=")[2] for each in arguments if each.startswith(f"{key}=")]
    return given[-1] if given else None


def _jobs(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise ConfigError(f"jobs={text}: must be a number from 1 to 9999")
    return int(text)


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
        command = [sys.executable, "-m", "mtrl_conic.train", *run.run.arguments, "--no-summary"]
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
