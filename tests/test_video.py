"""Videos of evaluated episodes: what is in the files, and what is said where they cannot be made."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOY, train_here
from omegaconf import OmegaConf

from mtrl_conic import evaluate as command
from mtrl_conic.envs import metaworld
from mtrl_conic.envs.evaluation import evaluate
from mtrl_conic.envs.gymnasium_adapter import Gymnasium
from mtrl_conic.envs.vector import VectorEnv, VectorStep
from mtrl_conic.policies import evaluate_run
from mtrl_conic.runs.checkpoint import write_file
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.video import recording as video
from mtrl_conic.video.frames import Clip

WIDTH, HEIGHT = 480, 544


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video") / "run"
    return train_here(*TOY, "combiner=ls", "seeds=[4,2]", "steps_per_task=100", f"run_dir={folder}")


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def mp4_frames(path):
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    facts = next(reader)
    width, height = facts["size"]
    return facts, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_an_mp4_a_task(run, capsys):
    arguments = [f"run={run}", "episodes=3", "video=true", "video_goals=[0,2]", "workers=0"]
    assert command.main(arguments) == 0
    names = {f"{task}_seed_4_best_goals_0_2.mp4" for task in ("direct", "mirrored", "damped")}
    assert {path.name for path in (run / "videos").iterdir()} == names
    out = capsys.readouterr().out
    assert all(name in out for name in names)
    facts, frames = mp4_frames(run / "videos" / "damped_seed_4_best_goals_0_2.mp4")
    assert facts["size"] == (WIDTH, HEIGHT)
    assert facts["fps"] == 10
    assert len(frames) == 2 * 50
    picture, caption = frames[0][:480], frames[0][480:]
    assert picture.mean() > 200  # white, with walls, a point and a goal
    assert caption.mean() < 60
    assert caption.max() > 200  # and text
    assert np.abs(frames[0][480:].astype(int) - frames[30][480:].astype(int)).max() > 100  # that counts steps
    goals = [np.argwhere((frame[:480, :, 0] > 200) & (frame[:480, :, 2] < 60)) for frame in (frames[0], frames[60])]
    assert np.linalg.norm(goals[0].mean(0) - goals[1].mean(0)) > 20  # the second episode has another goal


def test_a_gif_a_task(run, tmp_path, capsys):
    from PIL import Image

    folder = tmp_path / "deep" / "folder"
    arguments = [f"run={run}", "episodes=1", "video=true", "video_format=gif", f"video_dir={folder}", "seeds=[2]"]
    assert command.main(arguments) == 0
    assert len(list(folder.iterdir())) == 3
    assert "in place" not in capsys.readouterr().out
    assert command.main(arguments) == 0
    assert capsys.readouterr().out.count(".gif, in place of an earlier one\n") == 3
    with Image.open(folder / "direct_seed_2_best.gif") as image:
        assert image.size == (WIDTH, HEIGHT)
        assert image.n_frames == 50
        assert image.info["duration"] == 100
        assert image.info["loop"] == 0


def no_backend(monkeypatch, works=()):
    monkeypatch.setattr(video, "_draws", lambda backend: backend in works)


def test_without_egl_and_osmesa(monkeypatch):
    no_backend(monkeypatch)
    with pytest.raises(ConfigError, match=r"neither EGL nor OSMesa .* libegl1 libgl1 or libosmesa6$"):
        video.find_backend("gif", drawn_by_mujoco=True)
    assert video.find_backend("gif", drawn_by_mujoco=False) == ""


def test_the_first_backend_that_works(monkeypatch):
    no_backend(monkeypatch, works=("osmesa",))
    assert video.find_backend("gif", drawn_by_mujoco=True) == "osmesa"
    no_backend(monkeypatch, works=("osmesa", "egl"))
    assert video.find_backend("gif", drawn_by_mujoco=True) == "egl"
    assert video.find_backend("gif", drawn_by_mujoco=True, wanted="osmesa") == "osmesa"


@pytest.mark.parametrize(("wanted", "words"), [("osmesa", "libosmesa6 or unset it"), ("glfw", "unset it")])
def test_a_backend_asked_for_that_does_not_work(monkeypatch, wanted, words):
    no_backend(monkeypatch, works=("egl",))
    with pytest.raises(ConfigError, match=rf"MUJOCO_GL={wanted} does not draw .*{words}$"):
        video.find_backend("gif", drawn_by_mujoco=True, wanted=wanted)


@pytest.mark.slow
def test_mujoco_gl_that_names_nothing_is_one_line(tmp_path):
    """MuJoCo itself refuses to be imported with it."""
    config = compose_config(["env=mt1", "env.task=reach-v3", "experiment=smoke", "combiner=ls", "device=cpu"])
    (tmp_path / "checkpoints").mkdir()
    OmegaConf.save(OmegaConf.structured(config), tmp_path / "config.yaml")
    agent = config.make_agent()
    agent.setup(config.setting())
    policy = agent.policy_state(agent.state_dict())
    write_file(tmp_path / "checkpoints" / "best.pt", {"policy": policy, "step": 0, "success_rate": 0.0})
    arguments = [sys.executable, "-m", "mtrl_conic.evaluate", f"run={tmp_path}", "video=true", "video_format=gif"]
    environment = {**os.environ, "MUJOCO_GL": "Nonsense"}
    process = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 2, process.stderr
    assert process.stderr == "error: video=true: MUJOCO_GL=nonsense does not draw on this machine; unset it\n"


def test_the_environment_is_left_as_it_was(run, monkeypatch):
    for value in ("egl", None):
        monkeypatch.setenv("MUJOCO_GL", value) if value else monkeypatch.delenv("MUJOCO_GL")
        before = dict(os.environ)
        assert command.main([f"run={run}", "episodes=1"]) == 0
        assert dict(os.environ) == before


def test_without_the_extra(run, monkeypatch, capsys):
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    assert command.main([f"run={run}", "episodes=1", "video=true"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "mtrl_conic[video]" in err
    assert not (run / "videos").exists()
    assert not list(run.glob("evaluation_*"))


def test_a_video_that_cannot_be_drawn_costs_no_results(run, monkeypatch, capsys):
    clips = evaluate_run._clips
    monkeypatch.setattr(evaluate_run, "_clips", lambda *rest: [clip._replace(task=9) for clip in clips(*rest)])
    assert command.main([f"run={run}", "episodes=1", "video=true", "video_format=gif"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "IndexError" in err
    assert json.loads((run / "evaluation_best_episodes_1.json").read_text())["seeds"] == [4, 2]
    assert list((run / "videos").iterdir()) == []


@pytest.fixture(scope="module")
def played():
    """Two episodes of a Meta-World task by a policy of random weights, and what was kept of them."""
    spec = metaworld.make_spec(["drawer-close-v3"])
    weights = torch.randn(39, 4, generator=torch.Generator().manual_seed(0)) / 3
    tape = video.Tape((1, 1, 1), [1])

    def act(observation):
        return (observation @ weights).tanh()

    with VectorEnv(spec, [0], workers=0, goals="in_turn") as envs:
        result = evaluate(act, envs, episodes=2, watch=tape.watch)
        first = evaluate(act, envs, episodes=1)
    return spec, tape, 2 * result.episode_return[0, 0] - first.episode_return[0, 0]


def test_the_episode_shown_is_the_one_counted(played):
    spec, tape, episode_return = played
    env = spec.make(0)
    ((goal, actions),) = tape.episodes(0).items()
    env.reset(goal)
    rewards = [env.step(action).reward for action in actions]
    assert len(rewards) == spec.horizon
    assert sum(rewards) == pytest.approx(episode_return, rel=1e-6)


def installed(*libraries):
    return all(ctypes.util.find_library(library) for library in libraries)


@pytest.mark.skipif(
    not (installed("EGL", "GL") or installed("OSMesa")), reason="needs libegl1 and libgl1, or libosmesa6"
)
def test_meta_world_in_pictures(played, tmp_path):
    spec, tape, _ = played
    backend = video.find_backend("mp4", drawn_by_mujoco=True)
    episodes = {goal: actions[:9] for goal, actions in tape.episodes(0).items()}
    path = tmp_path / "drawer.mp4"
    assert list(video.draw([Clip(spec, 0, episodes, "about", path)], backend)) == [path]
    facts, frames = mp4_frames(path)
    assert facts["fps"] == 20
    assert len(frames) == 3  # steps 4, 8 and the last
    assert frames[0][:480].std() > 30  # an arm, a table, a drawer
    assert frames[0][:120].std() < frames[0][240:480].std()  # the empty room is above
    assert list(tmp_path.iterdir()) == [path]


SQUARE = """
import gymnasium, numpy as np

class Square(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self):
        return np.full((10, 10, 3), (0, 160, 0), np.uint8)

gymnasium.register("Square-v0", Square, max_episode_steps=5)
"""


def test_gymnasium_in_pictures(tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / "square.py").write_text(SQUARE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    environments = Gymnasium(["square:Square-v0"])
    assert not environments.drawn_by_mujoco()
    path = tmp_path / "square.gif"
    clip = Clip(environments.setup(), 0, {0: np.zeros((5, 1), np.float32)}, "about", path)
    assert list(video.draw([clip], "")) == [path]
    with Image.open(path) as image:
        assert image.info["duration"] == 50
        assert image.convert("RGB").getpixel((240, 240)) == (0, 160, 0)


def test_a_tape_follows_tasks_whose_episodes_end_at_other_steps():
    """Actions are numbered by step; the first task's episodes have two steps, the second's three."""
    tape = video.Tape((1, 2, 1), [0, 2])
    for number in range(9):
        action = np.full((1, 2, 1, 1), number, np.float32)
        ended = np.array([number % 2 == 1, number % 3 == 2]).reshape(1, 2, 1)
        nothing = np.zeros_like(ended)
        tape.watch(action, VectorStep(None, None, None, nothing, ended, nothing, None, None))
    kept = [{goal: actions[:, 0].tolist() for goal, actions in tape.episodes(task).items()} for task in range(2)]
    assert kept == [{0: [0, 1], 2: [4, 5]}, {0: [0, 1, 2], 2: [6, 7, 8]}]
