"""What is plugged in as `env`: the tasks of a run, from a few settings."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtrl_conic.envs.base import EnvSpec
from mtrl_conic.envs.process import check_picklable
from mtrl_conic.system.foreign import FAILURES, told


@dataclass
class VectorConfig:
    """Settings of the vector that steps the environments, which stand beside the environments' own."""

    num_envs_per_task: int = 1
    workers: int | None = None
    timeout: float = 60.0
    horizon: int | None = None  # of training episodes
    action_repeat: int = 1

    @property
    def steps_per_decision(self) -> int:
        """Environment steps per task that a step of the vector counts as, also where an episode's end cuts it short."""
        return self.num_envs_per_task * self.action_repeat


class Environments(ABC):
    """The K tasks that are learned at once, before anything large is built.

    A subclass takes its settings as arguments of its constructor, refuses what it cannot use with a ValueError whose
    message starts with the argument's name, and sets the attributes below, all without seconds of work. `setup` does
    the rest.

    Attributes:
        tasks: the names of the K tasks, in order.
        observation_size, action_size: the entries of an observation and of an action, the same for all tasks.
        horizon: steps of the longest episodes.
        num_goals: how many ways there are for an episode of a task to start.
        least_memory: bytes that an environment takes at the least.
    """

    tasks: tuple[str, ...]
    observation_size: int
    action_size: int
    horizon: int
    num_goals: int
    least_memory: int = 1 << 10

    @abstractmethod
    def setup(self) -> EnvSpec:
        """What the vector builds the environments from; this may take its time."""

    def title(self, name: str) -> str:
        """A heading for reports and evaluations.

        Args:
            name: of the yaml file that these environments were chosen by.
        """
        return name

    def file_name(self, name: str) -> str:
        """The same for the name of a folder."""
        return name

    def facts(self) -> list[str]:
        """What a reader must know to compare results, in a few words each."""
        return [
            f"{self.num_goals} goals per task, one drawn at each reset of training",
            f"episodes of {self.horizon} steps",
            f"{self.observation_size} numbers observed",
        ]

    def drawn_by_mujoco(self) -> bool:
        """Whether drawing needs MuJoCo, and with it EGL or OSMesa.

        Raises:
            ValueError: they cannot be drawn; the message says why.
        """
        raise ValueError(f"{type(self).__name__} cannot be drawn")


def repeat_in_words(action_repeat: Any) -> str:
    """What a heading adds to an environments' title: nothing where each step has an action of its own."""
    return "" if action_repeat == 1 else f", action repeat {action_repeat}"


def check_environments(environments: Environments) -> None:
    """See that a class has set what `Environments` asks for.

    Raises:
        ValueError: naming the first attribute that is missing or wrong.
    """
    name = type(environments).__name__
    tasks = getattr(environments, "tasks", None)
    if not _are_names(tasks):
        raise ValueError(f"{name}.tasks must be a tuple of one or more different names, not {tasks!r}")
    for attribute in ("observation_size", "action_size", "horizon", "num_goals"):
        value = getattr(environments, attribute, None)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}.{attribute} must be a whole number of at least 1, not {value!r}")


def set_up(environments: Environments, workers: int) -> EnvSpec:
    """What the vector builds the environments from, with a look at whether it can.

    Args:
        workers: processes that it is sent to; 0 steps the environments in this one.

    Raises:
        ValueError: `setup` fails, or returns something else; one line that names the class.
    """
    name = f"{type(environments).__name__}.setup"
    try:
        spec = environments.setup()
    except FAILURES as error:  # the class may be a user's, and do anything
        raise ValueError(f"{name} fails ({told(error)})") from error
    if not callable(getattr(spec, "make", None)):
        raise ValueError(f"{name} must return an EnvSpec, which has a method make, not {spec!r}")
    for attribute in ("tasks", "observation_size", "action_size", "horizon", "num_goals"):
        wanted, found = (_comparable(getattr(each, attribute, None)) for each in (environments, spec))
        if found != wanted:
            raise ValueError(f"{name} must return an EnvSpec whose {attribute} is {wanted!r}, not {found!r}")
    if workers:
        check_picklable(spec)
    return spec


def chosen_tasks(tasks: Any, known: Sequence[str], of: str) -> tuple[str, ...]:
    """Some of the known tasks in the given order; all where `tasks` is None.

    Args:
        tasks: the value of the setting.
        known: what there is.
        of: whose tasks these are, for messages.

    Raises:
        ValueError: it is no list of different names, or there is no such task; the closest are named.
    """
    if tasks is None:
        return tuple(known)
    if not _are_names(tasks):
        raise ValueError(f"tasks must be a list of different names such as [{known[0]}], not {tasks!r}")
    for task in tasks:
        if task not in known:
            raise ValueError(f"tasks must be of {of}, not {task!r}; the closest are {closest(task, known)}")
    return tuple(tasks)


def _comparable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def closest(name: str, known: Sequence[str]) -> str:
    """The names that may have been meant, for a message."""
    return ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.0))


def _are_names(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return is_list and all(isinstance(name, str) and name for name in value) and len(set(value)) == len(value)
