"""What draws the environments for videos, in pictures of size × size pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import EnvStep

_CAMERA = "corner4"  # the customary corner2, moved closer


class MetaWorldCamera:
    """Draws a Meta-World environment in real time: a step is 12.5 ms."""

    every, frames_per_second = 4, 20

    def __init__(self, model: Any, data: Any, size: int) -> None:
        import mujoco

        self._data = data
        self._renderer = mujoco.Renderer(model, size, size)
        # Without a graphics card they take four fifths of the time.
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0

    def __call__(self, _: EnvStep) -> NDArray[np.uint8]:
        """The picture [size, size, 3] after a step."""
        self._renderer.update_scene(self._data, camera=_CAMERA)
        return self._renderer.render()[::-1, ::-1]  # Meta-World hangs this camera upside down


class ToyCamera:
    """Draws the point and, as a circle, where it succeeds."""

    every, frames_per_second = 1, 10

    def __init__(self, size: int, success_radius: float) -> None:
        self._size, self._radius = size, success_radius

    def __call__(self, step: EnvStep) -> NDArray[np.uint8]:
        """The picture [size, size, 3] after a step."""
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (self._size, self._size), "white")
        pen = ImageDraw.Draw(image)
        pen.rectangle((*self._pixels(-1, 1), *self._pixels(1, -1)), outline="silver")
        x, y, _, _, goal_x, goal_y = step.observation.tolist()
        pen.circle(self._pixels(goal_x, goal_y), self._radius / 2.2 * self._size, fill="gold")
        pen.circle(self._pixels(x, y), 7, fill="navy")
        return np.asarray(image)

    def _pixels(self, x: float, y: float) -> tuple[float, float]:
        return (1.1 + x) / 2.2 * self._size, (1.1 - y) / 2.2 * self._size


class RenderCamera:
    """Draws what gymnasium's `render` gives, scaled to fit; black fills the rest.

    Args:
        env: made with render_mode="rgb_array".
        size: pixels.
    """

    def __init__(self, env: Any, size: int) -> None:
        self._env, self._size = env, size
        speed = env.metadata.get("render_fps") or 30
        self.every = max(1, round(speed / 30))  # more pictures in a second than that nobody sees
        self.frames_per_second = max(1, round(speed / self.every))

    def __call__(self, _: EnvStep) -> NDArray[np.uint8]:
        """The picture [size, size, 3] after a step."""
        from PIL import Image, ImageOps

        picture = Image.fromarray(np.asarray(self._env.render(), np.uint8))
        return np.asarray(ImageOps.pad(picture, (self._size, self._size), color="black"))
