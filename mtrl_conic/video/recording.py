"""Captioned videos of evaluated episodes, drawn without a display.

The actions of an evaluation are kept and played again in fresh environments, which step to the same bits; so a video
shows an episode that was counted. MuJoCo fixes its way of drawing when it is first imported, hence a process of its
own draws.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.shared import VectorStep
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.video.frames import Clip

FORMATS = ("mp4", "gif")
BACKENDS = {
    "egl": "libegl1 libgl1",
    "osmesa": "libosmesa6",
}  # MUJOCO_GL → system packages, as Debian and Ubuntu call them
_TRY = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().max() > 0
"""


class VideoError(RuntimeError):
    """A video could not be drawn or written."""


class Tape:
    """Keeps the actions of the first seed on some goals while `evaluation.evaluate` plays goals 0, 1, ... in turn.

    Args:
        shape: S, K, N of the environments.
        goals: those to keep.
    """

    def __init__(self, shape: tuple[int, int, int], goals: Sequence[int]) -> None:
        _, tasks, envs = shape
        self._goal = np.broadcast_to(np.arange(envs), (tasks, envs)).copy()  # that each environment is at
        self._kept: list[dict[int, list[NDArray[np.float32]]]] = [{goal: [] for goal in goals} for _ in range(tasks)]

    def watch(self, action: NDArray[np.float32], step: VectorStep) -> None:
        """Take in the actions [S, K, N, A] of one step and what came of them."""
        for task, env in np.ndindex(self._goal.shape):
            goal = int(self._goal[task, env])
            if goal in self._kept[task]:
                self._kept[task][goal].append(action[0, task, env].copy())
        self._goal += self._goal.shape[1] * (step.terminated | step.truncated)[0]

    def episodes(self, task: int) -> dict[int, NDArray[np.float32]]:
        """The actions [T, A] of a task on each goal, one a decision."""
        return {goal: np.stack(actions) for goal, actions in self._kept[task].items()}


@contextmanager
def drawing_elsewhere() -> Iterator[str]:
    """Keep this process from loading what MUJOCO_GL names, which may be missing; gives the name."""
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield (before or "").lower().strip()
    finally:
        del os.environ["MUJOCO_GL"]
        if before is not None:
            os.environ["MUJOCO_GL"] = before


def find_backend(video_format: str, drawn_by_mujoco: bool, wanted: str = "") -> str:
    """What MUJOCO_GL must be for drawing to work here: `wanted` if that is given, else EGL or OSMesa.

    Raises:
        ConfigError: naming the Python or system package that is missing.
    """
    if video_format == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            "video=true: imageio-ffmpeg is not installed: pip install 'mtrl_conic[video]' (video_format=gif needs none)"
        )
    if not drawn_by_mujoco:
        return wanted
    for backend in [wanted] if wanted else BACKENDS:
        if _draws(backend):
            return backend
    if wanted:
        fix = f"install the system packages {BACKENDS[wanted]} or " if wanted in BACKENDS else ""
        raise ConfigError(f"video=true: MUJOCO_GL={wanted} does not draw on this machine; {fix}unset it")
    raise ConfigError(
        "video=true: neither EGL nor OSMesa draws on this machine; install the system packages "
        + " or ".join(BACKENDS.values())
    )


def _draws(backend: str) -> bool:
    command = [sys.executable, "-c", _TRY]
    try:
        return subprocess.run(command, env=_environment(backend), capture_output=True, timeout=120).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _environment(backend: str) -> dict[str, str]:
    platform = {"PYOPENGL_PLATFORM": backend} if backend in BACKENDS else {}
    return {**os.environ, "MUJOCO_GL": backend, **platform}


def draw(clips: Sequence[Clip], backend: str) -> Iterator[Path]:
    """Make the videos in another process; gives each file when it is there.

    Raises:
        VideoError: drawing or writing failed; what was made before is whole.
    """
    command = [sys.executable, "-c", "from mtrl_conic.video.frames import serve; serve()"]
    with tempfile.TemporaryFile() as problems:
        process = subprocess.Popen(
            command, env=_environment(backend), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=problems
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # why it has ended is told below
                process.stdin.write(pickle.dumps(list(clips)))
                process.stdin.close()
            for line in process.stdout:
                yield Path(line.decode().rstrip("\n"))
            if process.wait() != 0:
                problems.seek(0)
                lines = problems.read().decode(errors="replace").strip().splitlines()
                raise VideoError(lines[-1] if lines else f"the drawing process ended with status {process.returncode}")
        finally:
            process.kill()
            process.wait()
