"""Multi-task soft actor-critic with combined gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mtrl_conic.agents.health import Health
from mtrl_conic.agents.learner import AgentConfig, Learner
from mtrl_conic.agents.losses import actor_losses, critic_losses, squashed_gaussian, td_target, temperature_losses
from mtrl_conic.agents.optimizer import SeedwiseAdam
from mtrl_conic.agents.replay import Batch
from mtrl_conic.combiners.base import Combiner
from mtrl_conic.networks.layers import Recorder
from mtrl_conic.networks.layout import Layout
from mtrl_conic.networks.multi_head import MultiHeadMLP
from mtrl_conic.networks.protocol import Network
from mtrl_conic.system.streams import SeedStreams


class MultiTaskSAC:
    """S independent multi-head SAC agents, each learning the same K tasks.

    Args:
        config: settings.
        seeds: the S seeds; each has its own weights, noise and combiner state.
        num_tasks: K.
        observation_size, action_size: O, A.
        make_combiner: builds a combiner; called once for the critic ensemble and once for the actor.

    Attributes:
        health: which seeds still learn; of the others nothing moves.
    """

    def __init__(
        self,
        config: AgentConfig,
        seeds: Sequence[int],
        num_tasks: int,
        observation_size: int,
        action_size: int,
        make_combiner: Callable[[], Combiner],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.num_tasks, self.action_size = config, num_tasks, action_size
        self.device, self.dtype = torch.device(device), dtype
        self.target_entropy = -float(action_size) if config.target_entropy is None else config.target_entropy
        self.streams = {name: SeedStreams(seeds, name, device) for name in ("initialization", "exploration", "policy")}
        input_size = observation_size + (num_tasks if config.task_id_input else 0)
        hidden = config.hidden_sizes
        self.actor_net = MultiHeadMLP("actor", input_size, hidden, 2 * action_size, num_tasks, config.layer_norm)
        self.critic_nets = [
            MultiHeadMLP(f"critic{e}", input_size + action_size, hidden, 1, num_tasks, config.layer_norm)
            for e in range(config.num_critics)
        ]
        self.actor = self._learner("actor", [self.actor_net], make_combiner(), seeds)
        self.critic = self._learner("critic", self.critic_nets, make_combiner(), seeds)
        self.target_params = self.critic.params.clone()
        self.target_views = self.critic.layout.views(self.target_params)
        shape = (len(seeds), num_tasks)
        initial = torch.tensor(config.initial_temperature, dtype=dtype).log().item()
        self.log_temperature = torch.full(shape, initial, device=device, dtype=dtype)
        self._temperature_gradient = torch.zeros_like(self.log_temperature)
        self.temperature_optimizer = SeedwiseAdam(
            self.log_temperature, self._temperature_gradient, config.learning_rate, config.adam_epsilon
        )
        self.task_id = torch.eye(num_tasks, device=device, dtype=dtype).view(1, num_tasks, 1, num_tasks)
        self.health = Health(*shape, ("critic", "actor"), device)

    def _learner(self, name: str, nets: Sequence[Network], combiner: Combiner, seeds: Sequence[int]) -> Learner:
        combiner.network = name
        combiner.setup(seeds, self.num_tasks, self.device)
        layout = Layout({name: parameter for net in nets for name, parameter in net.parameters.items()})
        streams = self.streams["initialization"]
        return Learner(layout, combiner, self.config, streams, self.num_tasks, self.device, self.dtype)

    @torch.no_grad()
    def act(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        """Actions [S, K, N, A] in (-1, 1) for observations [S, K, N, O]; exploring unless `deterministic`."""
        outputs = self.actor_net(self.actor.views, self._inputs(observation))
        if deterministic:
            return outputs.chunk(2, dim=-1)[0].tanh()
        return squashed_gaussian(outputs, self._noise("exploration", observation))[0]

    def random_actions(self, observation: Tensor) -> Tensor:
        """Actions uniform in [-1, 1) of the shape that `act` gives."""
        shape = (*observation.shape[:-1], self.action_size)
        return self.streams["exploration"].uniform_(observation.new_empty(shape)) * 2 - 1

    @property
    def combiners(self) -> tuple[Combiner, Combiner]:
        """The critic ensemble's and the actor's."""
        return self.critic.combiner, self.actor.combiner

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """What the combiners have last shown, by names in the log; later updates write into the same tensors."""
        return self.critic.diagnostics | self.actor.diagnostics

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of critics, actor and temperatures, and one of the target critics.

        Returns:
            Metrics by their names in the log, [S] or [S, K] each; later updates write into those of `diagnostics`.
        """
        inputs, temperature = self._inputs(batch.observation), self.log_temperature.exp()
        target = self._target(batch, temperature)
        values = self._values(self.critic.views, inputs, batch.action, self.critic.gradients)
        losses = critic_losses(values, target)
        metrics = self.critic.step(
            losses, self.health, lambda: critic_losses(self._values(self.critic.views, inputs, batch.action), target)
        )

        outputs = self.actor_net(self.actor.views, inputs, self.actor.gradients)
        noise = self._noise("policy", batch.observation)
        losses, log_prob = self._actor_losses(outputs, noise, inputs, temperature)
        act_again = lambda: self.actor_net(self.actor.views, inputs)  # noqa: E731
        again = lambda: self._actor_losses(act_again(), noise, inputs, temperature)[0]  # noqa: E731
        metrics |= self.actor.step(losses, self.health, again)

        self._update_temperature(log_prob.detach())
        learning = (1 - self.health.halted).to(self.dtype).unsqueeze(1)
        self.target_params.lerp_(self.critic.params, self.config.tau * learning)
        self.health.count()
        metrics |= {"temperature": temperature, "q_value": values.detach().mean((0, 3))}
        return metrics | self.diagnostics

    def _inputs(self, observation: Tensor) -> Tensor:
        if not self.config.task_id_input:
            return observation
        return torch.cat((observation, self.task_id.expand(*observation.shape[:3], -1)), -1)

    def _noise(self, stream: str, like: Tensor) -> Tensor:
        return self.streams[stream].normal_(like.new_empty(*like.shape[:3], self.action_size))

    def _actor_losses(
        self, outputs: Tensor, noise: Tensor, inputs: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses [S, K] and log-densities [S, K, B] of the policy's outputs [S, K, B, 2A]."""
        action, log_prob = squashed_gaussian(outputs, noise)
        value = self._values(self.critic.views, inputs, action).amin(0)
        return actor_losses(log_prob, value, temperature), log_prob

    def _values(
        self, views: dict[str, Tensor], inputs: Tensor, action: Tensor, recorder: Recorder | None = None
    ) -> Tensor:
        """Q-values [E, S, K, B] of inputs [S, K, B, ·] and actions [S, K, B, A]."""
        pairs = torch.cat((inputs, action), -1)
        return torch.stack([net(views, pairs, recorder).squeeze(-1) for net in self.critic_nets])

    @torch.no_grad()
    def _target(self, batch: Batch, temperature: Tensor) -> Tensor:
        inputs = self._inputs(batch.next_observation)
        outputs = self.actor_net(self.actor.views, inputs)
        action, log_prob = squashed_gaussian(outputs, self._noise("policy", batch.next_observation))
        value = self._values(self.target_views, inputs, action).amin(0)
        reward = self.config.reward_scale * batch.reward
        return td_target(reward, batch.terminated, value, log_prob, temperature, self.config.discount)

    def _update_temperature(self, log_prob: Tensor) -> None:
        log_temperature = self.log_temperature.detach().requires_grad_()
        losses = temperature_losses(log_temperature, log_prob, self.target_entropy)
        # The seeds' losses are added: a mean over them would shrink each one's step.
        self._temperature_gradient.copy_(torch.autograd.grad(losses.mean(1).sum(), log_temperature)[0])
        self.temperature_optimizer.step(self.health.halted)

    def state_dict(self) -> dict[str, Any]:
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target_params": self.target_params,
            "log_temperature": self.log_temperature,
            "temperature_optimizer": self.temperature_optimizer.state_dict(),
            "health": self.health.state_dict(),
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.target_params.copy_(state["target_params"])
        self.log_temperature.copy_(state["log_temperature"])
        self.temperature_optimizer.load_state_dict(state["temperature_optimizer"])
        self.health.load_state_dict(state["health"])
        for name, stream in self.streams.items():
            stream.load_state_dict(state["streams"][name])
