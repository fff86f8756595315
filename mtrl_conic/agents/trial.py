"""An agent of a user's own set up and asked for actions, so that what is wrong with it is said before work starts."""

from __future__ import annotations

from dataclasses import replace

import torch

from mtrl_conic.agents.off_policy import OffPolicyAgent
from mtrl_conic.agents.protocol import Agent, Setting
from mtrl_conic.system.trial import check_tensor, explained

_MOST_SEEDS = 2
_CAPACITY = 16  # of a replay that is never filled


def try_out(agent: Agent, setting: Setting) -> None:
    """Set an agent up for few seeds on the CPU, which uses it up, and look at the actions that it gives.

    Raises:
        ValueError, ImportError: its `setup` does not take the setting; a TrialError names its class.
    """
    kind = type(agent).__name__
    setting = replace(setting, seeds=list(setting.seeds)[:_MOST_SEEDS], device="cpu")
    if isinstance(agent, OffPolicyAgent):  # nobody waits for gigabytes of zeros
        agent.capacity_per_task = min(agent.capacity_per_task, max(_CAPACITY, setting.num_envs_per_task))
    with torch.random.fork_rng([]):
        with explained(f"{kind}.setup"):
            agent.setup(setting)
        rows = (*setting.cells, setting.num_envs_per_task)
        observation = torch.zeros(*rows, setting.observation_size, dtype=setting.dtype)
        for method in ("explore", "act", "exploit"):
            act = getattr(agent, method, None)
            if act is None:
                continue  # off-policy ones alone draw other actions first
            with explained(f"{kind}.{method}"):
                actions = act(observation)
            check_tensor(f"{kind}.{method}", actions, "[S, K, N, A]", torch.Size([*rows, setting.action_size]))
