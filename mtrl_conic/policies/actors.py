"""What acts in a run, out of its checkpoints: for evaluation and use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl_conic.agents.protocol import Agent
from mtrl_conic.runs.checkpoint import UNSEALED, Checkpoints, is_sealed, read_file
from mtrl_conic.settings.compose import load_stored, typed
from mtrl_conic.settings.errors import ConfigError, first_line
from mtrl_conic.settings.schema import TrainConfig

CHECKPOINTS = ("best", "last")
_ATTEMPTS = 10  # to read a checkpoint before a training at work drops it


class Weights(NamedTuple):
    """What acts, out of a checkpoint."""

    file: str  # its name
    step: int  # environment steps per task
    state: dict[str, Any]  # as the agent's `policy_state` gives it: tensors [S, ...] in dicts
    messages: tuple[str, ...]  # what was wrong with newer ones, or what to know of this one


class Actors:
    """What acts, for some of a run's seeds, whatever its agent.

    Args:
        config: the run's settings; `device` says where to compute.
        weights: of all its seeds.
        seeds: the S seeds wanted.

    Raises:
        ConfigError: the run has no such seed, or its weights do not fit its settings.
    """

    def __init__(self, config: TrainConfig, weights: Weights, seeds: Sequence[int]) -> None:
        self.tasks, self.seeds, self.step = config.make_environments().tasks, list(seeds), weights.step
        setting = replace(config.setting(), seeds=self.seeds)
        self.action_repeat = setting.action_repeat
        self.device, self.observation_size = torch.device(setting.device), setting.observation_size
        rows, agent = [_row(config.seeds, seed) for seed in self.seeds], config.make_agent()
        try:
            state = _rows_of(weights.state, None if self.seeds == config.seeds else rows, len(config.seeds))
            self.act = agent.policy(setting, state)
        except (ValueError, LookupError) as error:
            what = f"{weights.file} does not fit the settings in config.yaml"
            raise ConfigError(f"{what}: they are of another run") from error

    def among(self, seeds: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Acts for some of the seeds only, rounded as among all of them: batched products round by their size.

        Raises:
            ConfigError: there is no such seed.
        """
        rows = [_row(self.seeds, seed) for seed in seeds]
        if list(seeds) == self.seeds:
            return self.act

        def act(observation: Tensor) -> Tensor:
            whole = observation.new_zeros(len(self.seeds), *observation.shape[1:])
            whole[rows] = observation
            return self.act(whole)[rows]

        return act


def _rows_of(state: Any, rows: list[int] | None, num_seeds: int) -> Any:
    """Some seeds' part of tensors [S, ...] in dicts; all of it without `rows`."""
    if isinstance(state, dict):
        return {key: _rows_of(value, rows, num_seeds) for key, value in state.items()}
    if len(state) != num_seeds:
        raise ValueError(f"{len(state)} rows for {num_seeds} seeds")
    return state if rows is None else state[rows]


def stored_config(run: str | Path) -> TrainConfig:
    """The settings of a run as far as what acts depends on them: neither combiner nor device is looked at.

    Raises:
        ConfigError: they cannot be read.
    """
    try:
        config = typed(load_stored(Path(run).expanduser(), "run"))
        config.make_agent()
        config.make_environments()
    except ConfigError as error:
        raise error if str(error).startswith("run=") else ConfigError(f"run={run}: config.yaml: {error}") from error
    if not config.seeds:
        raise ConfigError(f"run={run}: config.yaml: it has no seeds")
    return config


def read_weights(run: str | Path, checkpoint: str, agent: Agent) -> Weights:
    """What acts in the best checkpoint of a run, or in the last one that can be read.

    Args:
        run: the run folder.
        checkpoint: "best" or "last".
        agent: the run's, which need not be set up.

    Raises:
        ConfigError: there is none.
    """
    if checkpoint not in CHECKPOINTS:
        raise ConfigError(f"checkpoint={checkpoint}: must be one of {', '.join(CHECKPOINTS)}")
    folder = Path(run).expanduser() / "checkpoints"
    for _ in range(_ATTEMPTS):
        try:
            return _best(folder, agent) if checkpoint == "best" else _last(folder, agent)
        except FileNotFoundError:  # a training at work has dropped it since it was listed
            continue
    raise ConfigError(f"checkpoint={checkpoint}: the files in {folder} vanish before they can be read")


def _best(folder: Path, agent: Agent) -> Weights:
    path = folder / "best.pt"
    if not path.is_file():
        raise ConfigError(f"checkpoint=best: no {path}, as before the first evaluation; try checkpoint=last")
    try:
        state = read_file(path)
        # Versions before 0.2 wrote the actor's parameters alone.
        policy = state["policy"] if "policy" in state else agent.policy_state({"actor": {"params": state["actor"]}})
        return Weights(path.name, state["step"], policy, _note(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever is wrong with the file
        raise ConfigError(f"checkpoint=best: {path} is damaged ({_reason(error)})") from error


def _last(folder: Path, agent: Agent) -> Weights:
    messages: list[str] = []
    for step in sorted(Checkpoints(folder).steps(), reverse=True):
        path = folder / f"step_{step}.pt"
        try:
            state = read_file(path)
            policy = agent.policy_state(state["agent"])
            return Weights(path.name, state["step"], policy, (*messages, *_note(path)))
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever is wrong with the file, the one before it may be whole
            messages.append(f"{path.name} is damaged ({_reason(error)}), going back to the one before it")
    raise ConfigError(f"checkpoint=last: no usable checkpoint in {folder}" + "".join(f"; {m}" for m in messages))


def _note(path: Path) -> tuple[str, ...]:
    return () if is_sealed(path) else (f"{path.name} {UNSEALED}",)


def _reason(error: Exception) -> str:
    return first_line(error)[:120]


def _row(seeds: list[int], seed: int) -> int:
    if seed not in seeds:
        raise ConfigError(f"seed {seed}: the run has {', '.join(map(str, seeds))}")
    return seeds.index(seed)
