"""The trained actors of a run, out of its checkpoints: for evaluation and use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl_conic.networks.layout import Layout
from mtrl_conic.networks.multi_head import MultiHeadMLP
from mtrl_conic.runs.checkpoint import UNSEALED, Checkpoints, is_sealed, read_file
from mtrl_conic.settings.compose import load_stored, typed
from mtrl_conic.settings.errors import ConfigError, first_line
from mtrl_conic.settings.schema import TrainConfig

CHECKPOINTS = ("best", "last")
_ATTEMPTS = 10  # to read a checkpoint before a training at work drops it


class Weights(NamedTuple):
    """The actors' parameters out of a checkpoint."""

    file: str  # its name
    step: int  # environment steps per task
    params: Tensor  # [S, P]
    messages: tuple[str, ...]  # what was wrong with newer ones, or what to know of this one


class Actors:
    """What acts in `MultiTaskSAC`, for some of a run's seeds; needs neither the critics nor the combiner.

    Args:
        config: the run's settings; `device` says where to compute.
        weights: of all its seeds.
        seeds: the S seeds wanted.

    Raises:
        ConfigError: the run has no such seed, or its weights do not fit its settings.
    """

    def __init__(self, config: TrainConfig, weights: Weights, seeds: Sequence[int]) -> None:
        environments = config.make_environments()
        self.tasks, self.seeds, self.step = environments.tasks, list(seeds), weights.step
        self.device = config.torch_device()
        self.observation_size, action_size = environments.observation_size, environments.action_size
        agent, num_tasks = config.agent, len(self.tasks)
        self._one_hot = torch.eye(num_tasks, device=self.device) if agent.task_id_input else None
        input_size = self.observation_size + (num_tasks if agent.task_id_input else 0)
        sizes = (input_size, agent.hidden_sizes, 2 * action_size, num_tasks)
        self._net = MultiHeadMLP("actor", *sizes, agent.layer_norm)
        layout = Layout(self._net.parameters)
        if weights.params.shape != (len(config.seeds), layout.size):
            raise ConfigError(f"{weights.file} does not fit the settings in config.yaml: they are of another run")
        rows = [_row(config.seeds, seed) for seed in self.seeds]
        params = weights.params if self.seeds == config.seeds else weights.params[rows]
        self._views = layout.views(params.to(self.device))

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """Deterministic actions [S, K, N, A] for observations [S, K, N, O], as `MultiTaskSAC.act` gives them."""
        return self.outputs(observation).chunk(2, dim=-1)[0].tanh()

    def among(self, seeds: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """`act` for some of the seeds only, rounded as among all of them: batched products round by their size.

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

    def outputs(self, observation: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """The heads' outputs [S, T, N, 2A] for observations [S, T, N, O] of T tasks, by default all in order."""
        chosen: Any = slice(None) if tasks is None else list(tasks)
        own = [name for name, parameter in self._net.parameters.items() if parameter.per_task]
        views = self._views | {name: self._views[name][:, chosen] for name in own}
        if self._one_hot is not None:
            task_id = self._one_hot[chosen].view(1, -1, 1, len(self.tasks)).expand(*observation.shape[:3], -1)
            observation = torch.cat((observation, task_id), -1)
        return self._net(views, observation)


def stored_config(run: str | Path) -> TrainConfig:
    """The settings of a run as far as its actors depend on them: neither combiner nor device is looked at.

    Raises:
        ConfigError: they cannot be read.
    """
    try:
        config = typed(load_stored(Path(run).expanduser(), "run"))
        config.make_environments()
    except ConfigError as error:
        raise error if str(error).startswith("run=") else ConfigError(f"run={run}: config.yaml: {error}") from error
    if not config.seeds or not config.agent.hidden_sizes:
        raise ConfigError(f"run={run}: config.yaml: it has no seeds or no layers")
    return config


def read_weights(run: str | Path, checkpoint: str) -> Weights:
    """The actors' parameters in the best checkpoint of a run, or in the last one that can be read.

    Raises:
        ConfigError: there is none.
    """
    if checkpoint not in CHECKPOINTS:
        raise ConfigError(f"checkpoint={checkpoint}: must be one of {', '.join(CHECKPOINTS)}")
    folder = Path(run).expanduser() / "checkpoints"
    for _ in range(_ATTEMPTS):
        try:
            return _best(folder) if checkpoint == "best" else _last(folder)
        except FileNotFoundError:  # a training at work has dropped it since it was listed
            continue
    raise ConfigError(f"checkpoint={checkpoint}: the files in {folder} vanish before they can be read")


def _best(folder: Path) -> Weights:
    path = folder / "best.pt"
    if not path.is_file():
        raise ConfigError(f"checkpoint=best: no {path}, as before the first evaluation; try checkpoint=last")
    try:
        state = read_file(path)
        return Weights(path.name, state["step"], state["actor"], _note(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever is wrong with the file
        raise ConfigError(f"checkpoint=best: {path} is damaged ({_reason(error)})") from error


def _last(folder: Path) -> Weights:
    messages: list[str] = []
    for step in sorted(Checkpoints(folder).steps(), reverse=True):
        path = folder / f"step_{step}.pt"
        try:
            state = read_file(path)
            params = state["agent"]["actor"]["params"]
            return Weights(path.name, state["step"], params, (*messages, *_note(path)))
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
