"""What agents with a critic and an actor share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mtrl_conic.agents.learner import Learner, require_shared
from mtrl_conic.agents.protocol import Agent, Setting
from mtrl_conic.combiners.base import Combiner
from mtrl_conic.networks.protocol import Network, layout_of
from mtrl_conic.system import seedwise
from mtrl_conic.system.streams import SeedStreams


class ActorCritic(Agent):
    """An agent whose updates take a step of the critic, then one of the actor.

    Attributes:
        critic, actor: made by `setup`.
        streams: of random numbers, by name; made by `setup`.
    """

    networks: tuple[str, ...] = ("critic", "actor")
    critic: Learner
    actor: Learner
    streams: dict[str, SeedStreams]

    @abstractmethod
    def learner_nets(self, setting: Setting) -> dict[str, list[Network]]:
        """What critic and actor consist of, set up, by their names; needs no `setup`."""

    def parameter_counts(self, setting: Setting) -> dict[str, int]:
        return {name: layout_of(nets).size for name, nets in self.learner_nets(setting).items()}

    def check(self, setting: Setting) -> None:
        super().check(setting)
        for name, nets in self.learner_nets(setting).items():
            layout = layout_of(nets)
            if layout.shared_size == 0:
                require_shared(name, layout, setting.make_combiner(name))

    @property
    def learners(self) -> tuple[Learner, ...]:
        """What has a combiner, in the order of `networks`."""
        return self.critic, self.actor

    @property
    def combiners(self) -> tuple[Combiner, ...]:
        """Those of the learners."""
        return tuple(learner.combiner for learner in self.learners)

    def update_kind(self) -> Hashable:
        return tuple(combiner.needs_jacobian() for combiner in self.combiners)

    def replayed(self) -> None:
        for combiner in self.combiners:
            combiner.replayed()

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """What the combiners have last shown."""
        return {key: value for learner in self.learners for key, value in learner.diagnostics.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "health": self.health.state_dict(),
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.health.load_state_dict(state["health"])
        for name, stream in self.streams.items():
            stream.load_state_dict(state["streams"][name])


def actor_views(nets: Sequence[Network], setting: Setting, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parameters of an actor that consists of `nets`, out of a policy's state.

    Raises:
        ValueError: there are more or fewer of them.
    """
    layout, params = layout_of(nets), state["params"]
    if params.shape != (len(setting.seeds), layout.size):
        raise ValueError(f"an actor has {layout.size} parameters, here are {params.shape[-1]}")
    return layout.views(seedwise.copy(params.to(setting.device)))
