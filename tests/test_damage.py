"""Damaged files: found wherever they are read, named, and never believed."""

from __future__ import annotations

import random
import re
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import TOY, records, run_command, train_here

import mtrl_conic
from mtrl_conic.agents.replay import ReplayBuffer
from mtrl_conic.evaluate import main as evaluate
from mtrl_conic.policies.actors import read_weights, stored_config
from mtrl_conic.runs.checkpoint import CheckpointError, Checkpoints, Start
from mtrl_conic.runs.folder import open_run
from mtrl_conic.runs.sealed import FORMAT, DamagedError, is_sealed, read_file, write_file
from mtrl_conic.settings.compose import resume_config
from mtrl_conic.training.trainer import Trainer

SEEDS, TASKS, CAPACITY = [0, 1], 3, 250


# Injuries


def one_bit(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def one_byte(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= chance.randrange(1, 256)


def sixteen_bytes(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) - 16)
    data[start : start + 16] = chance.randbytes(16)


def a_page_of_zeros(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(max(1, len(data) - 4096))
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))


def cut_short(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


INJURIES = (one_bit, one_byte, sixteen_bytes, a_page_of_zeros, cut_short)


def injured(whole: bytes, number: int) -> bytes:
    """One of the injuries, by turns, at a random place."""
    chance = random.Random(number)
    while True:
        data = bytearray(whole)
        INJURIES[number % len(INJURIES)](data, chance)
        if bytes(data) != whole:  # zeros may fall on zeros
            return bytes(data)


# A run with more segments than the ring needs, and what each reader makes of it


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage") / "run"
    arguments = [*TOY, "combiner=conicgrad", "seeds=[3,5]", "steps_per_task=400", f"capacity_per_task={CAPACITY}"]
    return train_here(*arguments, f"run_dir={folder}")


def load(folder: Path, step: int | None = None) -> tuple[dict, torch.Tensor]:
    """A checkpoint and the replay that goes with it, of the run above."""
    replay = ReplayBuffer([3, 5], 3, 6, 2, CAPACITY)
    state, messages = Checkpoints(folder).load(replay, step)
    assert not messages
    return state, replay.storage


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def injure_all(trained: Path, folder: Path, numbers: range) -> None:
    """Injuries dealt out over all files of a run; each must be found by whoever reads the file."""
    shutil.copytree(trained / "checkpoints", folder / "checkpoints")
    shutil.copy(trained / "config.yaml", folder)
    paths = sorted((folder / "checkpoints").glob("*.pt"))
    assert {path.name.split("_")[0] for path in paths} == {"best.pt", "replay", "step"}
    whole, agent = {path: path.read_bytes() for path in paths}, stored_config(folder).make_agent()
    for number in numbers:
        path = paths[number // len(INJURIES) % len(paths)]
        path.write_bytes(injured(whole[path], number))
        with pytest.raises(DamagedError):
            read_file(path)
        if path.name == "best.pt":
            with pytest.raises(ValueError, match=r"best\.pt is damaged"):
                read_weights(folder, "best", agent)
        else:
            step = 300 if path.name in ("step_300.pt", "replay_0_100.pt") else 400  # one that needs the file
            with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
                load(folder / "checkpoints", step)
        if path.name == "step_400.pt":
            messages = read_weights(folder, "last", agent).messages
            assert any(f"{path.name} is damaged" in message for message in messages)
        path.write_bytes(whole[path])
    assert same(load(folder / "checkpoints"), load(trained / "checkpoints"))


def test_injuries_are_found(trained, tmp_path):
    injure_all(trained, tmp_path, range(60))


@pytest.mark.slow
def test_five_hundred_injuries_are_found(trained, tmp_path):
    injure_all(trained, tmp_path, range(1000, 1500))


def test_each_byte_counts(tmp_path):
    """No gap between what the digest covers and what the file holds: headers, padding and the seal itself count."""
    path = tmp_path / "x.pt"
    write_file(path, {"a": torch.arange(40), "b": [1, "two"]})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(DamagedError):
            read_file(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            read_file(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedError):
        read_file(path)


# The format


def test_a_sealed_file_is_an_ordinary_torch_file(tmp_path):
    content = {"a": torch.randn(3, 4), "b": {"c": 1}}
    write_file(tmp_path / "x.pt", content)
    assert is_sealed(tmp_path / "x.pt")
    assert same(torch.load(tmp_path / "x.pt", weights_only=True), content)
    archive = zipfile.ZipFile(tmp_path / "x.pt")
    assert archive.testzip() is None
    assert re.fullmatch(rb"mtrl_conic format 2, sha256 [0-9a-f]{64}", archive.comment)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_a_file_of_a_later_format_says_so(tmp_path):
    write_file(tmp_path / "x.pt", {})
    later = (tmp_path / "x.pt").read_bytes().replace(b"format %d" % FORMAT, b"format %d" % (FORMAT + 1))
    (tmp_path / "x.pt").write_bytes(later)
    with pytest.raises(DamagedError, match="later version of mtrl_conic"):
        read_file(tmp_path / "x.pt")


def test_earlier_files_are_read_with_a_note(trained, tmp_path, capsys):
    """`torch.save` alone wrote them; what they hold is compared with the archive's checksums."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for path in (run / "checkpoints").glob("*.pt"):
        torch.save(read_file(path), path)
    assert evaluate([f"run={run}", "episodes=1"]) == 0
    assert "best.pt was written by an earlier version" in capsys.readouterr().err
    with pytest.warns(UserWarning, match=r"step_400\.pt was written by an earlier version"):
        mtrl_conic.load_policy(run, checkpoint="last")
    replay = ReplayBuffer([3, 5], 3, 6, 2, CAPACITY)
    state, messages = Checkpoints(run / "checkpoints").load(replay)
    assert [message.split(",")[0] for message in messages] == ["step_400.pt was written by an earlier version"]
    assert same((state, replay.storage), load(trained / "checkpoints"))
    path = run / "checkpoints" / "best.pt"
    data = bytearray(path.read_bytes())
    value = torch.load(path, weights_only=True)["policy"]["params"][0].numpy().tobytes()
    data[data.index(value) + 37 * 4 + 3] ^= 0x40  # the injury: the top byte of a parameter
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="checksum of"):
        read_file(path)


# A damaged part of the replay


def fill(buffer: ReplayBuffer, stop: int) -> None:
    """Rows that tell their number: row t holds t + 1."""
    count = stop - buffer.total
    numbers = torch.arange(buffer.total + 1.0, stop + 1.0).view(1, 1, count, 1)
    buffer.write_rows(buffer.total, numbers.expand(len(SEEDS), TASKS, count, sum(buffer.columns)))


def numbered(folder: Path, steps: range) -> None:
    """Checkpoints with a row per step."""
    checkpoints, buffer = Checkpoints(folder), ReplayBuffer(SEEDS, TASKS, 2, 1, CAPACITY)
    for step in steps:
        fill(buffer, step)
        checkpoints.save(step, {}, buffer)


def rows_of(buffer: ReplayBuffer) -> set[int]:
    """The numbers of the rows that sampling gives, which are all that there are."""
    drawn = buffer.sample(6000)
    assert torch.equal(drawn.reward, drawn.terminated)
    return set(drawn.reward.flatten().long().sub(1).tolist())


LOST = {  # segments that are harmed → rows that are left at step 1000, which needs 750 to 1000
    "the oldest": (["700_800"], range(800, 1000)),
    "one amid": (["800_900"], range(900, 1000)),
    "two": (["700_800", "800_900"], range(900, 1000)),
}


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("name", LOST)
def test_what_is_left_of_the_replay(tmp_path, name, gone):
    numbered(tmp_path, range(100, 1001, 100))
    for segment in (tmp_path / f"replay_{each}.pt" for each in LOST[name][0]):
        segment.write_bytes(segment.read_bytes()[:-500])
        if gone:
            segment.unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    buffer = ReplayBuffer(SEEDS, TASKS, 2, 1, CAPACITY)
    with pytest.raises(CheckpointError, match="no usable checkpoint") as error:
        Checkpoints(tmp_path).load(buffer)
    left = LOST[name][1]
    assert f"replay=partial goes on from step 1000 with {len(left)} transitions per task" in str(error.value)
    assert "missing" in str(error.value) if gone else f"replay_{LOST[name][0][0]}.pt is damaged" in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    checkpoints, buffer = Checkpoints(tmp_path), ReplayBuffer(SEEDS, TASKS, 2, 1, CAPACITY)
    state, messages = checkpoints.load(buffer, partial=True)
    assert state["step"] == 1000
    assert any(f"step_1000.pt has {len(left)} of its 250 transitions per task" in message for message in messages)
    assert len(buffer) == len(left)
    assert rows_of(buffer) == set(left)
    for step in (1100, 1200, 1300):  # the ring fills up again, and goes round
        fill(buffer, step)
        oldest = max(left.start, step - CAPACITY)
        assert rows_of(buffer) == set(range(oldest, step))
        checkpoints.save(step, {}, buffer)
        again = ReplayBuffer(SEEDS, TASKS, 2, 1, CAPACITY)
        assert Checkpoints(tmp_path).load(again)[1] == []  # whole, from its first checkpoint on
        assert torch.equal(again.read_rows(oldest, step), buffer.read_rows(oldest, step))
        assert rows_of(again) == set(range(oldest, step))


def test_a_whole_checkpoint_comes_before_a_partial_one(tmp_path):
    numbered(tmp_path, range(100, 1001, 100))
    (tmp_path / "replay_900_1000.pt").write_bytes(b"no")
    buffer = ReplayBuffer(SEEDS, TASKS, 2, 1, CAPACITY)
    state, messages = Checkpoints(tmp_path).load(buffer, partial=True)
    assert state["step"] == 900
    assert "replay_900_1000.pt is damaged" in messages[0]
    assert rows_of(buffer) == set(range(650, 900))


def test_a_replay_that_is_lost_altogether(tmp_path):
    numbered(tmp_path, range(100, 301, 100))
    for path in tmp_path.glob("replay_*"):
        path.unlink()
    buffer = ReplayBuffer(SEEDS, TASKS, 2, 1, CAPACITY)
    Checkpoints(tmp_path).load(buffer, partial=True)
    assert len(buffer) == 0
    fill(buffer, 310)
    assert rows_of(buffer) == set(range(300, 310))


def test_the_command_goes_on_only_when_told_to(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    segment = run / "checkpoints" / "replay_100_200.pt"
    segment.write_bytes(segment.read_bytes()[:-500])
    before = records(run)
    whole = [*TOY, "combiner=conicgrad", "seeds=[3,5]", f"capacity_per_task={CAPACITY}", f"run_dir={run}"]
    for arguments in (["resume=run", "steps_per_task=500"], [*whole, "steps_per_task=500", "resume=auto"]):
        process = run_command(*arguments, cwd=tmp_path)
        assert process.returncode == 2
        assert len(process.stderr.splitlines()) == 1
        for words in ("replay_100_200.pt is damaged", "has 200 of its 250 transitions per task", "replay=partial"):
            assert words in process.stderr
        assert records(run) == before
    process = run_command("resume=run", "steps_per_task=500", "replay=partial", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "has 200 of its 250 transitions per task" in process.stdout + process.stderr
    assert [line["step"] for line in records(run)][-1] == 500


def test_training_goes_on_with_no_replay_at_all(trained, tmp_path):
    """The first update waits for the first transition."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for path in (run / "checkpoints").glob("replay_*"):
        path.unlink()
    config = resume_config(str(run), ["steps_per_task=410"])
    with open_run(config, True) as folder:
        trainer = Trainer(config, folder, resume=True, start=Start(partial=True))
        try:
            assert trainer.run()
        finally:
            trainer.close()
    assert len(trainer.agent.memory) == 10
    assert records(run)[-1]["step"] == 410


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resume=run", "replay=some"], ["replay=some", "partial"]),
        (["replay=partial"], ["replay=partial", "resume=RUN_DIR"]),
        (["resume=auto", "run_dir=x", "replay=partial"], ["replay=partial", "resume=RUN_DIR"]),
        (["-m", "replay=partial"], ["replay=partial", "resume=RUN_DIR"]),
    ],
)
def test_where_the_option_makes_no_sense(arguments, words, tmp_path, capsys, monkeypatch):
    from mtrl_conic.train import main

    monkeypatch.chdir(tmp_path)
    assert main([*TOY, *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error
    assert not list(tmp_path.iterdir())


def test_a_seal_is_of_its_own_file(tmp_path):
    """Rows of another run under the name of this one's are found, though the file itself is whole."""
    numbered(tmp_path, range(100, 201, 100))
    write_file(tmp_path / "replay_100_200.pt", {"rows": torch.zeros(len(SEEDS), TASKS, 99, 8)})
    with pytest.raises(CheckpointError, match=r"replay_100_200\.pt is damaged \(its rows are of another run"):
        Checkpoints(tmp_path).load(ReplayBuffer(SEEDS, TASKS, 2, 1, CAPACITY), step=200)


def test_a_seal_on_what_torch_does_not_read(tmp_path):
    """The words at the end of a file do not make it one of ours."""
    path = tmp_path / "x.pt"
    write_file(path, {})
    seal = path.read_bytes()[-92:]
    path.write_bytes(b"something else" + struct.pack("<H", 92) + seal)
    with pytest.raises(DamagedError):
        read_file(path)
