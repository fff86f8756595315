"""The policy of a run for any gymnasium loop."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mtrl_conic.policies.actors import Actors, read_weights, stored_config
from mtrl_conic.settings.device import validate_device


def load_policy(run: str | Path, checkpoint: str = "best", seed: int | None = None, device: str = "cpu") -> Policy:
    """The policy that a run has learned.

    Args:
        run: the run folder; it may have been moved, and a training may be at work in it.
        checkpoint: "best", the weights of the best evaluation, or "last", the newest ones.
        seed: one of the run's seeds, each of which has a policy of its own (default: its first).
        device: "cpu", "cuda", "cuda:<n>" or "auto".

    Raises:
        ValueError: there is no such run, checkpoint, seed or device, or a file is damaged.
    """
    validate_device(device)
    config = stored_config(run)
    config.device = device
    weights = read_weights(run, checkpoint, config.make_agent())
    for message in weights.messages:
        warnings.warn(message, stacklevel=2)
    return Policy(Actors(config, weights, config.seeds[:1] if seed is None else [seed]))


class Policy:
    """One trained actor, called with observations and the task that they come from.

    It was trained, and is evaluated, with each action held for `action_repeat` steps of the environment. Where that is
    not 1, a loop of one's own does so too: it asks for an action, passes it to `env.step` so many times, or until the
    episode ends, and asks again with the last observation.

    Attributes:
        tasks: the names of the K tasks.
        step: environment steps per task that it has been trained for.
        action_repeat: environment steps that an action is held for.
        generator: draws the noise of `deterministic=False`; seeded with the run's seed.
    """

    def __init__(self, actors: Actors) -> None:
        self.tasks, self.step, self.action_repeat = actors.tasks, actors.step, actors.action_repeat
        self._actors = actors
        self.generator = torch.Generator(actors.device).manual_seed(actors.seeds[0])

    @torch.no_grad()
    def __call__(
        self,
        observation: ArrayLike,
        task: str | int | Sequence[str | int],
        deterministic: bool = True,
    ) -> NDArray[np.float32]:
        """The actions [A] or [N, A], between -1 and 1, for observations [O] or [N, O].

        Args:
            observation: as the environment gives it, without the task's one-hot.
            task: a name of `tasks` or its index; for [N, O] also a sequence of N of them, one a row.
            deterministic: the mean action; else one drawn from the policy.

        Raises:
            ValueError: there is no such task, or the observation has another shape.
        """
        rows = self._rows(observation)
        numbers = self._numbers(task, rows)
        inputs = torch.from_numpy(np.atleast_2d(rows)).to(self._actors.device)
        generator = None if deterministic else self.generator
        action = self._actors.act(inputs[None, :, None], numbers, generator)  # each row as a task of its own
        return action.reshape(*rows.shape[:-1], -1).cpu().numpy()

    def _rows(self, observation: ArrayLike) -> NDArray[np.float32]:
        rows, size = np.asarray(observation, dtype=np.float32), self._actors.observation_size
        if rows.ndim in (1, 2) and rows.shape[-1] == size:
            return rows
        message = f"the observation must have the shape [{size}] or [N, {size}], not {list(rows.shape)}"
        if rows.shape[-1:] == (size + len(self.tasks),):
            message += "; the policy adds the task's one-hot itself (use_one_hot=False)"
        raise ValueError(message)

    def _numbers(self, task: str | int | Sequence[str | int], rows: NDArray[np.float32]) -> list[int]:
        count = 1 if rows.ndim == 1 else len(rows)
        if isinstance(task, str | int | np.integer):
            return [self._number(task)] * count
        if rows.ndim == 1 or len(task) != count:
            raise ValueError(f"{len(task)} tasks for an observation of the shape {list(rows.shape)}: one, or one a row")
        return [self._number(one) for one in task]

    def _number(self, task: str | int) -> int:
        if isinstance(task, str):
            if task in self.tasks:
                return self.tasks.index(task)
            close = difflib.get_close_matches(task, self.tasks, n=1, cutoff=0.0)[0]
            raise ValueError(f"no task {task!r}: the policy knows {len(self.tasks)}, the closest is {close!r}")
        if not 0 <= task < len(self.tasks):
            raise ValueError(f"no task {task}: the index must be from 0 to {len(self.tasks) - 1}")
        return int(task)
