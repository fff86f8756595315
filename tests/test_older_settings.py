"""Settings as earlier versions stored them."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from conftest import TOY, train_here
from omegaconf import OmegaConf

from mtrl_conic.evaluate import main as evaluate
from mtrl_conic.report.protocol import protocol_of, slug, title
from mtrl_conic.report.reading import read_run
from mtrl_conic.runs.stage import _check_same
from mtrl_conic.settings import older
from mtrl_conic.settings.compose import compose_config, load_stored, resume_config
from mtrl_conic.settings.errors import ConfigError

# As of the version that knew environments by a name: all settings, whatever the environments.
STORED = {
    "name": None,
    "num_envs_per_task": 1,
    "workers": None,
    "timeout": 60.0,
    "task": None,
    "fast": True,
    "goal_seed": 0,
    "reward_version": "v2",
}
LATER = {"num_goals": 50, "episode_length": 500}  # settings that classes have got since, with their defaults
CHOSEN = {
    "toy": ({"workers": 0}, []),
    "mt1": ({"task": "push-v3", "goal_seed": 3}, ["env.task=push-v3", "env.goal_seed=3"]),
    "mt10": ({"reward_version": "v1", "workers": 2}, ["env.reward_version=v1", "env.workers=2"]),
    "mt25": ({}, []),
    "mt50": ({"fast": False}, ["env.fast=false"]),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_environments_by_name_are_those_of_today(name):
    stored, arguments = CHOSEN[name]
    config = compose_config([f"env={name}", *arguments, "device=cpu"])
    today = {key: value for key, value in config.env.items() if key not in LATER}
    assert older.environments({**STORED, "name": name, **stored}) == today
    assert older.environments(config.env) is config.env


def test_what_is_not_known_is_left_as_it_is():
    for stored in ({"name": "mine"}, {"name": ["mt10"]}, {}, [1], None, {"_target_": "mine.Mine", "name": "toy"}):
        assert older.environments(stored) == stored
    found = older.environments({"name": "mt10", "some_new_setting": 2})
    assert (found["benchmark"], found["some_new_setting"]) == ("mt10", 2)


def test_a_run_of_then_is_resumed_evaluated_and_reported(tmp_path):
    folder = train_here(*TOY, "combiner=ls", "steps_per_task=100", f"run_dir={tmp_path / 'run'}")
    today = read_run(folder, [])
    stored = OmegaConf.load(folder / "config.yaml")
    stored["env"] = {**STORED, "name": "toy", "workers": 0}
    OmegaConf.save(stored, folder / "config.yaml")
    assert load_stored(folder).env == compose_config(TOY).env
    assert resume_config(str(folder), ["env.action_repeat=1"]).vector.action_repeat == 1
    assert resume_config(str(folder), ["steps_per_task=200", "env.workers=1"]).workers == 1
    assert evaluate([f"run={folder}", "episodes=1", "workers=0"]) == 0
    for named in (True, False):
        notes: list[str] = []
        run = read_run(folder, notes)
        assert not notes
        assert protocol_of(run) == protocol_of(today)
        assert (title(run), slug(run)) == ("Toy environment", "toy")
        if named:
            del stored["choices"]
            OmegaConf.save(stored, folder / "config.yaml")


@pytest.mark.parametrize(
    ("arguments", "later"),
    [
        (TOY, ["horizon", "action_repeat"]),
        (["env=mt10", "device=cpu"], ["action_repeat", "num_goals", "episode_length"]),
    ],
    ids=["toy", "mt10"],
)
def test_a_run_that_knew_fewer_settings_of_its_environments_is_the_same_run(arguments, later, tmp_path):
    config = compose_config(arguments)
    stored = OmegaConf.create(asdict(config))
    for key in later:
        del stored["env"][key]
    OmegaConf.save(stored, tmp_path / "config.yaml")
    _check_same(config, tmp_path)
    other = compose_config([*arguments, "env.action_repeat=2"])
    with pytest.raises(ConfigError, match=r"env.action_repeat"):
        _check_same(other, tmp_path)
