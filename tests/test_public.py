"""What the package hands out by name."""

from __future__ import annotations

import signal
import threading

import pytest
from conftest import TOY, records, train_here

import mtrl_conic
import mtrl_conic.train  # its name in the package is now the module: calling it works all the same

NAMES = ("MultiTaskBackward", "MultiTaskSAC", "ReplayBuffer", "load_policy", "load_runs", "train")
RUN = [*TOY, "combiner=ls", "env.workers=0"]


def test_the_names():
    assert sorted(mtrl_conic.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(mtrl_conic))
    assert all(callable(getattr(mtrl_conic, name)) for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        _ = mtrl_conic.fly


def test_train_is_the_command(tmp_path):
    """Also in another thread; the program's signal handlers are its own again afterwards."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = mtrl_conic.train(RUN, seeds=[2], steps_per_task=100, run_dir=tmp_path / "a run", cuda_graphs=False)
    assert run == tmp_path / "a run"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    thread = threading.Thread(target=mtrl_conic.train, kwargs={"resume": run, "steps_per_task": 200})
    thread.start()
    thread.join()
    whole = train_here(*RUN, "seeds=[2]", "steps_per_task=200", f"run_dir={tmp_path / 'whole'}")
    assert records(run)[-1] == records(whole)[-1]
    assert mtrl_conic.load_policy(run).step > 0


def test_train_raises_what_the_command_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"env=toi"):
        mtrl_conic.train("env=toi")
    with pytest.raises(ValueError, match="only on the command line"):
        mtrl_conic.train(["--cfg"])
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("mtrl_conic.training.command.Signals", Pressed)
    with pytest.raises(KeyboardInterrupt):
        mtrl_conic.train(RUN, run_dir="run")
    assert list((tmp_path / "run" / "checkpoints").glob("step_*.pt"))


class Pressed:
    """Ctrl-C, before the first step."""

    received = signal.SIGINT

    def __call__(self) -> bool:
        return True
