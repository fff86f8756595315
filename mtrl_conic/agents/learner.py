"""One network's flat parameters and what moves them: gradients, combiner, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl_conic.agents.clipping import Clip
from mtrl_conic.agents.health import Health
from mtrl_conic.agents.optimizer import MakeOptimizer
from mtrl_conic.agents.protocol import Setting
from mtrl_conic.combiners.base import Combiner, early_gramian
from mtrl_conic.gradients.recorder import TaskGradients
from mtrl_conic.networks.layout import Layout
from mtrl_conic.networks.protocol import Network, layout_of
from mtrl_conic.system import seedwise
from mtrl_conic.system.streams import SeedStreams
from mtrl_conic.system.threads import in_one_thread

_SMALL = 1 << 20  # numbers in a seed's Jacobian up to which one thread combines and steps faster than several


def require_shared(name: str, layout: Layout, combiner: Combiner) -> None:
    """See that there is something to combine.

    Raises:
        ValueError: the tasks of the network of that name share no parameters, and the combiner looks at gradients.
    """
    if layout.shared_size == 0 and combiner.requires != "losses":
        raise ValueError(
            f"{type(combiner).__name__} combines gradients of parameters that tasks share, and the tasks of the {name}"
            " share none (with gradient_scope=all neither); choose combiner=ls, or another one that weighs losses"
        )


class Differentiated(NamedTuple):
    """What `Learner.differentiate` leaves for `Learner.move`."""

    losses: Tensor  # [S, K]
    products: Tensor | None  # [S, K, K], the Jacobian's Gramian where the combiner begins with it
    memory: Any  # the combiner's, of before


class Learner:
    """One network's flat parameters with the gradients, the combiner and the optimizer that move them.

    Args:
        name: of the network, in the log and in the combiner's streams of random numbers.
        nets: what it consists of, such as an ensemble's members.
        combiner: not yet set up.
        setting: the agent's.
        streams: draw the initial values.
        make_optimizer: from the parameters and the gradient [S, P] that it is to follow.
        clip: bounds that gradient.
        scope: which parameters' gradients are combined: the "shared" ones, or "all".
        reduction: with "sum" the gradient that is bounded and followed is K times that with "mean".

    Raises:
        ValueError: tasks that share nothing, and a combiner of their gradients.

    Attributes:
        params: [S, P].
        diagnostics: what the combiner has last shown under each name of the log, always in the same tensors: an update
            that shows nothing leaves them as they are, also where it is replayed from a recording.
    """

    def __init__(
        self,
        name: str,
        nets: Sequence[Network],
        combiner: Combiner,
        setting: Setting,
        streams: SeedStreams,
        make_optimizer: MakeOptimizer,
        clip: Clip,
        scope: str = "shared",
        reduction: str = "mean",
    ) -> None:
        self.name, self.combiner, self.clip = name, combiner, clip
        self.layout = layout_of(nets)
        require_shared(name, self.layout, combiner)
        combiner.network = name
        combiner.setup(setting.seeds, setting.num_tasks, setting.device)
        num_seeds, num_tasks = setting.cells
        self._factor = num_tasks if reduction == "sum" else 1
        device, dtype = setting.device, setting.dtype
        self._is_small = torch.device(device).type == "cpu" and num_tasks * self.layout.size <= _SMALL
        self.params = seedwise.zeros((num_seeds, self.layout.size), device, dtype)
        self.layout.initialize(self.params, streams)
        keep_tasks = combiner.requires != "losses"
        self.gradients = TaskGradients(self.layout, num_seeds, num_tasks, scope, keep_tasks, device, dtype)
        self.views = self.layout.views(self.params)
        self.optimizer = make_optimizer(self.params, self.gradients.flat)
        self.diagnostics: dict[str, Tensor] = {}

    def step(self, losses: Tensor, health: Health, losses_again: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Turn losses [S, K] into one step of the optimizer: `differentiate`, then `move`."""
        return self.move(self.differentiate(losses), health, losses_again)

    def differentiate(self, losses: Tensor) -> Differentiated:
        """Turn losses [S, K] into gradients, not yet combined: several networks may do so at the same time.

        The Gramian, a large part of the work of combining, is computed here as well where that may be. The rest waits
        for `move`: it may use libraries' settings and random numbers of the whole process.
        """
        self.combiner.diagnostics.clear()
        detached = losses.detach()
        memory = self.combiner.snapshot()
        self._fill_gradients(losses, detached)
        jacobian = self.gradients.jacobian
        return Differentiated(detached, None if jacobian is None else early_gramian(self.combiner, jacobian), memory)

    def move(
        self, differentiated: Differentiated, health: Health, losses_again: Callable[[], Tensor]
    ) -> dict[str, Tensor]:
        """Combine, and let the optimizer take its step; of a seed that is or becomes halted, nothing moves.

        `losses_again` gives the losses of the same batch and noise after the step, for combiners that look back.

        Returns:
            Metrics of the step, [S] or [S, K] each, `diagnostics` aside.
        """
        detached, name = differentiated.losses, self.name
        with in_one_thread() if self._is_small else nullcontext():
            self.combine(differentiated)
            if self._factor > 1:
                self.gradients.flat.mul_(self._factor)
            norm = self.clip(self.layout, self.gradients.flat)
            health.check(name, detached, norm)
            self.optimizer.step(health.halted)
        if self.combiner.looks_back:
            with torch.no_grad():
                self.combiner.look_back(losses_again())
        if health.may_be_halted():
            self.combiner.restore(differentiated.memory, health.halted.bool())
        for key, value in self.combiner.diagnostics.items():
            shown = self.diagnostics.setdefault(f"combiner/{name}/{key}", torch.empty_like(value))
            shown.copy_(value)
        return {f"loss/{name}": detached, f"grad_norm/{name}": norm}

    def combine(self, differentiated: Differentiated) -> None:
        """The part of `move` that turns the Jacobian, where there is one, into the direction."""
        if (jacobian := self.gradients.jacobian) is not None:
            early = {} if differentiated.products is None else {"products": differentiated.products}
            self.combiner.combine(jacobian, differentiated.losses, self.gradients.direction, **early)

    def _fill_gradients(self, losses: Tensor, detached: Tensor) -> None:
        gradients = self.gradients
        gradients.keep_tasks = self.combiner.needs_jacobian()
        if self.combiner.requires == "losses":
            (self.combiner.loss_weights(detached) * losses).sum().backward()
            return
        gradients.task_weights = None if gradients.keep_tasks else self.combiner.loss_weights(detached)
        losses.sum().backward()
        gradients.finish()

    def state_dict(self) -> dict[str, Any]:
        return {
            "params": self.params,
            "optimizer": self.optimizer.state_dict(),
            "combiner": self.combiner.state_dict(),
            "diagnostics": dict(self.diagnostics),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.params.copy_(state["params"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.combiner.load_state_dict(state["combiner"])
        shown = state.get("diagnostics", {})  # checkpoints of earlier versions have none
        self.diagnostics = {key: value.to(self.params.device, copy=True) for key, value in shown.items()}
