"""Training from a program or a notebook of one's own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.system.signals import STOPPING
from mtrl_conic.training import command


class TrainingError(RuntimeError):
    """A run that did not end as it should, or of which a seed stopped learning; standard error says why."""


def train(arguments: Sequence[str] = (), **settings: Any) -> Path:
    """Train in this process as `mtrl-conic train` does, for one run.

    The number of torch's threads and the precision of its products are the run's from then on. Ctrl-C has a checkpoint
    written, as with the command, where this is called in the main thread.

    Args:
        arguments: as on the command line: `["env=toy", "eval.every=500"]`, also `resume=RUN_DIR` and `--config-dir`.
        settings: the same by keyword, after them: `env="toy", seeds=[0, 1], run_dir="runs/x"`.

    Returns:
        The run folder, for `load_runs` and `load_policy`. A run out of `max_wall_seconds` is not complete;
        `train(resume=folder)` goes on with it.

    Raises:
        ConfigError: a ValueError: a setting cannot be used; nothing was written.
        TrainingError: the run failed, or a seed stopped learning.
        KeyboardInterrupt: a signal asked to stop, and a checkpoint was written.
    """
    words = [arguments] if isinstance(arguments, str) else list(arguments)
    asked = command.split([*words, *(f"{key}={_text(value)}" for key, value in settings.items())])
    if asked.multirun or asked.show:
        raise ConfigError("--multirun and --cfg: only on the command line")
    command.check(asked)
    config = asked.settings()
    with _own_handlers():
        status = command.train(asked, config)
    if status > 128:
        raise KeyboardInterrupt
    if status:
        raise TrainingError(f"{config.run_dir}: the run ended with an error, see what was printed")
    return Path(str(config.run_dir))


def _text(value: Any) -> str:
    """A value of Python's as the command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    return str(value)


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Give the program its signal handlers back afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
