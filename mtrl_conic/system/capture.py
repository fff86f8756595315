"""Functions of tensors that are recorded once as a CUDA graph and then replayed: one launch instead of hundreds."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from mtrl_conic.system.streams import SeedStreams

Result = TypeVar("Result", bound=Tensor | dict[str, Tensor])

_WARM_UP = 3  # calls before the recording, in which libraries choose their algorithms and allocate what they keep


class CaptureError(RuntimeError):
    """A function cannot be recorded, for instance because it reads a value back to the host."""


class Graph(Protocol):
    """Records what a function does to the device, without its being done, and does it when replayed."""

    def capture(self, function: Callable[[], Result]) -> Result:
        """Record; the result's tensors hold the values of the latest replay."""

    def replay(self) -> None: ...


class CudaGraph:
    """`torch.cuda.CUDAGraph`, with all streams of random numbers of this process going on in it."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, function: Callable[[], Result]) -> Result:
        for generator in SeedStreams.all_generators():
            if generator.device.type == "cuda":
                self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph):
            return function()

    def replay(self) -> None:
        self._graph.replay()


class _Recording(NamedTuple):
    graph: Graph
    inputs: tuple[Tensor, ...]
    result: Any


class Captured(Generic[Result]):
    """Calls a function of tensors by replaying a recording of it.

    The first calls run it as it is; the next one records it. What the function keeps must stay in the same tensors,
    and what it decides on the host must follow from `kind`: there is a recording for each. The tensors of a result
    are valid until the next call.

    Args:
        function: of tensors whose shapes are the same at each call; gives a tensor or a dictionary of tensors.
        kind: what the host knows of the next call, asked before each.
        replayed: called after a replay, in which no code of the function runs on the host.
        make_graph: an empty graph.

    Raises:
        CaptureError: from a call, where the function cannot be recorded.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        kind: Callable[[], Hashable] = lambda: None,
        replayed: Callable[[], None] = lambda: None,
        make_graph: Callable[[], Graph] = CudaGraph,
    ) -> None:
        self._function, self._kind, self._replayed, self._make_graph = function, kind, replayed, make_graph
        self._calls: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, *inputs: Tensor) -> Result:
        kind = self._kind()
        if kind not in self._recordings:
            return self._first_calls(kind, inputs)
        recording = self._recordings[kind]
        for kept, value in zip(recording.inputs, inputs, strict=True):
            kept.copy_(value)
        recording.graph.replay()
        self._replayed()
        result: Result = recording.result
        return result

    def _first_calls(self, kind: Hashable, inputs: tuple[Tensor, ...]) -> Result:
        self._calls[kind] = self._calls.get(kind, 0) + 1
        if self._calls[kind] <= _WARM_UP:
            return self._function(*inputs)
        graph, kept = self._make_graph(), tuple(value.clone() for value in inputs)
        try:
            result = graph.capture(lambda: self._function(*kept))
        except RuntimeError as error:  # torch's own, of several kinds
            first: BaseException = error
            while isinstance(first.__context__, RuntimeError):  # ending a broken recording raises once more
                first = first.__context__
            raise CaptureError(str(first).partition("\n")[0]) from error
        self._recordings[kind] = _Recording(graph, kept, result)
        graph.replay()  # recording did nothing to the device
        return result
