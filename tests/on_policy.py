"""The smallest on-policy agent: a rollout, then epochs of minibatches, with observation statistics in its policy.

It is written as a user would in a folder of their own, and learns by REINFORCE with reward-to-go.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from mtrl_conic.agents.clipping import NetworkClip
from mtrl_conic.agents.health import Health
from mtrl_conic.agents.learner import Learner
from mtrl_conic.agents.optimizer import SeedwiseAdam
from mtrl_conic.agents.protocol import Agent
from mtrl_conic.agents.squashed import SquashedGaussianPolicy
from mtrl_conic.networks.protocol import Network, layout_of
from mtrl_conic.system.streams import SeedStreams
from mtrl_conic.system.validation import instance, positive, whole


class Normalised:
    """Observations by the mean and scale [S, K, O] of those seen."""

    def __init__(self, mean, scale):
        self.mean, self.scale = mean, scale

    def __call__(self, observation, tasks=None):
        chosen = slice(None) if tasks is None else list(tasks)
        return (observation - self.mean[:, chosen].unsqueeze(2)) / self.scale[:, chosen].unsqueeze(2)


class TinyOnPolicy(Agent):
    networks = ("policy",)
    overlaps = False

    def __init__(self, network, rollout_steps=20, epochs=2, minibatches=2, learning_rate=1e-3):
        self.network = instance("network", network, Network)
        self.rollout_steps = whole("rollout_steps", rollout_steps, 1)
        self.epochs, self.minibatches = whole("epochs", epochs, 1), whole("minibatches", minibatches, 1)
        self.learning_rate = positive("learning_rate", learning_rate)

    def setup(self, setting):
        self.device, self.steps_per_decision = torch.device(setting.device), setting.steps_per_decision
        (S, K), T, N = setting.cells, self.rollout_steps, setting.num_envs_per_task
        O, A = setting.observation_size, setting.action_size
        zeros = partial(torch.zeros, device=setting.device, dtype=setting.dtype)
        names = ("initialization", "exploration", "order")
        self.streams = {name: SeedStreams(setting.seeds, name, setting.device) for name in names}
        self.net = self.made(setting)
        adam = partial(SeedwiseAdam, learning_rate=self.learning_rate, epsilon=1e-8)
        combiner, streams = setting.make_combiner("policy"), self.streams["initialization"]
        self.learner = Learner("policy", [self.net], combiner, setting, streams, adam, NetworkClip(1.0))
        # The rollout; what explore knows of an action waits in `raw` for observe.
        self.raw = zeros(S, K, N, A)
        self.rollout = {
            "observation": zeros(S, K, T, N, O),
            "raw": zeros(S, K, T, N, A),
            "reward": zeros(S, K, T, N),
            "ended": zeros(S, K, T, N),
        }
        self.returns, self.position = zeros(S, K, T * N), 0
        self.order = torch.zeros(S, K, self.epochs * T * N, dtype=torch.long, device=setting.device)
        self.number = torch.zeros((), dtype=torch.long, device=setting.device)  # of the next minibatch
        self.statistics = {"mean": zeros(S, K, O), "scale": zeros(S, K, O) + 1}
        self.inputs = Normalised(**self.statistics)
        self.greedy = SquashedGaussianPolicy(self.net, self.learner.views, self.inputs)
        self.health = Health(S, K, self.networks, setting.device)
        self.capturable = self.learner.combiner.capturable

    def made(self, setting):
        return self.network.made("policy", setting.observation_size, 2 * setting.action_size, setting.num_tasks)

    @torch.no_grad()
    def explore(self, observation):
        mean, log_std = self.net(self.learner.views, self.inputs(observation)).chunk(2, -1)
        noise = self.streams["exploration"].normal_(torch.empty_like(mean))
        self.raw.copy_(mean + log_std.clamp(-5, 2).exp() * noise)
        return self.raw.tanh().to(observation)

    def exploit(self, observation):
        return self.greedy(observation)

    def observe(self, transition):
        row = self.position % self.rollout_steps
        ended = torch.maximum(transition.terminated, transition.truncated)
        values = {"observation": transition.observation, "raw": self.raw, "reward": transition.reward, "ended": ended}
        for name, value in values.items():
            self.rollout[name][:, :, row] = value
        self.position = row + 1
        if self.position == self.rollout_steps:
            self.prepare()

    def prepare(self):
        """Returns, statistics and the order of the minibatches, once the rollout is full."""
        returns = torch.zeros_like(self.rollout["reward"])
        following = torch.zeros_like(returns[:, :, 0])
        for row in reversed(range(self.rollout_steps)):
            following = self.rollout["reward"][:, :, row] + 0.9 * following * (1 - self.rollout["ended"][:, :, row])
            returns[:, :, row] = following
        flat = returns.flatten(2)
        self.returns.copy_((flat - flat.mean(2, keepdim=True)) / (flat.std(2, keepdim=True) + 1e-3))
        seen, learning = self.rollout["observation"].flatten(2, 3), (1 - self.health.halted)[:, None, None]
        self.statistics["mean"].lerp_(seen.mean(2), (0.1 * learning).to(seen))
        self.statistics["scale"].lerp_(seen.std(2) + 0.1, (0.1 * learning).to(seen))
        rows = self.returns.shape[2]
        for epoch in range(self.epochs):
            drawn = self.streams["order"].uniform_(torch.empty_like(self.returns))
            self.order[:, :, epoch * rows : (epoch + 1) * rows] = drawn.argsort(2)
        self.number.zero_()

    def updates_due(self):
        return self.epochs * self.minibatches if self.position == self.rollout_steps else 0

    def update(self):
        size = self.order.shape[2] // (self.epochs * self.minibatches)
        places = self.number * size + torch.arange(size, device=self.device)
        rows = self.order.index_select(2, places)
        self.number.add_(1)

        def of_rows(values):
            index = rows.unsqueeze(-1).expand(-1, -1, -1, values.shape[-1])
            return values.gather(2, index)

        inputs = self.inputs(of_rows(self.rollout["observation"].flatten(2, 3)))
        raw = of_rows(self.rollout["raw"].flatten(2, 3))
        returns = self.returns.gather(2, rows)

        def losses(recorder=None):
            mean, log_std = self.net(self.learner.views, inputs, recorder).chunk(2, -1)
            log_std = log_std.clamp(-5, 2)
            scaled = (raw - mean) / log_std.exp()
            log_prob = -(0.5 * scaled.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
            return -(log_prob * returns).mean(-1)

        metrics = self.learner.step(losses(self.learner.gradients), self.health, losses)
        self.health.count()
        return metrics | self.diagnostics

    def steps_since(self, updates):
        in_a_burst = self.epochs * self.minibatches
        bursts = -(-updates // in_a_burst) - 1
        return (bursts * self.rollout_steps + self.position % self.rollout_steps) * self.steps_per_decision

    def update_kind(self):
        return self.learner.combiner.needs_jacobian()

    def replayed(self):
        self.learner.combiner.replayed()

    @property
    def diagnostics(self):
        return self.learner.diagnostics

    def state_dict(self):
        kept = {name: getattr(self, name) for name in ("raw", "returns", "order", "number", "rollout", "statistics")}
        kept |= {"learner": self.learner.state_dict(), "health": self.health.state_dict(), "position": self.position}
        return kept | {"streams": {name: stream.state_dict() for name, stream in self.streams.items()}}

    def load_state_dict(self, state):
        for name in ("raw", "returns", "order", "number"):
            getattr(self, name).copy_(state[name])
        for name in ("rollout", "statistics"):
            for key, value in getattr(self, name).items():
                value.copy_(state[name][key])
        self.learner.load_state_dict(state["learner"])
        self.health.load_state_dict(state["health"])
        for name, stream in self.streams.items():
            stream.load_state_dict(state["streams"][name])
        self.position = state["position"]

    def policy_state(self, state):
        return {"params": state["learner"]["params"], "statistics": state["statistics"]}

    def policy(self, setting, state):
        net = self.made(setting)
        layout, statistics = layout_of([net]), state["statistics"]
        if state["params"].shape[-1] != layout.size or statistics["mean"].shape[-1] != setting.observation_size:
            raise ValueError("the weights are of other sizes")
        moved = {name: value.to(setting.device) for name, value in statistics.items()}
        return SquashedGaussianPolicy(net, layout.views(state["params"].to(setting.device)), Normalised(**moved))
