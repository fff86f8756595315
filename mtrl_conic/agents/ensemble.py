"""What soft actor-critic consists of: an actor and an ensemble of critics, and what they cost."""

from __future__ import annotations

import math

from mtrl_conic.agents.actor_critic import ActorCritic
from mtrl_conic.agents.critic_heads import CriticHead
from mtrl_conic.agents.estimates import Product, products_of
from mtrl_conic.agents.off_policy import OffPolicyAgent
from mtrl_conic.agents.protocol import Setting
from mtrl_conic.networks.protocol import Network


class EnsembleActorCritic(ActorCritic, OffPolicyAgent):
    """An off-policy agent with an actor and several critics of one kind; what is here needs no `setup`.

    Attributes:
        network: of the actor, not set up.
        critic_network: of each critic, not set up; the actor's own object where there is one for both.
        num_critics: E.
        task_id_input: a one-hot task number joins the observation.
        head: what a critic's outputs are.
    """

    network: Network
    critic_network: Network
    num_critics: int
    task_id_input: bool
    head: CriticHead

    def learner_nets(self, setting: Setting) -> dict[str, list[Network]]:
        more = self._task_size(setting)
        actor, critics = self._actor_net(setting, more), self._critic_nets(setting, more)
        return {"critic": [*critics, *self._task_nets(setting)], "actor": [actor]}

    def _task_size(self, setting: Setting) -> int:
        """How many numbers join the observation."""
        return setting.num_tasks if self.task_id_input else 0

    def _task_nets(self, setting: Setting) -> list[Network]:
        """What `_task_input` learns with the critics."""
        return []

    def _actor_net(self, setting: Setting, more: int = 0) -> Network:
        """For observations with so many numbers `more`."""
        return self.network.made("actor", setting.observation_size + more, 2 * setting.action_size, setting.num_tasks)

    def _critic_nets(self, setting: Setting, more: int = 0) -> list[Network]:
        """The ensemble; each maps observation, `more` and action to one value."""
        sizes = (setting.observation_size + more + setting.action_size, self.head.outputs, setting.num_tasks)
        return [self.critic_network.made(f"critic{e}", *sizes) for e in range(self.num_critics)]

    def networks_for(self, setting: Setting) -> dict[str, list[Network]]:
        actor, critics = [self._actor_net(setting)], self._critic_nets(setting)
        if self.critic_network is self.network:
            return {"network": [*actor, *critics]}
        return {"network": actor, "critic_network": critics}

    def needs(self, setting: Setting) -> dict[str, int]:
        of_targets = math.prod(setting.cells) * self.batch_size_per_task * self.head.numbers
        return super().needs(setting) | {"value_bins": 4 * of_targets}

    def products(self, setting: Setting) -> list[Product]:
        more, count, tasks = self._task_size(setting), self.num_critics, setting.num_tasks
        rows = tasks * self.batch_size_per_task
        critic, actor = self._critic_nets(setting, more)[0], self._actor_net(setting, more)
        to_first = count * (2 if self._task_nets(setting) else 1)  # of the actor's loss, and to what is learnt of tasks
        # Critics: own loss, targets, value of the new action. Actor: targets, own loss.
        of_critics = products_of(
            critic,
            rows,
            num_tasks=tasks,
            forward=3 * count,
            to_inputs=2 * count,
            to_first=to_first,
            to_weights=count,
        )
        return of_critics + products_of(actor, rows, num_tasks=tasks, forward=2)
