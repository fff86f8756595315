"""Weights & Biases beside TensorBoard: `logger=wandb`."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from mtrl_conic.runs.files import write_whole

OFFLINE_HINT = "WANDB_MODE=offline does without"


@cache
def check_access() -> None:
    """See that the package is there and that it may write, without a question to the user; once per process.

    Raises:
        RuntimeError: the package is not installed, or nobody is logged in; the message is one line.
    """
    try:
        wandb = _package()
    except ImportError as error:
        raise RuntimeError('the package wandb is missing; pip install "mtrl_conic[wandb]"') from error
    try:
        mode = wandb.setup().settings.mode
    except ValueError as error:  # pydantic's
        raise RuntimeError(_refused_setting(error)) from error
    if mode != "online":
        return
    try:
        known = wandb.login(prompt=False)
    except wandb.Error as error:
        raise RuntimeError(f"{str(error).splitlines()[0]}; {OFFLINE_HINT}") from error
    if not known:
        raise RuntimeError(f"not logged in: run `wandb login` or set WANDB_API_KEY; {OFFLINE_HINT}")


class WandbWriter:
    """One W&B run per seed, grouped by the run folder; its files lie in the run folder.

    WANDB_PROJECT (mtrl_conic), WANDB_ENTITY and WANDB_MODE are W&B's own. Values are sent at `flush`, which the trainer
    calls before each checkpoint: what a killed run loses was not sent, so a resumed one does not repeat it.

    Args:
        run_dir: the run folder, with config.yaml and provenance.json.
        seeds: the S seeds.
    """

    def __init__(self, run_dir: Path, seeds: Sequence[int]) -> None:
        wandb = _package()
        config, group = _stored(run_dir), _group(run_dir)
        self._runs = [
            wandb.init(
                project=os.environ.get("WANDB_PROJECT", "mtrl_conic"),
                dir=str(run_dir),
                id=f"{group}_{seed}",
                name=f"{run_dir.resolve().name}_seed_{seed}",
                group=f"{run_dir.resolve().name}_{group}",
                config={**config, "seed": seed},
                resume="allow",
                reinit="create_new",  # the seeds' runs are open beside each other
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, save_code=False),
            )
            for seed in seeds
        ]
        for run in self._runs:
            run.define_metric("step")
            run.define_metric("*", step_metric="step")
        self._pending: list[tuple[int, dict[str, NDArray[np.float64]]]] = []

    def add(self, step: int, values: Mapping[str, NDArray[np.float64]]) -> None:
        """Take values [S] each; NaN stands for "nothing to report"."""
        self._pending.append((step, dict(values)))

    def flush(self) -> None:
        """Send what was taken."""
        for step, values in self._pending:
            for row, run in enumerate(self._runs):
                finite = {key: float(value[row]) for key, value in values.items() if np.isfinite(value[row])}
                run.log({"step": step, **finite})
        self._pending.clear()

    def close(self) -> None:
        self.flush()
        for run in self._runs:
            run.finish()


def _package() -> Any:
    """The package, its cache in a folder that goes with the process: nothing is written outside the run folder."""
    if "WANDB_CACHE_DIR" not in os.environ:
        os.environ["WANDB_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="mtrl_conic_wandb_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    import wandb

    return wandb


def _refused_setting(error: ValueError) -> str:
    """The environment variable that W&B does not take, and why; its settings are read from WANDB_<NAME>."""
    first = error.errors()[0] if hasattr(error, "errors") else {}
    name = f"WANDB_{'_'.join(map(str, first.get('loc', ()))).upper()}"
    value = f"{name}={os.environ[name]}: " if name in os.environ else ""
    return value + str(first.get("msg", error)).partition("\n")[0]


def _group(run_dir: Path) -> str:
    """What the ids of the run's seeds begin with: drawn once, then read from the run folder."""
    path = run_dir / "wandb" / "group.txt"
    if not path.is_file():
        write_whole(path, uuid.uuid4().hex[:8])
    return path.read_text()


def _stored(run_dir: Path) -> dict[str, Any]:
    """Settings and provenance as the run folder has them."""
    settings = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    assert isinstance(settings, dict)
    return {**settings, "provenance": json.loads((run_dir / "provenance.json").read_text())["pieces"][-1]}
