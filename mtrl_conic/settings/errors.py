"""What is wrong with a setting, in one line; imports nothing that takes time."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting that cannot be used: one line that names it and says what is allowed."""


class UnknownSettingError(ConfigError):
    """A setting that the chosen class does not have; `key` is its full name."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)  # the only argument, so that it can be pickled
        self.key = key


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty, or else its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
