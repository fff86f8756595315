"""Training from a program or a notebook of one's own."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.overrides import quote
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
    for word in words:
        if not isinstance(word, str):
            raise ConfigError(f"{word!r}: must be text of the form key=value; settings are also taken by keyword")
    asked = command.split([*words, *(_argument(key, value) for key, value in settings.items())])
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


_WORD_FOR_WORD = ("run_dir", "resume", "replay", "resume_from")  # the command quotes these itself


def _argument(key: str, value: Any) -> str:
    return f"{key}={value if key in _WORD_FOR_WORD and isinstance(value, str | os.PathLike) else _text(value)}"


def _text(value: Any) -> str:
    """A value of Python's as the command line has it; text such as "[0,1]" stays as it is."""
    if not isinstance(value, str) or re.fullmatch(r"[\w./:~+@-]*|[\[{].*|.*\$\{.*", value, re.DOTALL):
        return value if isinstance(value, str) else _nested(value)
    return quote(value)


def _nested(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{_key(key)}:{_nested(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_nested, value))}]"
    return quote(str(value)) if isinstance(value, str | os.PathLike) else str(value)


def _key(key: Any) -> str:
    """A key within a value, which Hydra takes without quotes only.

    Raises:
        ConfigError: it has characters that Hydra does not take there.
    """
    text = str(key)
    if not re.fullmatch(r"[\w/+.$%*@?|()\[\]{}:=, -]+", text, re.ASCII) or text != text.strip():
        raise ConfigError(f"{text!r}: cannot be a name in a setting; must be of letters, digits, blanks and /+.$%*@?|-")
    return re.sub(r"([()\[\]{}:=, ])", r"\\\1", text)


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
