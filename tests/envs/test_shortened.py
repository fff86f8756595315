"""Training episodes that are shorter than those of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import TOY, records, train_here

from mtrl_conic.envs.shortened import Shortened
from mtrl_conic.envs.toy import ToySpec
from mtrl_conic.envs.vector import VectorEnv
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError


def test_episodes_are_truncated_and_not_terminated_at_the_shorter_horizon():
    spec = Shortened(ToySpec(horizon=50), 7)
    assert (spec.horizon, spec.tasks, spec.num_goals) == (7, ToySpec().tasks, ToySpec().num_goals)
    with VectorEnv(spec, [0], workers=0) as envs:
        envs.reset()
        still = np.zeros((*envs.shape, 2), np.float32)
        ended = [number for number in range(1, 16) if envs.step(still).truncated.all()]
    assert ended == [7, 14]
    for horizon in (0, 51):
        with pytest.raises(ValueError, match=f"horizon must be from 1 to 50, not {horizon}"):
            Shortened(ToySpec(horizon=50), horizon)


def test_a_run_trains_on_short_episodes_and_evaluates_on_whole_ones(tmp_path):
    short, whole = (
        train_here(*TOY, "combiner=ls", "steps_per_task=100", f"run_dir={tmp_path / name}", *more)
        for name, more in (("short", ["env.horizon=10"]), ("whole", []))
    )
    one, other = (records(run)[0] for run in (short, whole))
    assert one["episodes"] == other["episodes"]
    ratio = sum(one["return"].values()) / sum(other["return"].values())
    assert 0.5 < ratio < 2  # returns of 50 steps, not of 10
    trained = [
        np.mean([line[key] for line in records(run, "metrics") for key in line if key.startswith("train/return/")])
        for run in (short, whole)
    ]
    assert trained[0] < 0.4 * trained[1]


def test_a_horizon_beyond_the_protocols_is_refused():
    with pytest.raises(ConfigError, match=r"^env\.horizon=51: must be at most 50"):
        compose_config(["env=toy", "env.horizon=51"])
    with pytest.raises(ConfigError, match=r"^env\.horizon=0: must be at least 1"):
        compose_config(["env=toy", "env.horizon=0"])
