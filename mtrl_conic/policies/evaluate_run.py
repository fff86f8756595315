"""A stored run is evaluated: its policies are played, and what came out is printed and written."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mtrl_conic.envs.base import EnvSpec
from mtrl_conic.envs.environments import Environments
from mtrl_conic.envs.evaluation import Evaluation, Interrupted, evaluate
from mtrl_conic.envs.vector import VectorEnv, VectorStep, WorkerError
from mtrl_conic.policies.actors import CHECKPOINTS, Actors, read_weights, stored_config
from mtrl_conic.policies.record import facts, heading, method, results
from mtrl_conic.runs.files import WriteError, write_whole
from mtrl_conic.runs.outputs import check_file, check_folder
from mtrl_conic.runs.table import success_table
from mtrl_conic.settings import arguments as read
from mtrl_conic.settings.device import validate_device
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.parts import make_spec
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.settings.threads import threads_of
from mtrl_conic.system.foreign import exited
from mtrl_conic.system.matmul import set_matmul_precision
from mtrl_conic.system.signals import Signals
from mtrl_conic.system.threads import as_small_work
from mtrl_conic.video.frames import Clip
from mtrl_conic.video.recording import FORMATS, Tape, VideoError, draw, drawing_elsewhere, find_backend

_READERS: dict[str, read.Reader] = {
    "run": read.path,
    "checkpoint": read.choice(*CHECKPOINTS),
    "seeds": read.whole_list,
    "episodes": read.whole(1),
    "device": read.text,
    "workers": read.whole(0),
    "out": read.path,
    "video": read.flag,
    "video_format": read.choice(*FORMATS),
    "video_goals": read.whole_list,
    "video_dir": read.path,
}
_DEFAULTS: dict[str, Any] = {
    "checkpoint": "best",
    "episodes": 50,
    "video": False,
    "video_format": "mp4",
    "video_goals": [0],
}


def run(arguments: Sequence[str]) -> int:
    """Evaluate as the command line says; returns the exit status."""
    stopped = Signals(_interrupt)
    try:
        options = _DEFAULTS | read.parse(arguments, _READERS, required=["run"])
        with drawing_elsewhere() as backend:
            options["backend"] = backend
            _evaluate(options, stopped)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (WorkerError, VideoError, WriteError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SystemExit as error:
        print(f"error: {exited(error)}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Interrupted):
        print("interrupted", file=sys.stderr)
        return 128 + (stopped.received or signal.SIGINT)
    return 0


def _interrupt(_: int) -> NoReturn:
    """Some libraries swallow what is raised in them: whoever waits for long asks as well."""
    raise KeyboardInterrupt


def _evaluate(options: dict[str, Any], stopped: Signals) -> None:
    run, checkpoint = options["run"], options["checkpoint"]
    config = stored_config(run)
    _choose_device(config, options.get("device"))
    weights = read_weights(run, checkpoint, config.make_agent())
    for message in weights.messages:
        print(message, file=sys.stderr)
    actors, seeds = Actors(config, weights, config.seeds), options.get("seeds", config.seeds)
    act = as_small_work(actors.among(seeds))  # as in training
    shape = (len(seeds), len(actors.tasks), min(config.eval.num_envs_per_task, options["episodes"]))
    workers = _choose_workers(config, math.prod(shape), options.get("workers"))
    out = Path(options.get("out", run / _name(checkpoint, seeds, config.seeds, options["episodes"])))
    check_file("out", out)
    environments, episodes = config.make_environments(), options["episodes"]
    backend, folder = _check_video(options, environments, run)
    spec = make_spec(environments, workers)
    _compute_as_in_training(config, run)
    record = facts(run, checkpoint, config, weights, spec, seeds, episodes)
    print(heading(record), flush=True)
    tape = Tape(shape, options["video_goals"] if options["video"] else ())
    started = time.perf_counter()
    timeout, repeat, ends = config.vector.timeout, actors.action_repeat, config.eval.terminate_on_success
    envs = VectorEnv(spec, seeds, shape[2], workers, "in_turn", timeout, repeat, ends)
    record |= results(record, _play(act, tape, envs, episodes, actors.device, stopped))
    record["wall_seconds"] = round(time.perf_counter() - started, 3)
    replaced = _replaced(out)
    write_whole(out, json.dumps(record, indent=2) + "\n")
    print(f"{success_table(record['evaluations'])}\nwritten     {out}{replaced}", flush=True)
    if options["video"]:
        _show(_clips(tape, spec, record, folder, options), backend, stopped)


def _play(
    act: Callable[[torch.Tensor], torch.Tensor],
    tape: Tape,
    envs: VectorEnv,
    episodes: int,
    device: torch.device,
    stopped: Callable[[], bool],
) -> Evaluation:
    turns = -(-episodes // envs.shape[2])
    with envs, tqdm(total=turns * envs.spec.horizon, unit="step", disable=None) as bar:

        def watch(action: NDArray[np.float32], step: VectorStep) -> None:
            bar.update(envs.action_repeat)
            tape.watch(action, step)

        result = evaluate(act, envs, episodes, device, stopped, watch)
        for line in envs.remarks():
            tqdm.write(f"warning: {line}", file=sys.stderr)
        return result


def _name(checkpoint: str, seeds: Sequence[int], of_the_run: Sequence[int], episodes: int) -> str:
    """Of the JSON; what differs from the whole evaluation is part of it, so as not to take the place of that."""
    some = f"_seeds_{'_'.join(map(str, seeds))}" if list(seeds) != list(of_the_run) else ""
    length = f"_episodes_{episodes}" if episodes != _DEFAULTS["episodes"] else ""
    return f"evaluation_{checkpoint}{some}{length}.json"


def _replaced(out: Path) -> str:
    """What a new record takes the place of, in words."""
    if not out.exists():
        return ""
    try:
        record = json.loads(out.read_text())
        return f", in place of one of step {int(record['step'])}, {int(record['protocol']['episodes'])} episodes"
    except (OSError, ValueError, LookupError, TypeError):
        return ", in place of what was there"


def _show(clips: list[Clip], backend: str, stopped: Callable[[], bool]) -> None:
    there = {clip.path for clip in clips if clip.path.exists()}
    for path in draw(clips, backend):
        print(f"video       {path}{', in place of an earlier one' if path in there else ''}", flush=True)
        if stopped():
            raise Interrupted


def _clips(tape: Tape, spec: EnvSpec, record: dict[str, Any], folder: Path, options: dict[str, Any]) -> list[Clip]:
    """A clip per task, of the first seed."""
    seed, checkpoint = record["seeds"][0], record["checkpoint"]
    about = f"{method(record)}, seed {seed}, {checkpoint} checkpoint: step {record['step']}"
    goals, kind = options["video_goals"], options["video_format"]
    which = f"_goals_{'_'.join(map(str, goals))}" if goals != _DEFAULTS["video_goals"] else ""
    names = [task.replace("/", "_") for task in spec.tasks]
    paths = [folder / f"{task}_seed_{seed}_{checkpoint}{which}.{kind}" for task in names]
    repeat = record["protocol"].get("action_repeat", 1)
    return [Clip(spec, task, tape.episodes(task), about, path, repeat) for task, path in enumerate(paths)]


def _choose_device(config: TrainConfig, device: str | None) -> None:
    """The device asked for, or the run's own where this machine has it."""
    if device is not None:
        validate_device(device)
        config.device = device
        return
    try:
        validate_device(config.device)
    except ConfigError:
        config.device = "auto"


def _compute_as_in_training(config: TrainConfig, run: Path) -> None:
    """For the same bits."""
    torch.set_num_threads(threads_of(config, run))
    set_matmul_precision(config.matmul_precision, config.torch_device())


def _choose_workers(config: TrainConfig, envs: int, workers: int | None) -> int:
    if workers is None:
        return min(config.workers, envs)
    if workers > envs:
        raise ConfigError(f"workers={workers}: must be at most the number of environments, {envs}")
    return workers


def _check_video(options: dict[str, Any], environments: Environments, run: Path) -> tuple[str, Path]:
    """What draws, and the folder of the videos, which is made."""
    folder = Path(options.get("video_dir", run / "videos"))
    if not options["video"]:
        unused = [key for key in ("video_format", "video_goals", "video_dir") if options.get(key) != _DEFAULTS.get(key)]
        if unused:
            raise ConfigError(f"{unused[0]}=...: needs video=true")
        return "", folder
    last, played = max(options["video_goals"]), min(options["episodes"], environments.num_goals)
    if last >= played:
        raise ConfigError(f"video_goals: goal {last} is not among those played, 0 to {played - 1}")
    try:
        drawn_by_mujoco = environments.drawn_by_mujoco()
    except ValueError as error:
        raise ConfigError(f"video=true: {error}") from error
    backend = find_backend(options["video_format"], drawn_by_mujoco, options["backend"])
    check_folder("video_dir", folder)
    return backend, folder
