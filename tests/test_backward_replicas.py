"""`MultiTaskBackward` in a process group: all replicas take the step of one process with the whole batch."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import environment
from replica_worker import KEPT, NAMES, ROWS, STEPS, make, train
from supervised import NUM_TASKS, Example

pytestmark = pytest.mark.xdist_group("replicas")  # one worker: the processes of each size start once

WORKER = Path(__file__).with_name("replica_worker.py")


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)], ids="{} processes".format)
def replicas(request, tmp_path_factory):
    """What each replica found."""
    folder, world = tmp_path_factory.mktemp("replicas"), request.param
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), str(world), folder],
            env=environment() | {"GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world, "\n".join(outputs)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def same_bits(found):
    return all(torch.equal(other, found[0]) for other in found[1:])


@functools.cache
def whole_batch(name):
    return train(name)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_replicas_are_one_process_with_the_whole_batch(replicas, name, micro_batches):
    found = [replica[name][micro_batches - 1] for replica in replicas]
    assert same_bits(found)
    torch.testing.assert_close(found[0], whole_batch(name), rtol=1e-8, atol=1e-10)


def test_a_number_that_is_not_finite_masks_all_replicas_alike(replicas):
    for per_replica in zip(*(replica["one bad loss"] for replica in replicas), strict=True):
        assert all(same_bits(tensors) for tensors in zip(*per_replica, strict=True))
        records = per_replica[0]
        size = len(records) // 5
        parameters, finite = records[::size], [bool(flag) for flag in records[1::size]]
        assert finite == [True, False, True, True, True]
        assert torch.equal(parameters[1], parameters[0])
        assert not torch.equal(parameters[2], parameters[1])
        assert all(tensor.isfinite().all() for tensor in records)


def test_replicas_that_are_not_alike_are_told_so(replicas):
    for replica in replicas:
        for what in ("seed", "parameters", "combiner"):
            assert replica["unlike"][what].endswith(f"they differ in {what}"), replica["unlike"]
        assert replica["unlike"]["another combiner"].endswith("they differ in combiner")
        assert replica["unlike"]["loaded"].endswith("they differ in combiner")
        assert replica["unlike"]["drifting"].endswith("they differ in parameters")
        assert replica["unlike"][""] == ""


def test_one_collective_an_update(replicas):
    example = Example(rows=ROWS)
    shared = sum(parameter.numel() for parameter in example.trunk.parameters())
    heads = sum(parameter.numel() for parameter in example.heads.parameters())
    for replica in replicas:
        counted = replica["collectives"]
        for parts in (1, 2):
            (size,) = counted["conicgrad", parts]
            assert 0 <= size - ((NUM_TASKS * shared) + heads + NUM_TASKS) < 64
            assert counted["ls", parts] == [NUM_TASKS, shared + heads]  # the weights come from the averaged losses
            assert counted["famo", parts] == [NUM_TASKS, shared + heads, NUM_TASKS]


def test_losses_of_another_dtype_are_averaged_in_it(replicas):
    mean = sum(replica["half precision"][1] for replica in replicas) / len(replicas)
    for replica in replicas:
        assert replica["half precision"][0].dtype == torch.float32
        torch.testing.assert_close(replica["half precision"][0][0], mean)
    assert same_bits([replica["half precision"][2] for replica in replicas])


def test_buffers_in_a_wrapped_module(replicas):
    """Parameters stay equal, and each forward pass begins with the buffers of the first replica."""
    for tensors in zip(*(replica["batch norm"][0] for replica in replicas), strict=True):
        assert same_bits(tensors)
    for tensors in zip(*(replica["batch norm"][1] for replica in replicas), strict=True):
        assert same_bits(tensors)
    assert replicas[0]["batch norm"][1][1].any()


def test_a_group_is_chosen_or_none(replicas):
    off = [replica["groups"]["off"] for replica in replicas]
    assert not torch.equal(off[0], off[1])
    for replica, alone in zip(replicas, off, strict=True):
        assert torch.equal(replica["groups"]["alone"], alone)
    assert torch.equal(replicas[0]["groups"]["pair"], replicas[1]["groups"]["pair"])
    for replica in replicas[2:]:
        assert replica["groups"]["pair"] == "process_group: this process is not in that group"


def test_the_cases_are_what_they_say():
    assert STEPS > 2
    assert make(KEPT).update_every == 2
    assert len(NAMES) >= 17
