"""What the training loop does on the device: act and update, as CUDA graphs where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from mtrl_conic.agents.replay import ReplayBuffer
from mtrl_conic.agents.sac import MultiTaskSAC
from mtrl_conic.system.capture import Captured, CudaGraph, Graph


class DeviceSteps(NamedTuple):
    """Functions whose results are valid until they are called again.

    `explore` and `exploit` map observations [S, K, N, O] to actions [S, K, N, A]; `update` samples a batch, makes
    one update and returns its metrics.
    """

    explore: Callable[[Tensor], Any]
    exploit: Callable[[Tensor], Any]
    update: Callable[[], Any]


def device_steps(
    agent: MultiTaskSAC,
    replay: ReplayBuffer,
    batch_size: int,
    graphs: bool = True,
    make_graph: Callable[[], Graph] | None = None,
) -> DeviceSteps:
    """The steps of an agent on its device.

    Args:
        agent, replay: their state must not be replaced by other tensors any more; loading a checkpoint comes first.
        batch_size: transitions a seed and task.
        graphs: record them as CUDA graphs. An update whose combiner cannot be recorded stays as it is.
        make_graph: for tests without CUDA; by default graphs are used on CUDA alone.
    """

    def update() -> dict[str, Tensor]:
        return agent.update(replay.sample(batch_size))

    def exploit(observation: Tensor) -> Tensor:
        return agent.act(observation, deterministic=True)

    def replayed() -> None:
        for combiner in agent.combiners:
            combiner.replayed()

    if make_graph is None and agent.device.type == "cuda":
        make_graph = CudaGraph
    if make_graph is None or not graphs:
        return DeviceSteps(agent.act, exploit, update)
    explore, greedy = Captured(agent.act, make_graph=make_graph), Captured(exploit, make_graph=make_graph)
    if not all(combiner.capturable for combiner in agent.combiners):
        return DeviceSteps(explore, greedy, update)
    kind = lambda: tuple(combiner.needs_jacobian() for combiner in agent.combiners)  # noqa: E731
    recorded = Captured(update, kind, replayed, make_graph)
    # A recording knows only the diagnostics that there were when it was made.
    return DeviceSteps(explore, greedy, lambda: {**recorded(), **agent.diagnostics})
