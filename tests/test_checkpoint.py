"""Which checkpoints are kept, and which one is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtrl_conic.agents.replay import ReplayBuffer
from mtrl_conic.runs.checkpoint import CheckpointError, Checkpoints

SEEDS, TASKS, CAPACITY = [0, 1], 3, 150


def replay() -> ReplayBuffer:
    return ReplayBuffer(SEEDS, TASKS, 2, 1, CAPACITY)


def fill(buffer: ReplayBuffer, stop: int) -> None:
    """Rows that tell their number: row t holds t + 1."""
    count = stop - buffer.total
    numbers = torch.arange(buffer.total + 1.0, stop + 1.0).view(1, 1, count, 1)
    buffer.write_rows(buffer.total, numbers.expand(len(SEEDS), TASKS, count, sum(buffer.columns)))


def run(folder: Path, healthy: dict[int, bool]) -> Checkpoints:
    """Checkpoints at these steps, a row per step, each healthy or not."""
    checkpoints, buffer = Checkpoints(folder), replay()
    for step, fine in healthy.items():
        fill(buffer, step)
        checkpoints.save(step, {"value": torch.tensor(step)}, buffer, healthy=fine)
    return checkpoints


def rows_of(buffer: ReplayBuffer) -> set[int]:
    """The numbers of the rows that sampling gives."""
    return set(buffer.sample(4000).reward.flatten().long().sub(1).tolist())


@pytest.mark.parametrize(
    ("healthy", "kept"),
    [
        ({100: True, 200: True, 300: True, 400: True}, {300, 400}),
        ({100: True, 200: False, 300: False, 400: False}, {100, 300, 400}),
        ({100: True, 200: True, 300: False, 400: False, 500: False}, {200, 400, 500}),
        ({100: True, 200: False, 300: True, 400: False}, {300, 400}),
        ({100: False, 200: False, 300: False}, {200, 300}),
    ],
)
def test_the_last_two_are_kept_and_the_last_healthy_one(tmp_path, healthy, kept):
    assert set(run(tmp_path, healthy).steps()) == kept


def test_so_it_is_after_a_restart(tmp_path):
    """A process that has not written the earlier ones reads from the files whether they are healthy."""
    run(tmp_path, {100: True, 200: False})
    for step in (300, 400, 500):
        checkpoints, buffer = Checkpoints(tmp_path), replay()
        assert checkpoints.load(buffer)[0]["healthy"] is False
        fill(buffer, step)
        checkpoints.save(step, {}, buffer, healthy=False)
    assert set(checkpoints.steps()) == {100, 400, 500}


@pytest.mark.parametrize("wanted", [100, 900, 1000])
def test_the_healthy_one_keeps_its_replay(tmp_path, wanted):
    checkpoints = run(tmp_path, {100: True} | dict.fromkeys(range(200, 1001, 100), False))
    names = {path.name for path in tmp_path.glob("replay_*.pt")}
    assert names == {"replay_0_100.pt", "replay_700_800.pt", "replay_800_900.pt", "replay_900_1000.pt"}
    buffer = replay()
    state, messages = checkpoints.load(buffer, step=wanted)
    assert (state["step"], state["healthy"], int(state["value"])) == (wanted, wanted == 100, wanted)
    assert messages == []
    assert buffer.total == wanted
    assert rows_of(buffer) == set(range(max(0, wanted - CAPACITY), wanted))


def test_a_step_that_is_loaded_is_the_newest_from_then_on(tmp_path):
    run(tmp_path, {100: True, 200: False, 300: False})
    checkpoints, buffer = Checkpoints(tmp_path), replay()
    checkpoints.load(buffer, step=100)
    assert {path.name for path in tmp_path.iterdir()} == {"step_100.pt", "replay_0_100.pt"}
    fill(buffer, 250)
    checkpoints.save(250, {}, buffer)
    assert Checkpoints(tmp_path).load(replay())[0]["step"] == 250


def test_a_step_that_is_not_there(tmp_path):
    checkpoints = run(tmp_path, {100: True, 200: False, 300: False})
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 250; there are 100, 200, 300"):
        checkpoints.load(replay(), step=250)
    (tmp_path / "step_100.pt").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"step_100\.pt is damaged"):
        Checkpoints(tmp_path).load(replay(), step=100)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_damaged_older_one_does_not_stop_a_save(tmp_path):
    run(tmp_path, {100: True, 200: True})
    checkpoints, buffer = Checkpoints(tmp_path), replay()
    checkpoints.load(buffer)
    (tmp_path / "step_100.pt").write_bytes(b"no")
    fill(buffer, 300)
    checkpoints.save(300, {}, buffer)
    assert set(checkpoints.steps()) == {200, 300}
