"""What the commands have in common: help, and a line and an exit status for what goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from mtrl_conic.runs.files import WriteError
from mtrl_conic.settings.arguments import wants_help
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.system.foreign import exited


def answer(arguments: Sequence[str] | None, usage: Callable[[], str], work: Callable[[list[str]], int]) -> int:
    """Do a command's work, or show how to use it.

    Args:
        arguments: of the command; None for those of this process.
        usage: the text that `--help` asks for.
        work: is given the arguments; returns the exit status.

    Returns:
        The exit status: 2 after a line about input that cannot be used, 1 after one about a disk.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if wants_help(given):
        print(usage(), end="")
        return 0
    try:
        return work(given)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except WriteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SystemExit as error:
        print(f"error: {exited(error)}", file=sys.stderr)
        return 1
