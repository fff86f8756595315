"""How long a worker stays awake for its next command."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mtrl_conic.envs import worker


def _serve_after(monkeypatch, waits, step=0.0, command=worker.STEP[0]):
    """The patience that a worker has for each command, where they come after `waits` and take `step` seconds each."""
    clock, seen = SimpleNamespace(now=0.0), []

    def receive_byte(connection, patience):
        seen.append(patience)
        if len(seen) > len(waits):
            return worker.QUIT
        clock.now += waits[len(seen) - 1]
        return command

    def run(*_):
        clock.now += step

    monkeypatch.setattr(worker, "receive_byte", receive_byte)
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    group = SimpleNamespace(run=run, close=lambda: None)
    worker._serve(SimpleNamespace(sendall=lambda _: None), group)
    return seen


def test_a_worker_stays_awake_while_steps_follow_at_once(monkeypatch):
    """Patience lasts for some long waits, such as one for updates, and not for those of a run that learns at each."""
    short, long = worker._LEAST_PATIENCE / 2, worker._LEAST_PATIENCE * 50
    waits = [short, long, short, *[long] * (worker._LONG_WAITS + 2), short, short]
    seen = [patience > 0 for patience in _serve_after(monkeypatch, waits)]
    assert seen == [True] * (3 + worker._LONG_WAITS) + [False] * 3 + [True] * 2


@pytest.mark.parametrize("steps", [3, 8])
def test_a_worker_stays_awake_half_as_long_as_its_step_took(monkeypatch, steps):
    """A policy's decision takes longer for more environments, and so does their step."""
    step = steps * worker._LEAST_PATIENCE
    waits = [0.4 * step] * (2 * worker._LONG_WAITS)
    expected = [worker._LEAST_PATIENCE] + [pytest.approx(step / 2)] * len(waits)
    assert _serve_after(monkeypatch, waits, step) == expected
    assert _serve_after(monkeypatch, [0.6 * step] * (2 * worker._LONG_WAITS), step)[-1] == 0


def test_a_worker_does_not_stay_awake_through_long_work_of_the_parent(monkeypatch):
    step = 100 * worker._MOST_PATIENCE
    seen = _serve_after(monkeypatch, [2 * worker._MOST_PATIENCE] * (2 * worker._LONG_WAITS), step)
    assert max(seen) == worker._MOST_PATIENCE
    assert seen[-1] == 0


def test_only_steps_make_a_worker_stay_awake_longer(monkeypatch):
    """Building or storing the environments takes long, and what follows it may as well."""
    command = worker.MESSAGE
    monkeypatch.setattr(worker, "receive_message", lambda _: ("get_state", ()))
    seen = _serve_after(monkeypatch, [0.0] * 3, 100 * worker._MOST_PATIENCE, command)
    assert seen == [worker._LEAST_PATIENCE] * 4
