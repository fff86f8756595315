"""What there is to know of gymnasium's environments before any is trained on: sizes, lengths, what can be stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from mtrl_conic.envs.stored_object import dump, load
from mtrl_conic.system.foreign import FAILURES, told


class Id(NamedTuple):
    """What gymnasium makes an environment from."""

    id: str
    kwargs: str  # as JSON, so that it can be compared
    horizon: int | None  # steps, where another number than the environment's own is wanted


class Probe(NamedTuple):
    """What one environment says of itself."""

    observation: int  # entries
    action: int  # entries
    horizon: int  # steps


def make(what: Id, **kwargs: Any) -> Any:
    """Build an environment, without gymnasium's own checks at each step."""
    import gymnasium

    limit = {} if what.horizon is None else {"max_episode_steps": what.horizon}
    return gymnasium.make(what.id, disable_env_checker=True, **limit, **json.loads(what.kwargs), **kwargs)


def discard(env: Any) -> None:
    """Close an environment of which nothing is wanted any more, not even a complaint."""
    with suppress(*FAILURES):
        env.close()


def read_ids(
    tasks: Sequence[str] | Mapping[str, str] | None,
    kwargs: Mapping[str, Any] | None,
    task_kwargs: Mapping[str, Mapping[str, Any]] | None,
    horizon: int | None,
) -> dict[str, Id]:
    """What to make by the names of the tasks; the arguments are those of `Gymnasium`.

    Raises:
        ValueError: naming the argument that is of another kind.
    """
    named = _named(tasks)
    shared, own = _mapping("kwargs", kwargs), _mapping("task_kwargs", task_kwargs)
    for task in own:
        if task not in named:
            raise ValueError(f"task_kwargs must be of {', '.join(named)}, not of {task!r}")
    merged = {task: shared | _mapping("task_kwargs", own.get(task)) for task in named}
    return {task: Id(name, json.dumps(merged[task], sort_keys=True), horizon) for task, name in named.items()}


def _named(tasks: Any) -> dict[str, str]:
    found = tasks if isinstance(tasks, Mapping) else None
    if isinstance(tasks, list | tuple) and len({*map(str, tasks)}) == len(tasks):
        found = {task: task for task in tasks}
    if not found or not all(isinstance(text, str) and text for pair in found.items() for text in pair):
        raise ValueError(f"tasks must be a list of different ids such as [Pendulum-v1], or {{name: id}}, not {tasks!r}")
    return dict(found)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if value is not None and not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        raise ValueError(f"{name} must be a mapping such as {{g: 9.81}}, not {value!r}")
    if value is not None and "render_mode" in value:
        raise ValueError(f"{name} must not have a render_mode ({value['render_mode']}): videos choose it")
    return dict(value or {})


@cache
def probe(task: str, what: Id) -> Probe:
    """Build an environment once and look at it.

    Raises:
        ValueError: it cannot be built, or has other spaces than flat boxes, or no length.
    """
    env = _made(task, what)
    try:
        limit = what.horizon or (env.spec.max_episode_steps if env.spec else None)
        if limit is None:
            raise ValueError(f"max_episode_steps must be given: {what.id} has none of its own")
        observation, action = (_size(task, kind, getattr(env, f"{kind}_space")) for kind in ("observation", "action"))
        if not np.isfinite([env.action_space.low, env.action_space.high]).all():
            raise ValueError(f"tasks must have bounded actions, those of {task} are {env.action_space}")
        return Probe(observation, action, limit)
    finally:
        discard(env)


def _made(task: str, what: Id, **kwargs: Any) -> Any:
    try:
        return make(what, **kwargs)
    except FAILURES as error:  # the environment is not ours, and may do anything
        raise ValueError(f"tasks: {task} cannot be made ({told(error)})") from None


def _size(task: str, kind: str, space: Any) -> int:
    from gymnasium.spaces import Box

    if not isinstance(space, Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"tasks must have flat {kind}s (a Box of one axis and of floats), {task} has {space}")
    return space.shape[0]


@cache
def can_be_stored(what: Id) -> bool:
    """Whether an environment in mid-episode and a stored copy of it go on alike."""
    env = make(what)
    try:
        env.reset(seed=0)
        space = env.action_space
        actions = np.random.default_rng(0).uniform(space.low, space.high, (6, *space.shape)).astype(space.dtype)
        for action in actions[:3]:
            env.step(action)
        copy = load(dump(env))
        return all(_alike(env, copy, action) for action in actions[3:])
    except FAILURES:  # whatever it fails with
        return False
    finally:
        discard(env)


def _alike(env: Any, copy: Any, action: Any) -> bool:
    ours, theirs = env.step(action), copy.step(action)
    return bool(np.array_equal(ours[0], theirs[0])) and ours[1:4] == theirs[1:4]


@cache
def draws_with_mujoco(task: str, what: Id) -> bool:
    """Whether an environment's pictures are MuJoCo's.

    Raises:
        ValueError: it has none, or what draws them is not installed.
    """
    env = _made(task, what)
    modes = env.metadata.get("render_modes", [])
    with_mujoco = hasattr(env.unwrapped, "mujoco_renderer")
    discard(env)
    if "rgb_array" not in modes:
        raise ValueError(f"{task} cannot be drawn: it has no render_mode rgb_array")
    if not with_mujoco:
        _draw_once(task, what)
    return with_mujoco


def _draw_once(task: str, what: Id) -> None:
    env = _made(task, what, render_mode="rgb_array")
    try:
        env.reset(seed=0)
        env.render()
    except FAILURES as error:  # such as a package that is not installed
        raise ValueError(f"{task} cannot be drawn: {told(error)}") from None
    finally:
        discard(env)
