"""BRC: soft actor-critic with wide, regularised, categorical critics that know the tasks by learned vectors.

Source: Nauman et al., "Bigger, Regularized, Categorical" (arXiv 2505.23150) and its public code. All that follows is
as there, but for these deviations:

1. A batch has as many transitions of each task, where there the task of each transition is drawn.
2. The gradients of the tasks' losses are combined, by the combiner that is chosen; LS follows their mean, as is done
   there. A task's vector is a parameter of its own, which follows the mean loss unless `gradient_scope` is "all".
3. The critics' loss is the mean over the two of them, where there it is the sum: AdamW steps by neither.
4. The temperature's loss is -log α (log π + H), as in the rest of this package, where there it is -α (log π + H): the
   gradient lacks the factor α, by which Adam does not step either, but for how it changes.
5. Mean and log standard deviation of the actions come from one orthogonal matrix, where there they have one each.
6. Layer norm adds 1e-5 to the variance, where there it is 1e-6.
7. Returns, by which rewards are scaled, leave out rewards that the discount makes worth less than a thousandth: those
   more than 688 steps ahead at γ = 0.99. An episode that its task and the clock end at once has no rewards to come.
8. The temperature in that scale is that of each update, where there all updates of a step have the same.
9. Also a single task has a vector.

The same list, with what the experiments add to it, is in docs/brc.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtrl_conic.agents.protocol import Setting
from mtrl_conic.agents.reward_scales import SoftReturnScale
from mtrl_conic.agents.sac import MultiTaskSAC
from mtrl_conic.agents.squashed import BoundedStd, EmbeddedTaskInput, SquashedGaussianPolicy
from mtrl_conic.agents.temperature import Temperatures
from mtrl_conic.networks.embedding import TaskEmbedding
from mtrl_conic.networks.layers import Views
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.validation import instance, number, whole

_LOG_STD = (-10.0, 2.0)
_BETA1 = 0.5  # of the temperature's Adam
_EMBEDDING = "embedding"
_VECTORS = f"{_EMBEDDING}.vectors"


class BRC(MultiTaskSAC):
    """S independent BRC agents, each learning the same K tasks.

    Args:
        network: of the actor, not set up.
        critic_network: of each critic; None for one like the actor's.
        embedding_size: of the vector of length 1 that stands for a task; the critics learn it, and the actor sees it.
        discount: γ, below 1.
        initial_temperature: of the one that all tasks share.
        target_entropy: in nats; None for minus half the number of action dimensions.

    The others are those of `MultiTaskSAC`.
    """

    def __init__(
        self,
        network: Network,
        critic_network: Network | None = None,
        num_critics: int = 2,
        embedding_size: int = 32,
        warmup_steps: int = 5000,
        batch_size_per_task: int = 102,
        capacity_per_task: int = 1_000_000,
        updates_per_step: int = 2,
        learning_rate: float = 3e-4,
        adam_epsilon: float = 1e-8,
        weight_decay: float = 1e-4,
        max_grad_norm: float | None = None,
        clip: str = "network",
        discount: float = 0.99,
        tau: float = 0.005,
        initial_temperature: float = 0.1,
        target_entropy: float | None = None,
        value_bins: int = 101,
        value_limit: float = 10.0,
        gradient_scope: str = "shared",
    ) -> None:
        number("discount", discount, 0, 1, low_included=False, high_included=False)
        super().__init__(
            network=BoundedStd(instance("network", network, Network), *_LOG_STD),
            critic_network=network if critic_network is None else critic_network,
            num_critics=num_critics,
            warmup_steps=warmup_steps,
            batch_size_per_task=batch_size_per_task,
            capacity_per_task=capacity_per_task,
            updates_per_step=updates_per_step,
            learning_rate=learning_rate,
            adam_epsilon=adam_epsilon,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            clip=clip,
            discount=discount,
            tau=tau,
            temperatures="shared",
            initial_temperature=initial_temperature,
            target_entropy=target_entropy,
            critic_head="distributional",
            value_bins=value_bins,
            value_limit=value_limit,
            gradient_scope=gradient_scope,
        )
        self.embedding_size = whole("embedding_size", embedding_size, 1, 10_000)

    def _task_size(self, setting: Setting) -> int:
        return self.embedding_size

    def _task_nets(self, setting: Setting) -> list[Network]:
        return [self._embedding(setting)]

    def _embedding(self, setting: Setting) -> TaskEmbedding:
        observed = setting.observation_size
        return TaskEmbedding().made(_EMBEDDING, observed, observed + self.embedding_size, setting.num_tasks)

    def _task_input(self, setting: Setting, views: Views) -> EmbeddedTaskInput:
        return EmbeddedTaskInput(self._embedding(setting), views, setting.device)

    def _temperatures(self, setting: Setting) -> Temperatures:
        entropy = -setting.action_size / 2 if self.target_entropy is None else self.target_entropy
        return Temperatures(setting, self.initial_temperature, entropy, self._optimizer(beta1=_BETA1), shared=True)

    def _reward_scale(self, setting: Setting) -> SoftReturnScale:
        shape = (*setting.cells, setting.num_envs_per_task)
        return SoftReturnScale(shape, self.discount, self.value_limit, self.temperatures, setting.device)

    def state_dict(self) -> dict[str, Any]:
        vectors = self.critic.views[_VECTORS].clone()  # what a view is of would be written with it
        return super().state_dict() | {_VECTORS: vectors}

    def policy_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return super().policy_state(state) | {_VECTORS: state[_VECTORS]}

    def policy(self, setting: Setting, state: Mapping[str, Any]) -> SquashedGaussianPolicy:
        expected, found = (*setting.cells, self.embedding_size), tuple(state[_VECTORS].shape)
        if found != expected:
            raise ValueError(f"the tasks have vectors of shape {expected}, here they are {found}")
        return super().policy(setting, state)
