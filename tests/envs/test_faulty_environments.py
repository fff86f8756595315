"""Environments that go wrong: one line that names the task and what is wrong, and never a run that looks right."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TOY, train_here
from faulty_environments import RETURNED, Faulty

from mtrl_conic import evaluate, train
from mtrl_conic.envs.base import EnvStep
from mtrl_conic.envs.gymnasium_adapter import Gymnasium
from mtrl_conic.envs.returned import checked_step
from mtrl_conic.envs.vector import VectorEnv, WorkerError
from mtrl_conic.training.program import TrainingError
from mtrl_conic.video.frames import Clip
from mtrl_conic.video.recording import VideoError, draw

COMMON = [argument for argument in TOY if argument != "env=toy"]
COMMON += ["steps_per_task=70", "agent.warmup_steps=50", "combiner=ls"]
OWN = [*COMMON, "env=own", "env._target_=faulty_environments.Faulty"]
GYM = [*COMMON, "env=gym", "env.tasks={new: faulty_environments:faulty/Old-v0}", "env.workers=0"]


def play(spec, steps=25):
    with VectorEnv(spec, [7], workers=0) as envs:
        envs.reset()
        for _ in range(steps):
            envs.step(np.zeros((1, len(spec.tasks), 1, 1), np.float32))


def answer(capsys, *arguments, command=train):
    """The exit status and the lines on standard error; a traceback fails the test."""
    status = command.main(list(arguments))
    return status, [line for line in capsys.readouterr().err.splitlines() if "note: " not in line]


@pytest.mark.parametrize("fault", RETURNED)
def test_what_a_step_must_not_return(fault):
    with pytest.raises(WorkerError) as caught:
        play(Faulty(fault).setup())
    assert str(caught.value).startswith("task 'faulty' (seed 7): step failed: ")
    assert RETURNED[fault][1] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("tuple", r"step failed: TypeError: step must return an EnvStep, not \(ndarray, float, bool, bool, dict\)"),
        ("reset", r"reset failed: ValueError: the observation must be numbers of the shape \(2,\), not .* \(3,\)"),
    ],
)
def test_interfaces_of_others(fault, words):
    with pytest.raises(WorkerError, match=words):
        play(Faulty(fault).setup())


def test_what_stands_for_a_number_or_a_flag_is_taken():
    step = EnvStep([1, 2], np.array([3.0]), np.False_, np.float64(1.0), 0)
    observation, *rest = checked_step(step, (2,))
    np.testing.assert_array_equal(observation, [1, 2])
    assert rest == [3.0, False, True, False]
    assert [type(value) for value in rest] == [float, bool, bool, bool]
    usual = EnvStep(np.zeros(2), 1.0, False, True)
    assert checked_step(usual, (2,)) is usual


@pytest.mark.parametrize("fault", RETURNED)
def test_what_gymnasiums_step_must_not_return(fault):
    spec = Gymnasium({"new": "faulty/Old-v0"}, kwargs={"fault": fault}, success_key="won").setup()
    with pytest.raises(WorkerError) as caught:
        play(spec)
    words = RETURNED[fault][1].replace("success", "info['won']")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("reset", r"reset must return \(observation, info\), .* not an array of the shape \(2,\)"),
        ("info", r"step must return .*info\), .* not \(ndarray, float, bool, bool, NoneType\)"),
    ],
)
def test_gymnasium_as_it_was(fault, words):
    with pytest.raises(WorkerError, match=words):
        play(Gymnasium({"new": "faulty/Old-v0"}, kwargs={"fault": fault}).setup())


def test_a_success_key_that_never_comes_is_told(tmp_path, capsys):
    run, arguments = tmp_path / "run", [*GYM, "eval.every=30"]
    status, lines = answer(capsys, *arguments, "env.success_key=wonn", f"run_dir={run}")
    told = "warning: task 'new' never succeeds: no info of an episode had the success_key 'wonn'; there were speed, won"
    assert (status, lines) == (0, [told] * 2)  # at the first evaluation of three, and at the last
    assert answer(capsys, f"run={run}", "episodes=1", command=evaluate) == (0, [told])
    status, lines = answer(capsys, *arguments, "env.success_key=won", f"run_dir={tmp_path / 'other'}")
    assert (status, lines) == (0, [])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("none", "Faulty.setup must return an EnvSpec, which has a method make, not None"),
        ("number", "Faulty.setup must return an EnvSpec, which has a method make, not 3"),
        ("other size", "Faulty.setup must return an EnvSpec whose observation_size is 2, not 3"),
        ("setup raises", "Faulty.setup fails (KeyError: 'x')"),
        ("setup exits", "Faulty.setup fails (SystemExit: 0)"),
        ("constructor exits", "SystemExit: 0"),
    ],
)
def test_a_setup_that_cannot_be_used(fault, words, workers, tmp_path, capsys):
    run = tmp_path / "run"
    status, lines = answer(capsys, *OWN, f"+env.fault={fault}", f"env.workers={workers}", f"run_dir={run}")
    assert (status, lines) == (2, [f"error: env: {words}"])
    assert not run.exists()


def test_a_spec_that_workers_cannot_be_sent(tmp_path, capsys):
    run = tmp_path / "run"
    status, lines = answer(capsys, *OWN, "+env.fault=cannot be sent", "env.workers=1", f"run_dir={run}")
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: env: the env spec cannot be sent to workers (")
    assert not run.exists()


def test_a_run_whose_environments_break(tmp_path, capsys, monkeypatch):
    """Resume and evaluation say the same of a class that was changed for the worse."""
    run = train_here(*OWN, "env.workers=0", f"run_dir={tmp_path / 'run'}")
    capsys.readouterr()
    monkeypatch.setattr(Faulty, "setup", lambda self: None)
    told = "error: env: Faulty.setup must return an EnvSpec, which has a method make, not None"
    before = sorted(run.rglob("*.pt"))
    assert answer(capsys, f"resume={run}", "steps_per_task=90") == (2, [told])
    assert answer(capsys, f"run={run}", command=evaluate) == (2, [told])
    assert sorted(run.rglob("*.pt")) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_close_that_fails_costs_a_run_nothing(workers, tmp_path, capfd):
    run, told = tmp_path / "run", "warning: task 'faulty' (seed 0): close failed: RuntimeError: the door"
    assert train.main([*OWN, "+env.fault=close", f"env.workers={workers}", f"run_dir={run}"]) == 0
    errors = capfd.readouterr().err
    assert errors.count(told) == 2  # of training and of evaluations
    assert "Traceback" not in errors
    assert evaluate.main([f"run={run}", "episodes=1"]) == 0
    assert told in capfd.readouterr().err


def test_a_gymnasium_environment_that_does_not_close(tmp_path, capfd):
    run = tmp_path / "run"
    assert train.main([*GYM, "env.kwargs={fault: close}", f"run_dir={run}"]) == 0
    assert "warning: task 'new' (seed 0): close failed: RuntimeError: stuck" in capfd.readouterr().err
    assert train.main([f"resume={run}", "steps_per_task=90"]) == 0


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["object in state", "lambda in state"])
def test_a_state_that_no_checkpoint_can_hold(fault, workers, tmp_path, capfd):
    status, lines = answer(capfd, *OWN, f"+env.fault={fault}", f"env.workers={workers}", f"run_dir={tmp_path / 'run'}")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith(
        "error: task 'faulty' (seed 0): get_state failed: TypeError: a state must hold arrays, numbers, strings, "
    )


def test_a_state_may_hold_numbers_of_numpy(tmp_path):
    run = train_here(*OWN, "+env.fault=number of numpy", "env.workers=0", f"run_dir={tmp_path / 'run'}")
    assert train.main([f"resume={run}", "steps_per_task=90"]) == 0


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["step exits", "reset exits"])
def test_an_environment_that_exits(fault, workers, tmp_path, capsys):
    run = tmp_path / "run"
    status, lines = answer(capsys, *OWN, f"+env.fault={fault}", f"env.workers={workers}", f"run_dir={run}")
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"error: task 'faulty' (seed 0): {fault.split()[0]} failed: SystemExit: 0")


def test_a_camera_that_exits_is_no_video(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)  # where the drawing process finds the class
    clip = Clip(Faulty(), 1, {0: np.zeros((2, 1), np.float32)}, "", tmp_path / "faulty.gif")
    with pytest.raises(VideoError, match=r"^faulty cannot be drawn: SystemExit: 0$"):
        list(draw([clip], ""))


@pytest.mark.parametrize("where", ["setup", "learn"])
def test_an_agent_that_exits(where, tmp_path, capsys, monkeypatch):
    from mtrl_conic.agents.sac import MultiTaskSAC

    monkeypatch.setattr(MultiTaskSAC, where, lambda *_: sys.exit(0))
    status, lines = answer(capsys, *COMMON, "env=toy", "env.workers=0", f"run_dir={tmp_path / 'run'}")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("error: sys.exit(0) was called by test_faulty_environments.py, line ")
    with pytest.raises(TrainingError):
        train([*COMMON, "env=toy", "env.workers=0", f"run_dir={tmp_path / 'other'}"])
    capsys.readouterr()


def test_an_agent_that_exits_when_checked(tmp_path, capsys, monkeypatch):
    from mtrl_conic.agents.sac import MultiTaskSAC

    monkeypatch.setattr(MultiTaskSAC, "check", lambda *_: sys.exit(0))
    run = tmp_path / "run"
    status, lines = answer(capsys, *COMMON, "env=toy", f"run_dir={run}")
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("error: agent: MultiTaskSAC.check fails when tried: SystemExit: 0 (")
    assert not run.exists()


def test_a_combiner_that_exits(tmp_path, capsys, monkeypatch):
    from mtrl_conic.combiners.ls import LS

    monkeypatch.setattr(LS, "loss_weights", lambda *_: sys.exit(0))
    status, lines = answer(capsys, *COMMON, "env=toy", f"run_dir={tmp_path / 'run'}")
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("error: combiner: LS fails when tried: SystemExit: 0 (test_faulty_environments.py, ")


def test_a_module_that_exits(tmp_path, capsys, monkeypatch):
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    status, lines = answer(capsys, *COMMON, "env=own", "env._target_=leaves.Mine", f"run_dir={tmp_path / 'run'}")
    assert (status, lines) == (2, ["error: env._target_=leaves.Mine: leaves cannot be imported (SystemExit: 0)"])
