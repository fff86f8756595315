"""Multi-task proximal policy optimization with combined gradients.

Sources: Schulman et al., "Proximal Policy Optimization Algorithms" (arXiv 1707.06347). Values are learned in
normalised units by PopArt (arXiv 1809.04474 for many tasks), advantages are normalised per task, and observations
per task by running moments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtrl_conic.agents.actor_critic import ActorCritic, actor_views
from mtrl_conic.agents.clipping import CLIPS
from mtrl_conic.agents.gaussian import GaussianPolicy, TaskVector
from mtrl_conic.agents.health import Health
from mtrl_conic.agents.learner import Differentiated, Learner
from mtrl_conic.agents.normalisation import RunningMoments
from mtrl_conic.agents.on_policy import OnPolicyAgent
from mtrl_conic.agents.optimizer import SeedwiseAdam
from mtrl_conic.agents.ppo_losses import (
    clipped_losses,
    gaussian_entropy,
    gaussian_log_prob,
    gaussian_sample,
    generalized_advantages,
    normalised,
    policy_shift,
)
from mtrl_conic.agents.protocol import Setting, Transition
from mtrl_conic.agents.rollout import Minibatches, Rollout
from mtrl_conic.agents.squashed import NormalisedInput, TaskInput
from mtrl_conic.agents.values import ValueFunction
from mtrl_conic.networks.layers import Recorder
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.streams import SeedStreams
from mtrl_conic.system.threads import side_by_side
from mtrl_conic.system.validation import choice, flag, instance, number, positive, whole

_LEAST_STD, _LARGEST_STD = 0.05, 1.5
_LOG_STD = (math.log(_LEAST_STD), math.log(_LARGEST_STD))


class MultiTaskPPO(ActorCritic, OnPolicyAgent):
    """S independent PPO agents, each learning the same K tasks.

    Args:
        network: of the actor, not set up.
        critic_network: of the critic; None for one like the actor's. With `popart` its last layer must be a linear
            head per task.
        task_id_input: a one-hot task number joins the observation.
        rollout_steps: T, vector steps between updates.
        epochs: passes over a rollout.
        minibatches: parts of a pass, each with the same number of rows of every task.
        learning_rate, adam_epsilon: Adam's, for both networks.
        anneal_steps: environment steps per task in which the learning rate goes to 0 on a line; None for never.
        max_grad_norm: bound on each network's combined gradient.
        clip: what it bounds: "network", the whole of it, or "task", the shared part and each task's own.
        discount: γ.
        trace: λ of the advantages.
        ratio_clip: bound on how far a probability ratio counts.
        entropy_bonus: weight of the policy's entropy in its loss.
        initial_std: of the actions.
        popart: the step by which the moments of the returns move per rollout; None learns values as they are.
        advantages: normalised per "task", over "all" tasks, or "none".
        gradient_scope: which parameters' gradients are combined: "shared" or "all".
    """

    changeable: ClassVar[tuple[str, ...]] = ("anneal_steps",)

    def __init__(
        self,
        network: Network,
        critic_network: Network | None = None,
        task_id_input: bool = True,
        rollout_steps: int = 256,
        epochs: int = 10,
        minibatches: int = 16,
        learning_rate: float = 5e-4,
        adam_epsilon: float = 1e-5,
        anneal_steps: int | None = None,
        max_grad_norm: float = 0.5,
        clip: str = "network",
        discount: float = 0.98,
        trace: float = 0.97,
        ratio_clip: float = 0.2,
        entropy_bonus: float = 3e-3,
        initial_std: float = 1.0,
        popart: float | None = 0.1,
        advantages: str = "task",
        gradient_scope: str = "shared",
    ) -> None:
        OnPolicyAgent.__init__(self, rollout_steps, epochs, minibatches)
        self.network = instance("network", network, Network)
        self.critic_network = network if critic_network is None else instance("critic_network", critic_network, Network)
        self.task_id_input = flag("task_id_input", task_id_input)
        self.learning_rate = positive("learning_rate", learning_rate)
        self.adam_epsilon = positive("adam_epsilon", adam_epsilon)
        self.anneal_steps = None if anneal_steps is None else whole("anneal_steps", anneal_steps, 1)
        self.max_grad_norm = positive("max_grad_norm", max_grad_norm)
        self.clip = choice("clip", clip, tuple(CLIPS))
        self.discount = number("discount", discount, 0, 1, low_included=False)
        self.trace = number("trace", trace, 0, 1)
        self.ratio_clip = positive("ratio_clip", ratio_clip)
        self.entropy_bonus = number("entropy_bonus", entropy_bonus, 0)
        self.initial_std = number("initial_std", initial_std, _LEAST_STD, _LARGEST_STD)
        self.popart = None if popart is None else number("popart", popart, 0, 1, low_included=False)
        self.advantages = choice("advantages", advantages, ("task", "all", "none"))
        self.gradient_scope = choice("gradient_scope", gradient_scope, ("shared", "all"))

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if self.popart is not None and not _has_task_heads(self._critic_net(setting)):
            raise ValueError("critic_network must have a linear head per task, or popart must be null")

    def check_length(self, steps_per_task: int) -> None:
        if self.anneal_steps is not None and self.anneal_steps < steps_per_task:
            raise ValueError(
                f"anneal_steps must be null or at least steps_per_task, {steps_per_task}, not {self.anneal_steps}: the"
                " learning rate would be 0 from there on"
            )

    def learner_nets(self, setting: Setting) -> dict[str, list[Network]]:
        return {"critic": [self._critic_net(setting)], "actor": [*self._actor_nets(setting)]}

    def networks_for(self, setting: Setting) -> dict[str, list[Network]]:
        return {"network": [*self._actor_nets(setting)], "critic_network": [self._critic_net(setting)]}

    def setup(self, setting: Setting) -> None:
        self.check(setting)
        self.device, self.steps_per_decision = torch.device(setting.device), setting.steps_per_decision
        names = ("initialization", "exploration", "minibatches")
        self.streams = {name: SeedStreams(setting.seeds, name, setting.device) for name in names}
        self.moments = RunningMoments(setting)
        self.inputs = self._inputs(setting, self.moments)
        self.actor_net, self.spread_net = self._actor_nets(setting)
        self.critic_net = self._critic_net(setting)
        self.actor = self._learner("actor", [self.actor_net, self.spread_net], setting)
        self.critic = self._learner("critic", [self.critic_net], setting)
        self.values = ValueFunction(self.critic_net, self.critic, self.popart, setting)
        self.greedy = GaussianPolicy(self.actor_net, self.spread_net, self.actor.views, self.inputs)
        self.health = Health(*setting.cells, self.networks, setting.device)
        self.capturable = all(combiner.capturable for combiner in self.combiners)
        self._allocate(setting)

    def _allocate(self, setting: Setting) -> None:
        shape, sizes = (*setting.cells, setting.num_envs_per_task), (setting.observation_size, setting.action_size)
        options: dict[str, Any] = {"device": setting.device, "dtype": setting.dtype}
        self.rollout = Rollout(shape, self.rollout_steps, *sizes, **options)
        self._drawn = torch.zeros(*shape, setting.action_size, **options)
        self._log_prob = torch.zeros(shape, **options)
        count = self.rollout_steps * setting.num_envs_per_task
        columns = (self._input_size(setting), setting.action_size, 1, 1, 1)
        passes = (self.epochs, self.minibatches, self.streams["minibatches"])
        self.batches = Minibatches(setting.cells, count, columns, *passes, **options)

    def _actor_nets(self, setting: Setting) -> tuple[Network, Network]:
        sizes = (self._input_size(setting), setting.action_size, setting.num_tasks)
        log_std = torch.tensor(self.initial_std).log().item()
        return self.network.made("actor", *sizes), TaskVector(log_std).made("log_std", *sizes)

    def _critic_net(self, setting: Setting) -> Network:
        return self.critic_network.made("critic", self._input_size(setting), 1, setting.num_tasks)

    def _input_size(self, setting: Setting) -> int:
        return setting.observation_size + setting.num_tasks * self.task_id_input

    def _inputs(self, setting: Setting, moments: RunningMoments) -> NormalisedInput:
        task_input = TaskInput(setting.num_tasks, self.task_id_input, setting.device, setting.dtype)
        return NormalisedInput(task_input, moments)

    def _learner(self, name: str, nets: list[Network], setting: Setting) -> Learner:
        optimizer = partial(SeedwiseAdam, learning_rate=self.learning_rate, epsilon=self.adam_epsilon)
        clip, combiner = CLIPS[self.clip](self.max_grad_norm), setting.make_combiner(name)
        streams = self.streams["initialization"]
        return Learner(name, nets, combiner, setting, streams, optimizer, clip, self.gradient_scope)

    @torch.no_grad()
    def explore(self, observation: Tensor) -> Tensor:
        inputs = self.inputs(observation)
        mean, log_std = self.actor_net(self.actor.views, inputs), self.spread_net(self.actor.views, inputs)
        drawn, log_prob = gaussian_sample(self.streams["exploration"].normal_(self._drawn), mean, log_std)
        self._log_prob.copy_(log_prob)
        return self._drawn.copy_(drawn).clamp(-1, 1)

    def exploit(self, observation: Tensor) -> Tensor:
        return self.greedy(observation)

    def observe(self, transition: Transition) -> None:
        self.rollout.add(
            observation=transition.observation,
            next_observation=transition.next_observation,
            action=self._drawn,
            log_prob=self._log_prob,
            reward=transition.reward,
            terminated=transition.terminated,
            ended=torch.maximum(transition.terminated, transition.truncated),
        )
        self.steps += self.steps_per_decision

    @torch.no_grad()
    def prepare(self) -> None:
        """Turn the full rollout into rows to learn from, and move the statistics on."""
        rollout = self.rollout
        inputs = self.inputs(rollout.observation.flatten(2, 3))
        following = self.inputs(rollout.next_observation.flatten(2, 3))
        value, next_value = self.values(inputs), self.values(following)
        shape = rollout.reward.shape
        steps = (rollout.reward, value.view(shape), next_value.view(shape), rollout.terminated, rollout.ended)
        advantage = generalized_advantages(*steps, self.discount, self.trace).flatten(2)
        target = self.values.targets(advantage + value, self.health.halted)
        single = (rollout.log_prob.flatten(2), normalised(advantage, self.advantages), target)
        self.batches.fill(inputs, rollout.action.flatten(2, 3), *(field.unsqueeze(-1) for field in single))
        self._anneal()
        self.moments.update(rollout.observation.flatten(2, 3), self.health.halted)
        rollout.restart()

    def _anneal(self) -> None:
        if self.anneal_steps is None:
            return
        done = self.steps - self.rollout_steps * self.steps_per_decision
        rate = self.learning_rate * max(1 - done / self.anneal_steps, 0.0)
        for learner in (self.critic, self.actor):
            learner.optimizer.set_learning_rate(rate)

    def update(self) -> dict[str, Tensor]:
        """A step of critic and actor on the next minibatch; on the CPU their gradients are computed side by side."""
        inputs, action, *single = self.batches.take()
        old_log_prob, advantage, target = (field.squeeze(-1) for field in single)

        def value_losses(recorder: Recorder | None = None) -> Tensor:
            return self.values.losses(inputs, target, recorder)

        def policy_losses(recorder: Recorder | None = None) -> tuple[Tensor, Tensor, Tensor]:
            return self._policy_losses(inputs, action, old_log_prob, advantage, recorder)

        def of_critic() -> Differentiated:
            return self.critic.differentiate(value_losses(self.critic.gradients))

        def of_actor() -> tuple[Differentiated, Tensor, Tensor]:
            losses, log_prob, entropy = policy_losses(self.actor.gradients)
            return self.actor.differentiate(losses), log_prob, entropy

        for_critic, (for_actor, log_prob, entropy) = side_by_side(of_critic, of_actor, self.device)
        metrics = self.critic.move(for_critic, self.health, value_losses)
        metrics |= self.actor.move(for_actor, self.health, lambda: policy_losses()[0])
        self.actor.views[self.spread_net.name].clamp_(*_LOG_STD)  # type: ignore[attr-defined]
        self.health.count()
        divergence, clipped = policy_shift(log_prob.detach(), old_log_prob, self.ratio_clip)
        metrics |= {"policy/kl": divergence, "policy/clip_fraction": clipped, "policy/entropy": entropy.detach()}
        return metrics | self.diagnostics

    def _policy_losses(
        self, inputs: Tensor, action: Tensor, old: Tensor, advantage: Tensor, recorder: Recorder | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses [S, K], log-densities [S, K, B] and entropies [S, K]."""
        mean = self.actor_net(self.actor.views, inputs, recorder)
        log_std = self.spread_net(self.actor.views, inputs, recorder)
        log_prob = gaussian_log_prob(action, mean, log_std)
        entropy = gaussian_entropy(log_std).squeeze(-1)
        losses = clipped_losses(log_prob, old, advantage, self.ratio_clip) - self.entropy_bonus * entropy
        return losses, log_prob, entropy

    def state_dict(self) -> dict[str, Any]:
        """All of it; between vector steps no update is due, so that the rows of the last rollout are no part of it."""
        return {
            **super().state_dict(),
            "observations": self.moments.state_dict(),
            "returns": self.values.state_dict(),
            "rollout": self.rollout.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.moments.load_state_dict(state["observations"])
        self.values.load_state_dict(state["returns"])
        self.rollout.load_state_dict(state["rollout"])
        self.steps = state["steps"]

    def policy_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {"params": state["actor"]["params"], "observations": state["observations"]}

    def policy(self, setting: Setting, state: Mapping[str, Any]) -> GaussianPolicy:
        nets, moments = self._actor_nets(setting), RunningMoments(setting)
        views = actor_views(nets, setting, state)
        moments.load_state_dict(state["observations"])
        return GaussianPolicy(*nets, views, self._inputs(setting, moments))


def _has_task_heads(network: Network) -> bool:
    """Whether its last layer is a linear one of each task's own."""
    weight = network.parameters.get(f"{getattr(network, 'head', None)}.weight")
    return weight is not None and weight.per_task and len(weight.shape) == 3
