"""Multi-task soft actor-critic with combined gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.agents.actor_critic import actor_views
from mtrl_conic.agents.clipping import CLIPS
from mtrl_conic.agents.critic_heads import make_head
from mtrl_conic.agents.ensemble import EnsembleActorCritic
from mtrl_conic.agents.health import Health
from mtrl_conic.agents.learner import Learner
from mtrl_conic.agents.losses import actor_losses, squashed_gaussian, td_target, temperature_weights
from mtrl_conic.agents.normalisation import AsTheyAre, RunningMoments
from mtrl_conic.agents.optimizer import MakeOptimizer, SeedwiseAdam
from mtrl_conic.agents.protocol import Setting, Transition
from mtrl_conic.agents.replay import Batch
from mtrl_conic.agents.reward_scales import ConstantScale, DeviationScale, ReturnScale, RewardScale
from mtrl_conic.agents.squashed import EmbeddedTaskInput, NormalisedInput, SquashedGaussianPolicy, TaskInput
from mtrl_conic.agents.temperature import KINDS, NETWORK, REDUCTIONS, EntropyWeight, make_temperatures
from mtrl_conic.networks.layers import Recorder, Views
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system import seedwise
from mtrl_conic.system.streams import SeedStreams
from mtrl_conic.system.validation import choice, flag, instance, number, positive, whole


class MultiTaskSAC(EnsembleActorCritic):
    """S independent SAC agents, each learning the same K tasks; the defaults are those of docs/protocols.md.

    Args:
        network: of the actor, not set up.
        critic_network: of each critic; None for one like the actor's.
        num_critics: E.
        task_id_input: a one-hot task number joins the observation.
        warmup_steps, batch_size_per_task, capacity_per_task, updates_per_step: see `OffPolicyAgent`.
        learning_rate, adam_epsilon: Adam's, for critics, actor and temperatures.
        weight_decay: AdamW's, of critics and actor.
        max_grad_norm: bound on the combined gradient; None for none.
        clip: what it bounds: "network", the whole of it, or "task", the shared part and each task's own.
        discount: γ.
        tau: the share of the critics in each update of their targets.
        temperatures: one for each "task", one "shared" by all, or such a one moved by the combiner of a network of the
            name "temperature", "combined".
        initial_temperature: of each.
        target_entropy: in nats, per task; None for minus the number of action dimensions.
        reward_scale: factor of the rewards in the critics' targets.
        normalise_returns: divide rewards by the largest return of their task so far, and multiply by `value_limit`, in
            place of `reward_scale`.
        normalise_rewards: divide rewards by the running deviation of their task's, and multiply by `reward_scale`.
        normalise_observations: networks see them in deviations from the mean of all that their task has seen so far
            (SimBa, arXiv 2410.09754, there without tasks); the replay keeps them as they are.
        critic_head: what a critic's outputs are: "scalar", the value; "bounded", with `normalise_returns`, a value
            whose targets are at most 1.25 `value_limit`; or a distribution over values, which learns from the value of
            the next state, "categorical", or from its distribution, "distributional".
        value_bins, value_limit: of a distribution: values from minus the limit to the limit.
        loss_weighting: of critics and actor, before they are combined: "none", or by "temperature",
            K softmax(-log α) (Soft Modularization, arXiv 2003.13661).
        loss_reduction: what is learned follows the "mean" of the tasks' losses, or their "sum", as it would alone.
        gradient_scope: which parameters' gradients are combined: "shared" or "all".
    """

    def __init__(
        self,
        network: Network,
        critic_network: Network | None = None,
        num_critics: int = 2,
        task_id_input: bool = True,
        warmup_steps: int = 4000,
        batch_size_per_task: int = 128,
        capacity_per_task: int = 100_000,
        updates_per_step: int = 1,
        learning_rate: float = 3e-4,
        adam_epsilon: float = 1e-5,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = 1.0,
        clip: str = "network",
        discount: float = 0.99,
        tau: float = 0.005,
        temperatures: str = "task",
        initial_temperature: float = 1.0,
        target_entropy: float | None = None,
        reward_scale: float = 1.0,
        normalise_returns: bool = False,
        normalise_rewards: bool = False,
        normalise_observations: bool = False,
        critic_head: str = "scalar",
        value_bins: int = 101,
        value_limit: float = 10.0,
        loss_weighting: str = "none",
        loss_reduction: str = "mean",
        gradient_scope: str = "shared",
    ) -> None:
        super().__init__(warmup_steps, batch_size_per_task, capacity_per_task, updates_per_step)
        self.network = instance("network", network, Network)
        self.critic_network = network if critic_network is None else instance("critic_network", critic_network, Network)
        self.num_critics = whole("num_critics", num_critics, 1, 1000)
        self.task_id_input = flag("task_id_input", task_id_input)
        self.learning_rate = positive("learning_rate", learning_rate)
        self.adam_epsilon = positive("adam_epsilon", adam_epsilon)
        self.weight_decay = number("weight_decay", weight_decay, 0)
        self.max_grad_norm = math.inf if max_grad_norm is None else positive("max_grad_norm", max_grad_norm)
        self.clip = choice("clip", clip, tuple(CLIPS))
        self.discount = number("discount", discount, 0, 1, low_included=False)
        self.tau = number("tau", tau, 0, 1, low_included=False)
        self.temperature_kind = choice("temperatures", temperatures, KINDS)
        if temperatures == "combined":
            self.networks = (*self.networks, NETWORK)
        self.initial_temperature = positive("initial_temperature", initial_temperature)
        if target_entropy is not None:
            number("target_entropy", target_entropy, -1e6, 1e6)
        self.target_entropy = target_entropy
        self.reward_scale = positive("reward_scale", reward_scale)
        self.normalise_returns = flag("normalise_returns", normalise_returns)
        self.normalise_rewards = flag("normalise_rewards", normalise_rewards)
        if normalise_rewards and normalise_returns:
            raise ValueError("normalise_rewards must be false where normalise_returns is true, not true")
        self.normalise_observations = flag("normalise_observations", normalise_observations)
        self.value_limit = positive("value_limit", value_limit)
        self.head = make_head(critic_head, value_bins, value_limit)
        if critic_head == "bounded" and not normalise_returns:  # nothing else brings values within the bound
            raise ValueError("critic_head must not be 'bounded' where normalise_returns is false")
        self.loss_weighting = choice("loss_weighting", loss_weighting, ("none", "temperature"))
        self.loss_reduction = choice("loss_reduction", loss_reduction, tuple(REDUCTIONS))
        self.gradient_scope = choice("gradient_scope", gradient_scope, ("shared", "all"))

    def setup(self, setting: Setting) -> None:
        super().setup(setting)
        for name in ("initialization", "policy"):
            self.streams[name] = SeedStreams(setting.seeds, name, setting.device)
        nets = self.learner_nets(setting)
        self.actor_net, self.critic_nets = nets["actor"][0], nets["critic"][: self.num_critics]
        self.actor, self.critic = (self._learner(name, nets[name], setting) for name in ("actor", "critic"))
        self.moments = self._moments(setting)
        self.inputs = NormalisedInput(self._task_input(setting, self.critic.views), self.moments)
        self.target_params = seedwise.copy(self.critic.params)
        self.target_views = self.critic.layout.views(self.target_params)
        self.temperatures = self._temperatures(setting)
        self.rewards = self._reward_scale(setting)
        self.greedy = SquashedGaussianPolicy(self.actor_net, self.actor.views, self.inputs)
        self.health = Health(*setting.cells, self.networks, setting.device)
        self.capturable = all(combiner.capturable for combiner in self.combiners)

    def _task_input(self, setting: Setting, views: Views) -> TaskInput | EmbeddedTaskInput:
        """What joins the observation, with the parameters of `_task_nets` among the views."""
        return TaskInput(setting.num_tasks, self.task_id_input, setting.device, setting.dtype)

    def _moments(self, setting: Setting) -> RunningMoments | AsTheyAre:
        return RunningMoments(setting) if self.normalise_observations else AsTheyAre()

    @property
    def learners(self) -> tuple[Learner, ...]:
        return (*super().learners, *self.temperatures.learners)

    def _temperatures(self, setting: Setting) -> EntropyWeight:
        entropy = -float(setting.action_size) if self.target_entropy is None else self.target_entropy
        how = (self._optimizer(), self.loss_reduction, self.streams["initialization"])
        return make_temperatures(self.temperature_kind, setting, self.initial_temperature, entropy, *how)

    def _reward_scale(self, setting: Setting) -> RewardScale:
        if self.normalise_rewards:
            return DeviationScale(setting.cells, setting.device, factor=self.reward_scale)
        if not self.normalise_returns:
            return ConstantScale(self.reward_scale)
        shape = (*setting.cells, setting.num_envs_per_task)
        return ReturnScale(shape, self.discount, self.value_limit, setting.device)

    def observe(self, transition: Transition) -> None:
        super().observe(transition)
        self.rewards.observe(transition)
        self.moments.update(transition.observation, self.health.halted)

    def _learner(self, name: str, nets: list[Network], setting: Setting) -> Learner:
        streams, optimizer = self.streams["initialization"], self._optimizer(self.weight_decay)
        how = (CLIPS[self.clip](self.max_grad_norm), self.gradient_scope, self.loss_reduction)
        return Learner(name, nets, setting.make_combiner(name), setting, streams, optimizer, *how)

    def _optimizer(self, weight_decay: float = 0.0, beta1: float = 0.9) -> MakeOptimizer:
        rate, epsilon = self.learning_rate, self.adam_epsilon
        return partial(SeedwiseAdam, learning_rate=rate, epsilon=epsilon, weight_decay=weight_decay, beta1=beta1)

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        outputs = self.actor_net(self.actor.views, self.inputs(observation))
        return squashed_gaussian(outputs, self._noise("exploration", observation))[0]

    def exploit(self, observation: Tensor) -> Tensor:
        return self.greedy(observation)

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of critics, actor and temperatures, and one of the target critics."""
        temperature = self.temperatures.log.exp()
        values, metrics = self._learn_values(batch, temperature)
        log_prob, of_actor = self._learn_actions(batch.observation, temperature)
        of_temperature = self.temperatures.update(log_prob, self.health)
        learning = (1 - self.health.halted).to(self.target_params.dtype).unsqueeze(1)
        self.target_params.lerp_(self.critic.params, self.tau * learning)
        self.health.count()
        metrics |= of_actor | of_temperature | {"temperature": temperature, "q_value": values.mean((0, 3))}
        return metrics | self.diagnostics

    def _learn_values(self, batch: Batch, temperature: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A step of the critics; the values [E, S, K, B] before it, and metrics."""
        target = self._target(batch, temperature)
        outputs = self._outputs(self.critic.views, batch.observation, batch.action, self.critic.gradients)

        def losses_again() -> Tensor:
            again = self._outputs(self.critic.views, batch.observation, batch.action)
            return self._weighted(self.head.losses(again, target))

        losses = self._weighted(self.head.losses(outputs, target))
        metrics = self.critic.step(losses, self.health, losses_again)
        return self.head.values(outputs.detach()), metrics

    def _learn_actions(self, observation: Tensor, temperature: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A step of the actor; the log-densities [S, K, B] of its actions before it, and metrics."""
        inputs = self.inputs(observation)
        noise = self._noise("policy", inputs)

        def losses_of(outputs: Tensor) -> tuple[Tensor, Tensor]:
            action, log_prob = squashed_gaussian(outputs, noise)
            value = self._value(self.critic.views, observation, action)
            return self._weighted(actor_losses(log_prob, value, temperature)), log_prob

        def losses_again() -> Tensor:
            return losses_of(self.actor_net(self.actor.views, inputs))[0]

        losses, log_prob = losses_of(self.actor_net(self.actor.views, inputs, self.actor.gradients))
        return log_prob.detach(), self.actor.step(losses, self.health, losses_again)

    def _weighted(self, losses: Tensor) -> Tensor:
        """Losses [S, K] as the combiner is to see them."""
        return losses if self.loss_weighting == "none" else losses * temperature_weights(self.temperatures.log)

    def _noise(self, stream: str, like: Tensor) -> Tensor:
        return self.streams[stream].normal_(like.new_empty(*like.shape[:3], self._action_size))

    def _value(self, views: Views, observation: Tensor, action: Tensor) -> Tensor:
        """The ensemble's Q-value [S, K, B] of observations [S, K, B, O] and actions [S, K, B, A]."""
        return self.head.pooled(self.head.values(self._outputs(views, observation, action)))

    def _outputs(self, views: Views, observation: Tensor, action: Tensor, recorder: Recorder | None = None) -> Tensor:
        """The critics' outputs [E, S, K, B, ·], which `head` reads."""
        pairs = torch.cat((self.inputs.of_critics(views, observation, recorder), action), -1)
        return torch.stack([net(views, pairs, recorder) for net in self.critic_nets])

    @torch.no_grad()
    def _target(self, batch: Batch, temperature: Tensor) -> Tensor:
        """What the critics are to predict, as `head` has it."""
        inputs = self.inputs(batch.next_observation)
        outputs = self.actor_net(self.actor.views, inputs)
        action, log_prob = squashed_gaussian(outputs, self._noise("policy", inputs))
        reward = self.rewards(batch.reward)

        def backup(value: Tensor) -> Tensor:
            return td_target(reward, batch.terminated, value, log_prob, temperature, self.discount)

        return self.head.target(self._outputs(self.target_views, batch.next_observation, action), backup)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "target_params": self.target_params,
            **self.temperatures.state_dict(),
            "rewards": self.rewards.state_dict(),
            "observations": self.moments.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "health" not in state:
            raise ValueError("its checkpoints are of an earlier version, which can be evaluated but not resumed")
        super().load_state_dict(state)
        self.target_params.copy_(state["target_params"])
        self.temperatures.load_state_dict(state)
        # Earlier checkpoints have none of these two where there was no state.
        self.rewards.load_state_dict(state.get("rewards", {}))
        self.moments.load_state_dict(state.get("observations", {}))

    def policy_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {"params": state["actor"]["params"], "observations": state.get("observations", {})}

    def policy(self, setting: Setting, state: Mapping[str, Any]) -> SquashedGaussianPolicy:
        net, moments = self._actor_net(setting, self._task_size(setting)), self._moments(setting)
        views = actor_views([net], setting, state)
        moments.load_state_dict(state.get("observations", {}))
        return SquashedGaussianPolicy(net, views, NormalisedInput(self._task_input(setting, state), moments))
