"""Threads of the updates on the CPU: as many as their work is worth, and the same again when a run is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.system.cores import available_cores

# Multiplications of one forward pass that are worth a thread. The largest of its products is about a third of them: a
# millisecond of one core, ten times what it takes to wake a thread and to wait for it where other processes want the
# cores as well. The default agent has 4.3e8 on MT10 and 1.2e8 on the toy environment, experiment=cpu has 2.4e7.
_WORTH_A_THREAD = 1e8
# The same where the environments wait for the update, so that the cores are free. experiment=fast has 1e8.
_WORTH_WHILE_OTHERS_WAIT = 3e7


def threads_of(config: TrainConfig, run_dir: Path | None = None) -> int:
    """The threads of an update: those of the settings, else those the run had before, else what its work is worth.

    Another number rounds differently, so that a run would not go on to the last bit. But more threads than cores
    would stand in each other's way: a run that had more starts afresh with what there is here.

    Args:
        run_dir: the run folder; its provenance says what it had.
    """
    if config.threads is not None:
        return config.threads
    before = recorded_threads(run_dir) if run_dir is not None and config.torch_device().type == "cpu" else None
    return before if before is not None and before <= available_cores() else _worthwhile(config)


def _worthwhile(config: TrainConfig) -> int:
    """Of all cores: where there is work for several threads the workers sleep for most of it, and need none of them."""
    if config.torch_device().type != "cpu":
        return 1
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    cores = min(available_cores(), int(limit)) if limit.isdecimal() else available_cores()
    agent = config.make_agent()
    worth = _WORTH_A_THREAD if agent.overlaps else _WORTH_WHILE_OTHERS_WAIT
    return max(1, min(cores, int(agent.work(config.setting()) / worth)))


def recorded_threads(run_dir: Path) -> int | None:
    """With how many threads the last piece of a run computed its updates; None where it did not on a CPU."""
    try:
        piece = json.loads((run_dir / "provenance.json").read_text())["pieces"][-1]
        on_cpu, threads = str(piece["device"]).startswith("cpu"), int(piece["torch_threads"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return threads if on_cpu and threads > 0 else None
