"""What agents with a critic and an actor share."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

from torch import Tensor

from mtrl_conic.agents.learner import Learner
from mtrl_conic.agents.protocol import Agent
from mtrl_conic.combiners.base import Combiner


class ActorCritic(Agent):
    """An agent whose updates take a step of the critic, then one of the actor.

    Attributes:
        critic, actor: made by `setup`.
    """

    networks: ClassVar[tuple[str, ...]] = ("critic", "actor")
    critic: Learner
    actor: Learner

    @property
    def combiners(self) -> tuple[Combiner, Combiner]:
        """The critic's and the actor's."""
        return self.critic.combiner, self.actor.combiner

    def update_kind(self) -> Hashable:
        return tuple(combiner.needs_jacobian() for combiner in self.combiners)

    def replayed(self) -> None:
        for combiner in self.combiners:
            combiner.replayed()

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """What the combiners have last shown."""
        return self.critic.diagnostics | self.actor.diagnostics
