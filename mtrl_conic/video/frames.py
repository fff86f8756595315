"""The frames of a video: episodes played again, drawn and captioned. Runs in the process that `video.draw` starts."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_conic.envs.base import Camera, EnvSpec, TaskEnv
from mtrl_conic.envs.held import held
from mtrl_conic.runs.files import WriteError, free_space, write_whole
from mtrl_conic.system.foreign import FAILURES, told

_SIZE = 480  # pixels, of the picture above the caption
_CAPTION = 64  # pixels; encoders want sizes that 16 divides


class Clip(NamedTuple):
    """A video to be made of one task's episodes."""

    spec: EnvSpec
    task: int  # its number
    episodes: dict[int, NDArray[np.float32]]  # goal → actions [T, A]
    about: str  # last line of the caption
    path: Path  # ends in .mp4 or .gif
    action_repeat: int = 1  # steps that each of the actions is held for


def serve() -> None:
    """Make the videos asked for on standard input; the other end of `video.draw`."""
    for clip in pickle.load(sys.stdin.buffer):
        try:
            _write(clip)
        except WriteError as error:
            sys.exit(str(error))
        except SystemExit as error:  # of the environment, which must not pass for a video
            sys.exit(f"{clip.spec.tasks[clip.task]} cannot be drawn: {told(error)}")
        print(clip.path, flush=True)


def _write(clip: Clip) -> None:
    env = clip.spec.make(clip.task)
    try:
        camera: Camera = env.camera(_SIZE)  # type: ignore[attr-defined]  # asked for before the evaluation
        write = _write_gif if clip.path.suffix == ".gif" else _write_mp4
        write(clip.path, _frames(clip, env, camera), camera.frames_per_second)
    finally:
        with suppress(*FAILURES):  # the video is there, or another failure is told of
            env.close()


def _write_mp4(path: Path, frames: Iterator[NDArray[np.uint8]], frames_per_second: int) -> None:
    temporary = path.with_name(f".{path.name}")
    try:
        sent = _encode(temporary, frames, frames_per_second)
        if _frames_in(temporary) != sent:
            raise WriteError(f"{path} cannot be written: the encoder gave up; {free_space(path.parent)}")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _encode(path: Path, frames: Iterator[NDArray[np.uint8]], frames_per_second: int) -> int:
    """Write a video with ffmpeg; returns how many frames it was sent."""
    from imageio_ffmpeg import write_frames

    size, sent = (_SIZE, _SIZE + _CAPTION), 0
    writer = write_frames(str(path), size, fps=frames_per_second, quality=7, ffmpeg_log_level="error")
    writer.send(None)
    for frame in frames:
        sent += 1
        try:
            writer.send(np.ascontiguousarray(frame))
        except OSError:  # it has ended early
            break
    writer.close()
    return sent


def _frames_in(path: Path) -> int:
    """How many frames can be read from a video: its encoder does not say when the disk was full."""
    from imageio_ffmpeg import count_frames_and_secs

    try:
        return count_frames_and_secs(str(path))[0]
    except (OSError, RuntimeError):
        return 0


def _write_gif(path: Path, frames: Iterator[NDArray[np.uint8]], frames_per_second: int) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    first, *others = (Image.fromarray(frame).quantize(128) for frame in frames)
    duration = 1000 // frames_per_second  # milliseconds
    first.save(buffer, format="gif", save_all=True, append_images=others, duration=duration, loop=0)
    write_whole(path, buffer.getvalue())


def _frames(clip: Clip, env: TaskEnv, camera: Camera) -> Iterator[NDArray[np.uint8]]:
    for goal, decisions in clip.episodes.items():
        actions = _of_steps(env, goal, decisions, clip.action_repeat)
        env.reset(goal)
        success = False
        for number, action in enumerate(actions, start=1):
            step = env.step(action)
            success |= step.success
            if number % camera.every == 0 or number == len(actions):
                lines = (
                    f"{clip.spec.tasks[clip.task]}   goal {goal}   step {number} of {len(actions)}",
                    f"reward {step.reward:.2f}   success so far: {'yes' if success else 'no'}",
                    clip.about,
                )
                yield _captioned(camera(step), lines, success)


def _of_steps(env: TaskEnv, goal: int, decisions: NDArray[np.float32], repeat: int) -> NDArray[np.float32]:
    """The actions [T', A] of an environment's steps, by those [T, A] that were held; the last not past the end."""
    if repeat == 1:
        return decisions
    env.reset(goal)
    actions: list[NDArray[np.float32]] = []
    for action in decisions:
        for _ in held(env, action, min(repeat, env.horizon - len(actions))):
            actions.append(action)
    return np.stack(actions)


def _captioned(picture: NDArray[np.uint8], lines: Sequence[str], success: bool) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (_SIZE, _SIZE + _CAPTION), "black")
    image.paste(Image.fromarray(picture), (0, 0))
    pen = ImageDraw.Draw(image)
    colours = ("white", "lightgreen" if success else "white", "silver")
    for row, (line, colour) in enumerate(zip(lines, colours, strict=True)):
        pen.text((8, _SIZE + 4 + 19 * row), line, fill=colour, font=ImageFont.load_default(15))
    return np.asarray(image)
