"""The replay ring."""

from __future__ import annotations

import torch

from mtrl_conic.agents.replay import ReplayBuffer


def fill(buffer, start, stop, num_envs=1):
    """Add transitions whose reward is their number."""
    seeds, tasks = buffer.storage.shape[:2]
    for number in range(start, stop, num_envs):
        reward = torch.arange(number, number + num_envs).float().expand(seeds, tasks, num_envs)
        observation = reward.unsqueeze(-1).expand(-1, -1, -1, 2)
        buffer.add(observation, observation[..., :1], reward, observation + 1, reward * 0)


def test_holds_the_newest_and_samples_only_those():
    buffer = ReplayBuffer([0, 1], 3, 2, 1, capacity_per_task=10)
    fill(buffer, 0, 4)
    assert len(buffer) == 4
    assert set(buffer.sample(200).reward.flatten().tolist()) == {0, 1, 2, 3}
    fill(buffer, 4, 28, num_envs=4)
    batch = buffer.sample(500)
    assert set(batch.reward.flatten().tolist()) == set(range(18, 28))
    assert batch.observation.shape == (2, 3, 500, 2)
    assert torch.equal(batch.next_observation, batch.observation + 1)
    assert torch.equal(batch.action[..., 0], batch.reward)


def test_a_seed_samples_the_same_alone():
    together, alone = (ReplayBuffer(seeds, 2, 2, 1, 50) for seeds in ([4, 9], [9]))
    for buffer in (together, alone):
        fill(buffer, 0, 30)
    for _ in range(3):
        assert torch.equal(together.sample(7).reward[1], alone.sample(7).reward[0])


def test_rows_keep_seeds_and_tasks_apart():
    buffer = ReplayBuffer([0, 1], 2, 1, 1, 5)
    names = torch.arange(4.0).view(2, 2, 1)
    for _ in range(5):
        buffer.add(names.unsqueeze(-1), names.unsqueeze(-1), names, names.unsqueeze(-1), names * 0)
    assert torch.equal(buffer.sample(9).reward, names.expand(2, 2, 9))


def test_read_rows_follow_the_stream_around_the_ring():
    buffer = ReplayBuffer([0], 1, 2, 1, 10)
    fill(buffer, 0, 17)
    assert buffer.read_rows(8, 17)[0, 0, :, 3].tolist() == list(range(8, 17))
