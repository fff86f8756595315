"""TorchJD's aggregators as combiners."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mtrl_conic.combiners import _torchjd_memory as memory
from mtrl_conic.combiners.base import Combiner
from mtrl_conic.system.streams import SeedStreams


class TorchJD(Combiner):
    """Any aggregator of TorchJD 0.18 (torchjd.org; "Jacobian Descent", arXiv 2406.16232), by its name.

    A bridge and an oracle, not a fast path: each seed has an aggregator of its own, they run one after the other,
    and most of them wait for the device or solve on the host.

    **Scale.** The direction is used as it is, and TorchJD's are not all of one scale: `Mean`, `UPGrad`, `DualProj`,
    `MGDA` and `Random` weigh like a mean; `Sum`, `PCGrad`, `GradVac`, `GradDrop` and `ConFIG` like a sum, K times
    as long; `CAGrad` has no division by 1 + c². Under Adam that matters little, but norms are clipped after it.

    **Random aggregators** draw from torch's global generators. Each seed's stream takes their place during the
    call, so that a seed draws the same numbers alone and among others, and the global generators are left alone.

    **Failures.** Where an aggregator's solver gives up on the gradients of a seed, a warning says why, and that seed's
    direction is NaN.

    **Memory.** What a stateful aggregator remembers is saved as plain tensors and numbers. Where that is not
    possible (`NashMTL` keeps a CVXPY problem) the run trains and writes checkpoints, but cannot be resumed; nor can
    a stateful one move between the CPU and a GPU.

    Args:
        aggregator: a class of `torchjd.aggregation`.
        settings: keyword arguments of that class; a list becomes a vector, `n_tasks` is filled in.

    Raises:
        ImportError: TorchJD, or a package that this aggregator needs, is not installed.
        ValueError: no such aggregator, or settings that it does not take.
    """

    requires: ClassVar[Literal["losses", "gramian", "jacobian"]] = "jacobian"
    capturable: ClassVar[bool] = False  # it moves torch's global generators, and some aggregators solve on the host

    def __init__(self, aggregator: str, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        kinds = _aggregators()
        if aggregator not in kinds:
            raise ValueError(f"aggregator={aggregator!r}: TorchJD has no such; there are {', '.join(kinds)}")
        self.aggregator, self._kind = aggregator, kinds[aggregator]
        self._stateful = issubclass(self._kind, importlib.import_module("torchjd").Stateful)
        self._settings = self._checked({} if settings is None else settings)
        self._build(1)  # what is wrong with the settings is said at once

    def setup(self, seeds: Sequence[int], num_tasks: int, device: torch.device | str = "cpu") -> None:
        self._seeds = list(seeds)
        self._device = torch.empty(0, device=device).device  # with its index
        self._draws = [(torch.default_generator, SeedStreams(seeds, "torchjd", "cpu"))]
        if self._device.type == "cuda":
            generator = torch.cuda.default_generators[self._device.index]
            self._draws.append((generator, SeedStreams(seeds, "torchjd", self._device)))
        self._aggregators = [self._build(num_tasks, self._device) for _ in seeds]
        with torch.random.fork_rng([]), self._explained(f" with {num_tasks} tasks"):
            self._build(num_tasks)(torch.eye(num_tasks))  # some settings suit some numbers of tasks only

    def direction(self, jacobian: Tensor, losses: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            out = jacobian.new_empty(jacobian.shape[0], jacobian.shape[2])
        for seed in range(len(out)):
            try:
                with self._stream(seed):
                    out[seed] = self._aggregators[seed](jacobian[seed])
            except Exception as error:
                if not _gave_up(error):
                    raise
                out[seed] = torch.nan
                name = f"TorchJD's {self.aggregator}"
                warnings.warn(f"{name} gave seed {self._seeds[seed]} no direction: {_first_line(error)}", stacklevel=2)
        return out

    def snapshot(self) -> list[Any]:
        """Of each seed: what its aggregator remembers, and the states of its streams."""
        memories = [memory.save(one)[0] if self._stateful else {} for one in self._aggregators]
        states = [[one.get_state() for one in streams.generators] for _, streams in self._draws]
        return list(zip(memories, zip(*states, strict=True), strict=True))

    def restore(self, memory_before: Sequence[Any], seeds: Tensor) -> None:
        for seed, ((saved, states), undone) in enumerate(zip(memory_before, seeds.tolist(), strict=True)):
            if undone:
                memory.load(self._aggregators[seed], saved, self._device)
                for (_, streams), state in zip(self._draws, states, strict=True):
                    streams.generators[seed].set_state(state)

    def state_dict(self) -> dict[str, Any]:
        parts = [memory.save(aggregator) if self._stateful else ({}, []) for aggregator in self._aggregators]
        return {
            "aggregator": self.aggregator,
            "device": self._device.type,
            "streams": [streams.state_dict() for _, streams in self._draws],
            "memory": [saved for saved, _ in parts],
            "unsaved": sorted({name for _, names in parts for name in names}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same aggregator, settings and number of seeds.

        Raises:
            ValueError: of another aggregator or number, or this aggregator cannot resume (see above).
        """
        name, seeds = f"TorchJD's {self.aggregator}", len(self._aggregators)
        if state.get("aggregator") != self.aggregator or len(state["memory"]) != seeds:
            raise ValueError(f"{name}: the saved state is of another aggregator, or not of {seeds} seeds")
        if state["unsaved"]:
            raise ValueError(f"{name} cannot resume: its {', '.join(state['unsaved'])} could not be saved")
        if self._stateful and state["device"] != self._device.type:
            raise ValueError(f"{name} cannot move from {state['device']} to {self._device.type} on resume")
        for aggregator, saved in zip(self._aggregators, state["memory"], strict=True):
            memory.load(aggregator, saved, self._device)
        for (_, streams), saved in zip(self._draws, state["streams"], strict=False):  # a GPU has a second stream
            streams.load_state_dict(saved)

    @contextmanager
    def _stream(self, seed: int) -> Iterator[None]:
        """Torch's global generators continue the seed's streams, and afterwards what they were at."""
        before = [everyones.get_state() for everyones, _ in self._draws]
        for everyones, streams in self._draws:
            everyones.set_state(streams.generators[seed].get_state())
        try:
            yield
        finally:
            for (everyones, streams), state in zip(self._draws, before, strict=True):
                streams.generators[seed].set_state(everyones.get_state())
                everyones.set_state(state)

    def _checked(self, settings: Any) -> dict[str, Any]:
        if not isinstance(settings, Mapping):
            raise ValueError(f"settings={settings!r}: must be a mapping, such as {{c: 0.4}}")
        known = inspect.signature(self._kind).parameters
        for name in settings:
            if name not in known:
                takes = ", ".join(known) or "none"
                raise ValueError(f"settings.{name}={settings[name]!r}: {self.aggregator} takes {takes}")
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in (*settings, "n_tasks"):
                raise ValueError(f"settings={dict(settings)}: {self.aggregator} needs {name}")
        return dict(settings)

    def _build(self, num_tasks: int, device: torch.device | str = "cpu") -> nn.Module:
        with self._explained():
            arguments = {name: _argument(value, device) for name, value in self._settings.items()}
            if "n_tasks" in inspect.signature(self._kind).parameters:
                arguments.setdefault("n_tasks", num_tasks)
            return self._kind(**arguments)

    @contextmanager
    def _explained(self, where: str = "") -> Iterator[None]:
        """One line for what an aggregator objects to; without the cause, which a user would be shown instead."""
        try:
            yield
        except ImportError as error:
            raise ImportError(f"aggregator={self.aggregator!r}: {_first_line(error)}") from None
        except (TypeError, ValueError) as error:
            settings = f"settings={self._settings}{where}"
            raise ValueError(f"aggregator={self.aggregator!r}, {settings}: {_first_line(error)}") from None


def _aggregators() -> dict[str, type[nn.Module]]:
    """All aggregators by name; not the base classes, which are made from a weighting."""
    try:
        package = importlib.import_module("torchjd.aggregation")
    except ModuleNotFoundError:
        raise ImportError('combiner=torchjd needs TorchJD: pip install "mtrl_conic[torchjd]"') from None
    bases = (package.Aggregator, package.WeightedAggregator, package.GramianWeightedAggregator)
    kinds = {name: getattr(package, name) for name in package.__all__}
    return {name: kind for name, kind in kinds.items() if issubclass(kind, bases[0]) and kind not in bases}


def _gave_up(error: Exception) -> bool:
    """Whether a solver did not cope with these gradients; other errors are the program's or the machine's."""
    kinds = (torch.linalg.LinAlgError, ArithmeticError, ValueError)
    return isinstance(error, kinds) or type(error).__name__ == "SolverError"  # CVXPY's, which may not be installed


def _argument(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = torch.tensor(list(value), dtype=torch.get_default_dtype())
    return value.to(device) if isinstance(value, Tensor) else value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
