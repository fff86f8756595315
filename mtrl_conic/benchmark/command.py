"""The whole training command beside the bare vector of its environments."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mtrl_conic.benchmark.options import Options
from mtrl_conic.benchmark.timing import ProcessError, in_a_process, in_turns
from mtrl_conic.benchmark.vectors import RandomSteps, reset_warm
from mtrl_conic.runs.records import read_records
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.parts import make_spec
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.training.vectors import training_vector

_STEPS = 200  # vector steps in a measurement of the bare vector

_COLUMNS = {"seeds": 6, "steps": 12, "bare": 10, "waiting": 10, "command": 10, "ratio": 8, "per seed": 10, "success": 9}


def benchmark_command(options: Options) -> list[dict[str, Any]]:
    """A row per number of seeds: minutes of the command to its end, beside those of the bare vector.

    The bare vector is that of the run, stepped with random actions before and after it in a process of its own, as
    many steps as the run trains for; the run evaluates and writes checkpoints as well. What it waited for its
    environments in training is beside it: the physics of a policy that touches things takes longer than that of random
    actions. With several seeds the ratio per seed is that of one seed's bare vector to a seed's share of the command.
    """
    rows = []
    print(
        f"{options.title}, {options.combiner}, {options.device}, matmul_precision {options.matmul_precision}:"
        " minutes of the bare vector, of the run's waiting for its own, and of the whole command; ratio: bare / command"
    )
    print("".join(f"{name:>{width}}" for name, width in _COLUMNS.items()), flush=True)
    for count in options.seeds:
        row = {**options.chosen, "combiner": options.combiner, "seeds": count, **_row(options, count)}
        rows.append(row)
        waiting = "-" if row["waiting_minutes"] is None else f"{row['waiting_minutes']:.2f}"
        print(
            f"{count:>6}{row['steps_per_task']:>12}{row['bare_minutes']:>10.2f}{waiting:>10}"
            f"{row['command_minutes']:>10.2f}{row['ratio']:>8.2f}{row['ratio_per_seed']:>10.2f}{row['success']:>9.3f}",
            flush=True,
        )
    return rows


def _row(options: Options, num_seeds: int) -> dict[str, Any]:
    overrides = options.overrides(options.combiner, num_seeds)
    if options.steps is not None:
        overrides.append(f"steps_per_task={options.steps}")
    config = compose_config(overrides)
    before = _bare(options, overrides, config)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run_dir = Path(folder, "run")
        seconds = _train([*overrides, f"run_dir={run_dir}"])
        success, waiting = _final_success(run_dir), _waiting_minutes(run_dir)
    after = _bare(options, overrides, config)
    vector_steps = -(-config.steps_per_task // config.vector.steps_per_decision)
    physical = vector_steps * config.num_envs * config.vector.action_repeat
    bare, one = (sum(each) / 2 * vector_steps for each in zip(before, after, strict=True))
    return {
        "steps_per_task": config.steps_per_task,
        "physical_steps": physical,
        "workers": config.workers,
        "command_minutes": seconds / 60,
        "bare_minutes": bare / 60,
        "waiting_minutes": waiting,
        "bare_microseconds_per_step": [1e6 * each[0] * vector_steps / physical for each in (before, after)],
        "ratio": bare / seconds,
        "ratio_per_seed": one / (seconds / num_seeds),
        "success": sum(success.values()) / len(success),
        "success_of_seeds": success,
    }


def _bare(options: Options, overrides: Sequence[str], config: TrainConfig) -> tuple[float, float]:
    """Seconds per step of the bare vector now: of all seeds, and of one of them."""
    alone = [*(text for text in overrides if not text.startswith("seeds=")), f"seeds={config.seeds[:1]}"]
    several = len(config.seeds) > 1
    measured = [_in_a_process(options, each) for each in ((overrides, alone) if several else (overrides,))]
    return measured[0], measured[-1]


def _in_a_process(options: Options, overrides: Sequence[str]) -> float:
    seconds: float = in_a_process("mtrl_conic.benchmark.command", [str(options.rounds), *overrides])
    return seconds


def measure(overrides: Sequence[str], rounds: int) -> float:
    """Seconds per step of the training vector with random actions; the first resets to each goal come before."""
    config = compose_config(overrides)
    with training_vector(config, make_spec(config.make_environments(), config.workers)) as envs:
        reset_warm(envs, config.workers)
        return in_turns({"bare": RandomSteps(envs, _STEPS)}, rounds)["bare"] / _STEPS


def _train(overrides: Sequence[str]) -> float:
    """Seconds that the command takes, from its start to its end; what it prints goes to standard error.

    Raises:
        ProcessError: it failed.
    """
    # Ctrl-C reaches the command as well: it is ignored until the command has its own handler, as in a sweep.
    shell = ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
    command = [*shell, sys.executable, "-m", "mtrl_conic.train", *overrides, "--no-summary"]
    with _stopped_as_by_ctrl_c():
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2)
        try:
            status = process.wait()
        except BaseException:
            process.terminate()  # it writes a checkpoint and ends
            process.wait()
            raise
        seconds = time.perf_counter() - start
    if status:
        raise ProcessError(f"python -m mtrl_conic.train {' '.join(overrides)}: exit status {status}")
    return seconds


@contextmanager
def _stopped_as_by_ctrl_c() -> Iterator[None]:
    """Signals that would end this process, and leave the command behind, raise KeyboardInterrupt."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    ending = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ending:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


def _final_success(run_dir: Path) -> dict[int, float]:
    """Of each seed, at the last evaluation."""
    lines = read_records(run_dir / "evaluations.jsonl")
    last = max(line["step"] for line in lines)
    return {line["seed"]: line["success_rate"] for line in lines if line["step"] == last}


def _waiting_minutes(run_dir: Path) -> float | None:
    """How long training waited for its environments, up to the last line of metrics; None where there is none."""
    lines = read_records(run_dir / "metrics.jsonl")
    seconds = [line["time/env"] for line in lines if line["seed"] == lines[0]["seed"]]  # the same for all seeds
    return sum(seconds) / 60 if seconds else None


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[2:], int(sys.argv[1]))))
