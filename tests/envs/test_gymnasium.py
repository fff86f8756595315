"""gymnasium's environments as tasks: actions, successes, lengths, and what cannot be stored."""

from __future__ import annotations

import threading

import gymnasium
import numpy as np
import pytest
from conftest import TOY, records, train_here
from gymnasium.spaces import Box

from mtrl_conic.envs.gymnasium_adapter import Gymnasium
from mtrl_conic.envs.vector import VectorEnv, unstored_tasks
from mtrl_conic.runs.folder import open_run
from mtrl_conic.settings.compose import resume_config
from mtrl_conic.training.trainer import Trainer


class Line(gymnasium.Env):
    """A point that moves along a line by its action; info says when it is far."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}  # noqa: RUF012
    observation_space = Box(-np.inf, np.inf, (2,))

    def __init__(self, low=-1.0, high=3.0, terminate=np.inf, truncate=np.inf, lock=False, shape=(1,), render_mode=None):
        self.action_space = Box(low, high, shape)
        self.terminate, self.truncate, self.render_mode = terminate, truncate, render_mode
        self.lock = threading.Lock() if lock else None  # which nothing can store

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.count = float(self.np_random.uniform()), 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.x, self.count = self.x + float(action[0]), self.count + 1
        ends = self.count >= self.terminate, self.count >= self.truncate
        return self._observation(), float(action[0]), *ends, {"far": self.x > 4}

    def render(self):
        return np.full((10, 30, 3), 200, np.uint8)

    def _observation(self):
        return np.array([self.x, self.count], np.float32)


class Forgetful(Line):
    """Its copies begin anew."""

    def __getstate__(self):
        return {}

    def __setstate__(self, state):
        Line.__init__(self)
        self.reset(seed=0)


gymnasium.register("tests/Line-v0", f"{__name__}:Line", max_episode_steps=20)
gymnasium.register("tests/Endless-v0", f"{__name__}:Line")
gymnasium.register("tests/Forgetful-v0", f"{__name__}:Forgetful", max_episode_steps=20)
LINE = "tests/Line-v0"


def env_of(*tasks, task=0, **settings):
    return Gymnasium(tasks or [LINE], **settings).setup().make(task)


def push(value):
    return np.array([value], np.float32)


def test_actions_are_scaled_to_the_bounds():
    env = env_of()
    env.reset(0)
    rewards = [env.step(push(value)).reward for value in (-1, -0.5, 0, 1, 1.5)]
    np.testing.assert_allclose(rewards, [-1, 0, 1, 3, 3])


def test_a_goal_is_a_reset_seed():
    env, official = env_of(first_seed=7), gymnasium.make(LINE)
    np.testing.assert_array_equal(env.reset(5), official.reset(seed=12)[0])


def test_terminated_and_truncated_are_kept_apart():
    settings = {
        "tasks": {"end": LINE, "stop": LINE, "long": LINE},
        "task_kwargs": {"end": {"terminate": 3}, "stop": {"truncate": 2}},
    }
    spec = Gymnasium(**settings, max_episode_steps=5).setup()
    flags = {}
    with VectorEnv(spec, [0], workers=0) as envs:
        envs.reset()
        for count in range(1, 6):
            step = envs.step(np.zeros((1, 3, 1, 1), np.float32))
            for task, name in enumerate(spec.tasks):
                if (step.terminated | step.truncated)[0, task, 0] and name not in flags:
                    flags[name] = (count, bool(step.terminated[0, task, 0]), bool(step.truncated[0, task, 0]))
                    assert step.next_observation[0, task, 0, 1] == count
                    assert step.observation[0, task, 0, 1] == 0
    assert flags == {"end": (3, True, False), "stop": (2, False, True), "long": (5, False, True)}


def test_lengths_are_the_environments_own_or_given():
    assert Gymnasium([LINE]).horizon == 20
    assert Gymnasium([LINE], max_episode_steps=30).setup().make(0).horizon == 30
    both = Gymnasium([LINE, "tests/Forgetful-v0"])
    assert both.horizon == 20
    with pytest.raises(ValueError, match="max_episode_steps must be given: tests/Endless-v0"):
        Gymnasium(["tests/Endless-v0"])
    assert Gymnasium(["tests/Endless-v0"], max_episode_steps=4).horizon == 4


def test_tasks_may_have_episodes_of_several_lengths():
    gymnasium.register("tests/Short-v0", f"{__name__}:Line", max_episode_steps=3)
    spec = Gymnasium([LINE, "tests/Short-v0"]).setup()
    with VectorEnv(spec, [0], workers=0) as envs:
        envs.reset()
        ends = [envs.step(np.zeros((1, 2, 1, 1), np.float32)).truncated[0, :, 0].tolist() for _ in range(20)]
    assert [end[0] for end in ends] == [False] * 19 + [True]
    assert [end[1] for end in ends] == [number % 3 == 0 for number in range(1, 21)]


def successes(steps=20, **settings):
    env = env_of(**settings)
    env.reset(0)
    return [env.step(push(0)).success for _ in range(steps)]


def test_success_by_info():
    found = successes(success_key="far")
    assert found[:3] == [False] * 3
    assert all(found[5:])
    assert not any(successes(success_key="near"))


def test_success_by_return_counts_at_the_end():
    assert successes(success_return=20) == [False] * 19 + [True]  # the reward is 1 a step
    assert not any(successes(success_return=20.5))
    assert successes(success_return=-5) == [False] * 19 + [True]
    assert successes(success_return={LINE: 3}, kwargs={"terminate": 3}, steps=3) == [False, False, True]
    assert not any(successes())


def test_the_return_so_far_is_part_of_the_state():
    spec = Gymnasium([LINE], success_return=20).setup()
    first, second = spec.make(0), spec.make(0)
    first.reset(0)
    for _ in range(12):
        first.step(push(0))
    second.set_state(first.get_state())
    assert [second.step(push(0)).success for _ in range(8)] == [False] * 7 + [True]


@pytest.mark.parametrize(("task", "kwargs"), [(LINE, {"lock": True}), ("tests/Forgetful-v0", {})])
def test_what_cannot_be_stored_starts_anew(task, kwargs):
    spec = Gymnasium({"stored": LINE, "not": task}, task_kwargs={"not": kwargs}).setup()
    with VectorEnv(spec, [0], workers=0) as envs:
        envs.reset()
        for _ in range(4):
            envs.step(np.zeros((1, 2, 1, 1), np.float32))
        state = envs.get_state()
        assert unstored_tasks(state) == ["not"]
        observation = envs.set_state(state)
        assert observation[0, :, 0, 1].tolist() == [4, 0]
        again = envs.set_state(state)
        np.testing.assert_array_equal(observation, again)
        ends = [envs.step(np.zeros((1, 2, 1, 1), np.float32)).truncated[0, :, 0].tolist() for _ in range(20)]
    assert [row.index(True) for row in zip(*ends, strict=True)] == [15, 19]


def test_environments_of_mujoco_are_stored():
    """They store the arguments of their constructor, which would be a copy in its first state."""
    spec = Gymnasium(["InvertedPendulum-v5"]).setup()
    assert spec.stored == (True,)
    first, second = spec.make(0), spec.make(0)
    first.reset(0)
    for _ in range(5):
        first.step(push(0.4))
    second.set_state(first.get_state())
    for _ in range(5):
        one, other = first.step(push(0.7)), second.step(push(0.7))
        np.testing.assert_array_equal(one.observation, other.observation)
        assert one[1:] == other[1:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kwargs": {"high": np.inf}}, "tasks must have bounded actions, those of tests/Line-v0"),
        ({"kwargs": {"shape": [1, 2]}}, r"tasks must have flat actions .*, tests/Line-v0 has Box"),
        ({"tasks": [LINE, LINE]}, "tasks must be a list of different ids"),
        ({"tasks": []}, "tasks must be a list of different ids"),
        ({"tasks": {"one": 1}}, "tasks must be a list of different ids"),
        ({"kwargs": [1]}, "kwargs must be a mapping"),
        ({"kwargs": {"render_mode": "rgb_array"}}, r"^kwargs must not have a render_mode \(rgb_array\)"),
        ({"task_kwargs": {LINE: {"render_mode": None}}}, r"^task_kwargs must not have a render_mode \(None\)"),
        ({"task_kwargs": {LINE: 3}}, "task_kwargs must be a mapping"),
        ({"num_goals": 0}, "num_goals must be a whole number of at least 1"),
        ({"first_seed": -1}, "first_seed must be a whole number of at least 0"),
        ({"success_key": 3}, "success_key must be a name"),
        ({"success_return": float("nan")}, "success_return must be a number"),
        ({"kwargs": {"low": 4.0}}, "tests/Line-v0 cannot be made"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        Gymnasium(**{"tasks": [LINE]} | settings)
    assert "\n" not in str(caught.value)


def test_pictures_are_scaled_to_fit():
    pytest.importorskip("PIL")
    env = env_of()
    camera = env.camera(60)
    env.reset(0)
    picture = camera(env.step(push(0)))
    assert picture.shape == (60, 60, 3)
    assert picture[30].min() == 200
    assert picture[:15].max() == 0
    assert (camera.every, camera.frames_per_second) == (2, 30)
    assert not Gymnasium([LINE]).drawn_by_mujoco()
    assert Gymnasium(["InvertedPendulum-v5"]).drawn_by_mujoco()


def test_what_cannot_be_drawn_is_said(monkeypatch):
    monkeypatch.setitem(Line.metadata, "render_modes", [])
    with pytest.raises(ValueError, match="tests/Line-v0 cannot be drawn: it has no render_mode rgb_array"):
        Gymnasium([LINE], first_seed=3, kwargs={"high": 2.5}).drawn_by_mujoco()


def test_a_run_whose_environments_cannot_be_stored_says_so_and_goes_on(tmp_path, capsys):
    arguments = [argument for argument in TOY if argument != "env=toy"]
    arguments += ["env=gym", "env.tasks=[tests/Forgetful-v0]", "env.workers=0", "combiner=ls", "steps_per_task=90"]
    folder = train_here(*arguments, f"run_dir={tmp_path / 'run'}")
    said = capsys.readouterr().out
    assert said.count("tests/Forgetful-v0: cannot be stored in mid-episode, so that episodes start anew on resume") == 1
    config = resume_config(str(folder), ["steps_per_task=110"])
    with open_run(config, True):
        trainer = Trainer(config, folder, resume=True)
        assert trainer.observation[0, 0, 0, 1] == 0  # a first observation
        assert trainer.run()
        trainer.close()
    assert "tests/Forgetful-v0: not stored in mid-episode, their episodes start anew" in capsys.readouterr().out
    assert [line["step"] for line in records(folder)] == [90, 100, 110]
