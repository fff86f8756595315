"""The run folder: made, locked, and told where its numbers come from."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from mtrl_conic.runs.files import WriteError, check_disk, write_whole
from mtrl_conic.runs.lock import RunLocked, lock
from mtrl_conic.settings.changeable import of_agent
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.settings.threads import recorded_threads, threads_of
from mtrl_conic.system.matmul import set_matmul_precision
from mtrl_conic.system.provenance import provenance


@contextmanager
def open_run(config: TrainConfig, resume: bool) -> Iterator[Path]:
    """Make (or reopen) and lock the run folder of `config`, and record settings and provenance in it.

    Raises:
        ConfigError: the folder is not empty, in use, or cannot be written; none was made.
        WriteError: the disk is full; a new folder is gone again.
    """
    run_dir = Path(config.run_dir) if config.run_dir else _fresh_name(config)
    fresh = not os.path.lexists(run_dir)
    try:
        if not resume and run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise ConfigError(f"run_dir={run_dir}: exists and is not empty; choose another or give resume={run_dir}")
        run_dir.mkdir(parents=True, exist_ok=True)
        descriptor = lock(run_dir)
    except RunLocked as error:
        raise ConfigError(f"run_dir={error}") from error
    except OSError as error:
        check_disk(run_dir, error)
        raise ConfigError(f"run_dir={run_dir}: cannot be written ({error.strerror})") from error
    try:
        config.run_dir = str(run_dir)
        _set_threads(config, run_dir)  # before provenance records them
        set_matmul_precision(config.matmul_precision, config.torch_device())
        try:
            _record(config, run_dir)
        except WriteError:
            if fresh:
                shutil.rmtree(run_dir, ignore_errors=True)
            raise
        yield run_dir
    finally:
        os.close(descriptor)


def _set_threads(config: TrainConfig, run_dir: Path) -> None:
    before, threads = recorded_threads(run_dir), threads_of(config, run_dir)
    if config.threads is None and config.torch_device().type == "cpu" and before not in (None, threads):
        print(
            f"note: threads={threads}, and {before} before, as there are fewer cores: rounding differs", file=sys.stderr
        )
    torch.set_num_threads(threads)


def _fresh_name(config: TrainConfig) -> Path:
    # Either may be in a folder of the user's.
    env, method = (name.replace("/", "_") for name in (config.env_name, config.combiner_name))
    stem = f"{env}_{method}_{datetime.now():%Y%m%d_%H%M%S}"
    candidates = (Path("runs", stem + suffix) for suffix in ("", *(f"_{n}" for n in range(2, 1000))))
    return next(path for path in candidates if not path.exists())


def _record(config: TrainConfig, run_dir: Path) -> None:
    _note_agent(config, run_dir / "config.yaml")
    write_whole(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
    path = run_dir / "provenance.json"
    pieces = _pieces(path)
    parameters = config.make_agent().parameter_counts(config.setting())
    pieces.append(provenance(config.torch_device()) | {"parameters_per_seed": parameters})
    _note_threads(config, pieces)
    write_whole(path, json.dumps({"pieces": pieces}, indent=2) + "\n")


def _note_agent(config: TrainConfig, path: Path) -> None:
    """Say of a run that goes on with another agent's setting that it is not that of one which had it all along."""
    if not path.exists():
        return
    stored = OmegaConf.load(path)
    for key in of_agent(config.agent):
        before, now = OmegaConf.select(stored, f"agent.{key}"), config.agent.get(key)
        if before != now:
            print(f"agent.{key}: {now} from here on, {before} before", file=sys.stderr)


def _pieces(path: Path) -> list[dict[str, Any]]:
    """The pieces of a run so far; what is no piece, in a file that is damaged, is left out with a note."""
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    listed = found.get("pieces") if isinstance(found, dict) else None
    pieces = [piece for piece in listed if isinstance(piece, dict)] if isinstance(listed, list) else []
    if not isinstance(listed, list) or len(pieces) < len(listed):
        print(f"note: {path} is damaged; of the pieces before, it has {len(pieces)} from here on", file=sys.stderr)
    return pieces


def _note_threads(config: TrainConfig, pieces: list[dict[str, Any]]) -> None:
    """Say of a run that goes on with other threads that it is not that of one without the interruption."""
    if config.threads is None or len(pieces) < 2:
        return
    before, now = (piece.get("torch_threads") for piece in pieces[-2:])
    if before is not None and before != now and config.torch_device().type == "cpu":
        print(f"threads: {now}, {before} before: sums are rounded in another order from here on", file=sys.stderr)
