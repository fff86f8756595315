"""What an agent is, and what the training loop and those who play its policy ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mtrl_conic.agents.estimates import Product
from mtrl_conic.agents.health import Health
from mtrl_conic.combiners.base import Combiner
from mtrl_conic.system.segments import Memory


def _no_combiner(network: str) -> Combiner:
    raise LookupError(f"no combiner for {network}: this setting is that of a policy")


@dataclass(frozen=True)
class Setting:
    """What an agent is set up for; S seeds, K tasks, N environments per task, O and A the sizes of their spaces.

    Args:
        seeds: the S seeds.
        num_tasks: K.
        observation_size, action_size: O, A.
        num_envs_per_task: N.
        make_combiner: gives a new combiner, not yet set up, for the network of a name.
        device, dtype: of the parameters.
        action_repeat: environment steps that an action is held for.
    """

    seeds: Sequence[int]
    num_tasks: int
    observation_size: int
    action_size: int
    num_envs_per_task: int = 1
    make_combiner: Callable[[str], Combiner] = _no_combiner
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    action_repeat: int = 1

    @property
    def steps_per_decision(self) -> int:
        """Environment steps per task that a vector step counts as."""
        return self.num_envs_per_task * self.action_repeat

    @property
    def cells(self) -> tuple[int, int]:
        """S, K."""
        return len(self.seeds), self.num_tasks


class Transition(NamedTuple):
    """One step of every environment, on the device, or all those that an action was held for.

    An episode ends where it is `terminated`, by its task, or `truncated`, by the clock: it would have gone on.
    """

    observation: Tensor  # [S, K, N, O]
    action: Tensor  # [S, K, N, A]
    reward: Tensor  # [S, K, N], the sum over those steps
    next_observation: Tensor  # [S, K, N, O], of the same episode also where it ends
    terminated: Tensor  # [S, K, N], 1 or 0
    truncated: Tensor  # [S, K, N], 1 or 0


class ActingPolicy(ABC):
    """What acts after training: a function of the observation, for S seeds at once."""

    @abstractmethod
    def __call__(
        self, observation: Tensor, tasks: Sequence[int] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Actions [S, T, N, A] in [-1, 1] for observations [S, T, N, O] of T tasks.

        Args:
            observation: as the environments give it.
            tasks: the T tasks' numbers, which may repeat; by default all K in order.
            generator: draws the noise of an action that the policy samples; without one the actions are
                deterministic.
        """


class Agent(ABC):
    """Learns K tasks, for S seeds that share nothing.

    It is made in two phases. The constructor takes the hyperparameters as keyword arguments, checks them and raises
    `ValueError` that names the value and the range ("tau must be ..., not 2"); it builds nothing. `setup` builds. What
    needs no setup (`needs`, `work`, `products`, `parameter_counts`, `check`, `policy`) may be asked of an agent that is
    not set up.

    For each vector step the training loop calls `explore`, `observe` and, as often as `updates_due` says, `update`.
    The agent owns its memory: a replay, or a rollout.

    Attributes:
        networks: the names of the networks that have a combiner; a constructor may choose them by its hyperparameters.
        changeable: hyperparameters that a resumed run may change.
        overlaps: updates are made while the environments step: after `explore`, before `observe`. Otherwise they are
            made after `observe`, and the environments wait.
        capturable: an update can be recorded as a CUDA graph: it reads nothing back to the host. Set by `setup`.
        device: set by `setup`.
        steps_per_decision: environment steps per task that a vector step counts as, the setting's; set by `setup`.
        health: which seeds still learn; of the others nothing moves. Set by `setup`.
        memory: what is saved in segments beside the checkpoints, as it is large; None where `state_dict` has it all.
    """

    networks: tuple[str, ...] = ()
    changeable: ClassVar[tuple[str, ...]] = ()
    overlaps: ClassVar[bool] = True
    capturable: bool = False
    device: torch.device
    steps_per_decision: int = 1
    health: Health
    memory: Memory | None = None

    @abstractmethod
    def setup(self, setting: Setting) -> None:
        """Build what learns; called once.

        Raises:
            ValueError: the hyperparameters do not fit the setting.
        """

    @abstractmethod
    def explore(self, observation: Tensor) -> Tensor:
        """Actions [S, K, N, A] to learn from, for observations [S, K, N, O].

        What learning needs to know of them, such as their log-densities, the agent keeps in tensors of its own, which
        it overwrites: a recorded call runs no other code.
        """

    @abstractmethod
    def exploit(self, observation: Tensor) -> Tensor:
        """Deterministic actions [S, K, N, A] for observations [S, K, N, O], as those of `policy`."""

    @abstractmethod
    def observe(self, transition: Transition) -> None:
        """Take a vector step into the memory; the tensors may be overwritten afterwards."""

    @abstractmethod
    def updates_due(self) -> int:
        """How many updates are to be made now; asked once per vector step."""

    @abstractmethod
    def update(self) -> dict[str, Tensor]:
        """One step of the optimizer of each network.

        Returns:
            Metrics by their names in the log, [S] or [S, K] each: `loss/<network>` [S, K] and others.
        """

    def steps_since(self, updates: int) -> int:
        """Environment steps per task since the update so many updates ago, from 1; by default one per vector step."""
        return updates * self.steps_per_decision

    def explore_kind(self) -> Hashable:
        """What the host knows of the next `explore`: where these differ, they are recorded apart."""
        return None

    def update_kind(self) -> Hashable:
        """What the host knows of the next `update`: where these differ, they are recorded apart."""
        return None

    def replayed(self) -> None:
        """Count an update that was replayed from a recording: no code of `update` ran on the host."""

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """Metrics that come only with some updates, always in the same tensors, which later updates write into."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that goes on, the rows of `memory` aside: tensors, numbers and text in dicts and lists."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same settings, seeds and tasks, in place.

        Raises:
            ValueError: it cannot go on from this state; one line says why.
        """

    @abstractmethod
    def policy_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What `policy` needs of a state of `state_dict`: tensors [S, ...] in dicts. The agent need not be set up."""

    @abstractmethod
    def policy(self, setting: Setting, state: Mapping[str, Any]) -> ActingPolicy:
        """What acts, from the settings and a `policy_state` alone; needs no `setup`, combiner or critic.

        Raises:
            ValueError: the state does not fit the settings.
        """

    def check(self, setting: Setting) -> None:
        """See before anything is built whether the hyperparameters fit the setting.

        Raises:
            ValueError: they do not.
        """

    def check_length(self, steps_per_task: int) -> None:
        """See whether a run of that many environment steps per task can be what the hyperparameters ask for.

        Raises:
            ValueError: it cannot.
        """

    def first_update(self, setting: Setting) -> int:
        """Environment steps per task that a run must have for an update."""
        return 0

    def needs(self, setting: Setting) -> dict[str, int]:
        """The least bytes of the device's memory that single hyperparameters ask for, by their names."""
        return {}

    def parameter_counts(self, setting: Setting) -> dict[str, int]:
        """How many numbers a seed learns in each network, by its name; targets and temperatures aside."""
        return {}

    def work(self, setting: Setting) -> float:
        """Multiplications in one forward pass of an update, which decide how many threads are worthwhile on a CPU."""
        return 0.0

    def products(self, setting: Setting) -> list[Product]:
        """The matrix products of one update, what a combiner adds aside: the floor of its time, for benchmarks.

        An agent that lists none is measured without it.
        """
        return []
