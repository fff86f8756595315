"""The same update as researchers write it today: plain modules, and one backward pass per task, or TorchJD's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mtrl_conic.agents.losses import squashed_gaussian
from mtrl_conic.agents.replay import Batch, ReplayBuffer
from mtrl_conic.benchmark.learning import LearningAgent, Sizes
from mtrl_conic.benchmark.options import Options
from mtrl_conic.benchmark.timing import in_turns
from mtrl_conic.benchmark.updates import sizes_of
from mtrl_conic.gradients.backward import MultiTaskBackward
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.system.heap import keep_freed_memory

Fill = Callable[[nn.Module, Tensor, Any], None]  # fills .grad from the losses [K] and the trunks' features


class _Network(nn.Module):
    """A trunk of ReLU layers and one linear head per task, for rows [K, B, I]."""

    def __init__(self, inputs: int, hidden: list[int], outputs: int, num_tasks: int) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in zip(widths, hidden, strict=False)]
        self.trunk = nn.Sequential(*(module for pair in layers for module in pair))
        self.heads = nn.ModuleList(nn.Linear(hidden[-1], outputs) for _ in range(num_tasks))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        outputs = [head(rows) for head, rows in zip(self.heads, features.unbind(0), strict=True)]
        return torch.stack(outputs), features


class PlainSAC:
    """Multi-head SAC for one seed in the plainest PyTorch, with the same shapes and numbers of passes as the agent.

    Args:
        config: settings of the agent.
        sizes: K, O, A.
        fill: how gradients are filled.
    """

    def __init__(self, config: TrainConfig, sizes: Sizes, fill: Fill) -> None:
        num_tasks, observation_size, action_size = sizes
        self.settings, self.fill = config.agent, fill
        inputs, hidden = observation_size + num_tasks, config.agent["network"]["hidden_sizes"]
        self.actor = _Network(inputs, hidden, 2 * action_size, num_tasks)
        self.critics, self.targets = (
            nn.ModuleList(_Network(inputs + action_size, hidden, 1, num_tasks) for _ in range(2)) for _ in range(2)
        )
        self.log_temperature = torch.zeros(num_tasks, requires_grad=True)
        rate = config.agent["learning_rate"]
        groups = (self.actor.parameters(), self.critics.parameters(), [self.log_temperature])
        self.optimizers = [torch.optim.Adam(group, rate) for group in groups]
        self.task_id = torch.eye(num_tasks).unsqueeze(1)
        self.action_size = action_size

    def update(self, batch: Batch) -> None:
        """One gradient step of critics, actor and temperatures, and one of the targets; batch of one seed."""
        observation, action, reward, after, terminated = (tensor[0] for tensor in batch)
        inputs, next_inputs = self._inputs(observation), self._inputs(after)
        temperature = self.log_temperature.detach().exp().unsqueeze(1)
        with torch.no_grad():
            next_action, next_log_prob = self._sample(self.actor(next_inputs)[0])
            value = self._values(self.targets, next_inputs, next_action)[0].amin(0) - temperature * next_log_prob
            target = reward + self.settings["discount"] * (1 - terminated) * value
        values, features = self._values(self.critics, inputs, action)
        self._step(self.optimizers[1], self.critics, (values - target).square().mean(0).mean(1), features)

        outputs, features = self.actor(inputs)
        new_action, log_prob = self._sample(outputs)
        self.critics.requires_grad_(False)
        value = self._values(self.critics, inputs, new_action)[0].amin(0)
        self._step(self.optimizers[0], self.actor, (temperature * log_prob - value).mean(1), features)
        self.critics.requires_grad_(True)

        self.optimizers[2].zero_grad()
        (-self.log_temperature * (log_prob.detach().mean(1) - self.action_size)).mean().backward()
        self.optimizers[2].step()
        with torch.no_grad():
            for old, new in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                old.lerp_(new, self.settings["tau"])

    def _step(self, optimizer: torch.optim.Optimizer, network: nn.Module, losses: Tensor, features: Any) -> None:
        optimizer.zero_grad()
        self.fill(network, losses, features)
        nn.utils.clip_grad_norm_(network.parameters(), self.settings["max_grad_norm"])
        optimizer.step()

    def _inputs(self, observation: Tensor) -> Tensor:
        return torch.cat((observation, self.task_id.expand(-1, observation.shape[1], -1)), -1)

    def _values(self, critics: nn.ModuleList, inputs: Tensor, action: Tensor) -> tuple[Tensor, list[Tensor]]:
        results = [critic(torch.cat((inputs, action), -1)) for critic in critics]
        return torch.stack([values.squeeze(-1) for values, _ in results]), [features for _, features in results]

    def _sample(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        return squashed_gaussian(outputs, torch.randn(*outputs.shape[:-1], self.action_size))


def _parts(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Shared parameters and those of the heads."""
    named = list(network.named_parameters())
    return [p for n, p in named if "trunk" in n], [p for n, p in named if "heads" in n]


def mean_loss() -> Fill:
    """One backward pass from the mean loss."""
    return lambda network, losses, features: losses.mean().backward()


def backward_per_task(config: TrainConfig, num_tasks: int) -> Fill:
    """K backward passes, then the project's own combiner."""
    made: dict[nn.Module, MultiTaskBackward] = {}

    def fill(network: nn.Module, losses: Tensor, features: Any) -> None:
        if network not in made:
            made[network] = MultiTaskBackward(config.make_combiner(), *_parts(network), num_tasks=num_tasks)
        made[network](losses)

    return fill


def torchjd_backward(aggregator: str) -> Fill:
    """TorchJD's multi-task backward with an aggregator of its own."""
    from torchjd import aggregation
    from torchjd.autojac import jac_to_grad, mtl_backward

    aggregate = getattr(aggregation, aggregator)()

    def fill(network: nn.Module, losses: Tensor, features: Any) -> None:
        shared, _ = _parts(network)
        mtl_backward(list(losses.unbind()), features, retain_graph=True)  # the losses share a stack
        jac_to_grad(shared, aggregate)

    return fill


def filled_replay(config: TrainConfig, sizes: Sizes) -> ReplayBuffer:
    """A replay of random transitions of which none terminates."""
    replay = ReplayBuffer(config.seeds, *sizes, 20_000, config.torch_device())
    replay.storage.normal_()
    replay.storage[..., -1] = 0
    replay.total = 20_000
    replay.size.fill_(20_000)
    return replay


def peer(config: TrainConfig, sizes: Sizes, replay: ReplayBuffer, fill: Fill) -> Callable[[], object]:
    """One update of the peer."""
    agent = PlainSAC(config, sizes, fill)
    return lambda: agent.update(replay.sample(config.agent["batch_size_per_task"]))


def benchmark_peers(options: Options) -> dict[str, Any]:
    """Median milliseconds of one update, the agent's and the peers', with the same network, batch and method."""
    keep_freed_memory()
    names = ("ls", "conicgrad", "pcgrad", "mgda")
    env, rounds = options.env, options.rounds
    configs = {name: compose_config([f"env={env}", f"combiner={name}", "device=cpu"]) for name in names}
    config = configs["ls"]
    sizes = sizes_of(config)
    replay = filled_replay(config, sizes)
    agents = {name: LearningAgent(configs[name], sizes, replay) for name in names}
    functions: dict[str, Callable[[], object]] = {name: each.update for name, each in agents.items()}
    fills = {"plain modules, mean loss": mean_loss()}
    for name in names[1:]:
        fills[f"a backward pass per task, {name}"] = backward_per_task(configs[name], sizes[0])
    for aggregator in ("Mean", "PCGrad", "MGDA"):
        fills[f"TorchJD, {aggregator}"] = torchjd_backward(aggregator)
    functions |= {name: peer(config, sizes, replay, fill) for name, fill in fills.items()}
    medians = in_turns(functions, rounds, unmeasured=1)  # an update of these agents may follow another
    batch, trunk = config.agent["batch_size_per_task"], config.agent["network"]["hidden_sizes"]
    print(f"one update, {env}, batch {batch} per task, trunk {trunk}")
    print(f"{'':<36}{'ms':>8}{'/ own':>8}")
    for name, seconds in medians.items():
        own = medians.get(_OWN.get(name.split(", ")[-1].lower(), name), seconds)
        print(f"{name:<36}{1e3 * seconds:>8.1f}{seconds / own:>8.2f}")
    return {"env": env, "milliseconds": {name: 1e3 * seconds for name, seconds in medians.items()}, "rounds": rounds}


_OWN = {"mean loss": "ls", "mean": "ls", "conicgrad": "conicgrad", "pcgrad": "pcgrad", "mgda": "mgda"}
