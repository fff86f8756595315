"""What an agent does on the device: act and update, as CUDA graphs where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from mtrl_conic.agents.protocol import Agent
from mtrl_conic.system.capture import Captured, CudaGraph, Graph
from mtrl_conic.system.threads import as_small_work


class DeviceSteps(NamedTuple):
    """An agent's functions of these names, recorded where possible; results are valid until the next call."""

    explore: Callable[[Tensor], Any]
    exploit: Callable[[Tensor], Any]
    update: Callable[[], Any]


def device_steps(agent: Agent, graphs: bool = True, make_graph: Callable[[], Graph] | None = None) -> DeviceSteps:
    """The steps of an agent on its device; on the CPU it acts in one thread (`as_small_work`).

    Args:
        agent: its state must not be replaced by other tensors any more; loading a checkpoint comes first.
        graphs: record them as CUDA graphs. An update that cannot be recorded stays as it is.
        make_graph: for tests without CUDA; by default graphs are used on CUDA alone.
    """
    if make_graph is None and agent.device.type == "cuda":
        make_graph = CudaGraph
    if make_graph is None or not graphs:
        return DeviceSteps(as_small_work(agent.explore), as_small_work(agent.exploit), agent.update)
    explore = Captured(agent.explore, agent.explore_kind, make_graph=make_graph)
    exploit = Captured(agent.exploit, make_graph=make_graph)
    if not agent.capturable:
        return DeviceSteps(explore, exploit, agent.update)
    recorded = Captured(agent.update, agent.update_kind, agent.replayed, make_graph)

    def update() -> dict[str, Tensor]:
        return {**recorded(), **agent.diagnostics}  # a recording knows only those that there were when it was made

    return DeviceSteps(explore, exploit, update)
