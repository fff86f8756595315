"""How many threads compute an update, and how they wait."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch
from conftest import TOY, train_here

from mtrl_conic.agents.sac import MultiTaskSAC
from mtrl_conic.agents.squashed import SquashedGaussianPolicy
from mtrl_conic.evaluate import main as evaluate
from mtrl_conic.runs.folder import open_run
from mtrl_conic.settings import threads
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.settings.threads import threads_of
from mtrl_conic.system import threads as system_threads
from mtrl_conic.system.threads import as_small_work, side_by_side

# The default agent on MT10: worth four threads.
MT10 = ["env=mt10", "device=cpu"]


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Sets the number of cores; 16 unless told otherwise."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def of_cores(count: int) -> None:
        monkeypatch.setattr(threads, "available_cores", lambda: count)

    of_cores(16)
    return of_cores


@pytest.mark.parametrize(
    ("overrides", "cores", "wanted"),
    [
        (["env=toy", "agent.hidden_sizes=[16]", "batch_size_per_task=8"], 16, 1),
        (["env=toy"], 16, 1),
        (["experiment=cpu"], 16, 1),
        (["experiment=smoke"], 16, 1),
        (MT10, 1, 1),
        (MT10, 2, 2),
        (MT10, 16, 4),
        ([*MT10, "seeds=[0,1,2]"], 16, 12),
        ([*MT10, "agent.hidden_sizes=[1000]"], 16, 1),
        (["env=mt50"], 16, 16),
        (["env=toy", "threads=3"], 2, 3),
    ],
)
def test_by_the_size_of_the_work_and_the_cores(overrides, cores, wanted, machine):
    machine(cores)
    assert threads_of(compose_config(["device=cpu", *overrides])) == wanted


@pytest.mark.parametrize(("limit", "wanted"), [("3", 3), ("2,1", 2), ("64", 4), ("", 4), ("many", 4)])
def test_openmp_may_be_told_of_fewer(limit, wanted, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert threads_of(compose_config(MT10)) == wanted


def test_a_small_run_has_one_thread_whatever_torch_had(tmp_path):
    config = compose_config([*(each for each in TOY if each != "threads=1"), "combiner=ls", f"run_dir={tmp_path}"])
    torch.set_num_threads(2)
    with open_run(config, resume=False) as folder:
        assert torch.get_num_threads() == 1
    assert pieces(folder)[-1]["torch_threads"] == 1


def pieces(folder) -> list[dict]:
    return json.loads((folder / "provenance.json").read_text())["pieces"]


def open_again(folder, *overrides: str) -> int:
    """The threads of a resumed run, which provenance must name."""
    with open_run(resume_config(str(folder), overrides), resume=True):
        assert pieces(folder)[-1]["torch_threads"] == torch.get_num_threads()
    return torch.get_num_threads()


def test_a_resumed_run_has_the_threads_it_had(tmp_path, machine, capsys, monkeypatch):
    machine(2)
    with open_run(compose_config([*MT10, f"run_dir={tmp_path}"]), resume=False):
        assert torch.get_num_threads() == 2
    machine(16)
    monkeypatch.setattr(threads, "_WORTH_A_THREAD", 1.0)
    assert open_again(tmp_path) == 2
    assert "threads: null" in (tmp_path / "config.yaml").read_text()
    assert capsys.readouterr().err == ""


def test_a_run_moves_to_fewer_cores_and_says_so(tmp_path, machine, capsys):
    with open_run(compose_config([*MT10, f"run_dir={tmp_path}"]), resume=False):
        assert torch.get_num_threads() == 4
    machine(2)
    assert open_again(tmp_path) == 2
    assert capsys.readouterr().err == "note: threads=2, and 4 before, as there are fewer cores: rounding differs\n"
    machine(16)
    assert open_again(tmp_path) == 2


@pytest.mark.parametrize(
    "text", ["", "[]", '{"pieces": []}', '{"pieces": [{}]}', '{"pieces": [{"device": "A GPU", "torch_threads": 1}]}']
)
def test_nothing_is_taken_from_a_record_that_does_not_say(text, tmp_path):
    (tmp_path / "provenance.json").write_text(text)
    assert threads_of(compose_config(MT10), tmp_path) == 4


@pytest.mark.parametrize(
    ("command", "own", "seen"),
    [
        (["-m", "mtrl_conic.train", "env=toy", "steps_per_task=0"], {}, "'0'"),
        (["-m", "mtrl_conic.evaluate", "run=none"], {"GOMP_SPINCOUNT": "77"}, "'77'"),
        (["-c", "import mtrl_conic, torch, sys; sys.exit(2)"], {}, "'[1-9]"),  # somebody else's process
    ],
)
def test_the_threads_of_commands_sleep_while_they_wait(command, own, seen, tmp_path):
    """As OpenMP itself reports when it is loaded; a user's own choice stays."""
    variables = {key: text for key, text in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    variables |= {"OMP_DISPLAY_ENV": "verbose", **own}
    process = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
    assert re.search(f"GOMP_SPINCOUNT = {seen}", process.stderr)


@pytest.mark.parametrize("error", [None, ValueError])
def test_what_is_done_as_small_work_leaves_their_number_as_it_was(error):
    @as_small_work
    def work(left, right=0):
        if error is not None:
            raise error
        return torch.get_num_threads(), left + right

    torch.set_num_threads(3)
    if error is None:
        assert work(4, right=5) == (1, 9)
    else:
        with pytest.raises(error):
            work(4)
    assert torch.get_num_threads() == 3


def test_agents_act_as_small_work_and_learn_in_all(tmp_path, monkeypatch):
    seen = {"explore": set(), "exploit": set(), "update": set()}
    for name, noted in seen.items():
        own = getattr(MultiTaskSAC, name)
        monkeypatch.setattr(MultiTaskSAC, name, _noting(own, noted))
    settings = ["threads=2", "combiner=ls", "steps_per_task=100", f"run_dir={tmp_path / 'run'}"]
    folder = train_here(*(each for each in TOY if each != "threads=1"), *settings)
    assert seen == {"explore": {1}, "exploit": {1}, "update": {2}}

    acts = set()
    monkeypatch.setattr(SquashedGaussianPolicy, "__call__", _noting(SquashedGaussianPolicy.__call__, acts))
    assert evaluate([f"run={folder}", "episodes=1"]) == 0
    assert acts == {1}


@pytest.mark.parametrize(("threads", "each"), [(2, 1), (3, 1), (4, 2)])
def test_what_is_done_side_by_side_has_half_the_threads_each(threads, each):
    """Each waits for the other, so that neither ends before both have begun."""
    meet, done = threading.Barrier(2, timeout=60), []

    def work(name, error=None):
        meet.wait()
        if error is not None:
            raise error
        done.append(name)
        return name, torch.get_num_threads(), threading.get_ident()

    torch.set_num_threads(threads)
    for _ in range(2):
        one, other = side_by_side(lambda: work("one"), lambda: work("other"), torch.device("cpu"))
        assert (one[:2], other[:2]) == (("one", each), ("other", each))
        assert one[2] != other[2] == threading.get_ident()
        assert torch.get_num_threads() == threads
    for errors in ((ValueError("1"), None), (None, ValueError("2"))):
        done.clear()
        with pytest.raises(ValueError, match="1" if errors[0] else "2"):
            side_by_side(lambda: work("one", errors[0]), lambda: work("other", errors[1]), torch.device("cpu"))  # noqa: B023
        assert done == ["other" if errors[0] else "one"]  # it has ended, too
        assert torch.get_num_threads() == threads


def test_threads_are_as_before_where_the_wait_is_interrupted(monkeypatch):
    """By Ctrl-C, while what is done elsewhere goes on."""

    class Interrupted(Future):
        def exception(self, timeout=None):
            raise KeyboardInterrupt

    monkeypatch.setattr(system_threads, "_elsewhere", lambda: SimpleNamespace(submit=lambda _: Interrupted()))
    torch.set_num_threads(2)
    with pytest.raises(KeyboardInterrupt):
        side_by_side(lambda: None, lambda: None, torch.device("cpu"))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("threads", "device"), [(1, "cpu"), (4, "cuda")])
def test_one_thread_or_a_device_does_one_after_the_other(threads, device):
    torch.set_num_threads(threads)
    order = []
    found = side_by_side(lambda: order.append("one"), lambda: order.append("other"), torch.device(device))
    assert (found, order) == ((None, None), ["one", "other"])


def _noting(function, threads):
    """The function, which notes with how many threads it works."""

    def call(*arguments, **settings):
        threads.add(torch.get_num_threads())
        return function(*arguments, **settings)

    return call
