"""The evaluation command: `python -m mtrl_conic.evaluate run=runs/x`."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
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
from mtrl_conic.policies.record import facts, heading, method, results, table
from mtrl_conic.runs.files import WriteError, check_disk, write_whole
from mtrl_conic.settings import arguments as read
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.schema import TrainConfig, validate_device
from mtrl_conic.settings.threads import threads_of
from mtrl_conic.system import console
from mtrl_conic.system.matmul import set_matmul_precision
from mtrl_conic.system.signals import Signals
from mtrl_conic.video.frames import Clip
from mtrl_conic.video.recording import FORMATS, Tape, VideoError, draw, drawing_elsewhere, find_backend

USAGE = """\
usage: python -m mtrl_conic.evaluate run=RUN_DIR [key=value ...]

Evaluates the policies of a run as Meta-World does: every task on each of its 50 goals once, deterministic actions,
success at any step of the episode. Prints a table and writes JSON. A training may be at work in the folder.

settings (default)
  run=RUN_DIR                    the run folder; the only one that must be given
  checkpoint=best|last (best)    the weights of the best evaluation, or the newest
  seeds=[0,1,...] (all)          of the run's
  episodes=N (50)                per task and seed, on goals 0, 1, ...
  device=auto|cpu|cuda (as the run, else auto)
  workers=N (as the run)         processes that step the environments; 0: in this process
  out=PATH (RUN_DIR/evaluation_<checkpoint>.json, with seeds and episodes in the name where they are not the default)

  video=true|false (false)       also a captioned video per task, of the first of the seeds
  video_format=mp4|gif (mp4)     mp4 needs the extra: pip install 'mtrl_conic[video]'
  video_goals=[0,1,...] ([0])    the episodes shown, one after the other
  video_dir=PATH (RUN_DIR/videos)
Videos need no display, but EGL (system packages libegl1 and libgl1) or OSMesa (libosmesa6); MUJOCO_GL=egl|osmesa
chooses, else what works is found.

exit status: 0 done, 2 bad input, 129, 130 or 143 interrupted, 1 other
"""


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
_LONGEST_NAME = 240  # bytes that file systems take for a name, less those of the file that becomes it
_DEFAULTS: dict[str, Any] = {
    "checkpoint": "best",
    "episodes": 50,
    "video": False,
    "video_format": "mp4",
    "video_goals": [0],
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if read.wants_help(arguments):
        print(USAGE, end="")
        return 0
    stopped = Signals(_interrupt)
    try:
        options = _DEFAULTS | read.parse(arguments, _READERS, required=["run"])
        with drawing_elsewhere() as options["backend"]:
            _run(options, stopped)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (WorkerError, VideoError, WriteError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Interrupted):
        print("interrupted", file=sys.stderr)
        return 128 + (stopped.received or signal.SIGINT)
    return 0


def _interrupt(_: int) -> NoReturn:
    """Some libraries swallow what is raised in them: whoever waits for long asks as well."""
    raise KeyboardInterrupt


def _run(options: dict[str, Any], stopped: Signals) -> None:
    run, checkpoint = options["run"], options["checkpoint"]
    config = stored_config(run)
    _choose_device(config, options.get("device"))
    weights = read_weights(run, checkpoint)
    for message in weights.messages:
        print(message, file=sys.stderr)
    actors, seeds = Actors(config, weights, config.seeds), options.get("seeds", config.seeds)
    act = actors.among(seeds)
    workers = _choose_workers(config, len(seeds) * len(actors.tasks), options.get("workers"))
    out = Path(options.get("out", run / _name(checkpoint, seeds, config.seeds, options["episodes"])))
    _check_output(out)
    environments, episodes = config.make_environments(), options["episodes"]
    backend, folder = _check_video(options, environments, run)
    spec = environments.setup()
    _compute_as_in_training(config, run)
    record = facts(run, checkpoint, config, weights, spec, seeds, episodes)
    print(heading(record), flush=True)
    tape = Tape(len(spec.tasks), options["video_goals"] if options["video"] else ())
    started = time.perf_counter()
    envs = VectorEnv(spec, seeds, workers=workers, goals="in_turn", timeout=config.vector.timeout)
    record |= results(record, _play(act, tape, envs, episodes, actors.device, stopped))
    record["wall_seconds"] = round(time.perf_counter() - started, 3)
    replaced = _replaced(out)
    write_whole(out, json.dumps(record, indent=2) + "\n")
    print(f"{table(record)}\nwritten     {out}{replaced}", flush=True)
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
    with envs, tqdm(total=episodes * envs.spec.horizon, unit="step", disable=None) as bar:

        def watch(action: NDArray[np.float32], step: VectorStep) -> None:
            bar.update()
            tape.watch(action, step)

        return evaluate(act, envs, episodes, device, stopped, watch)


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
    return [Clip(spec, task, tape.episodes(task), about, path) for task, path in enumerate(paths)]


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


def _check_output(path: Path) -> None:
    """Find out before the work whether the file can be written."""
    if os.path.isdir(path):
        raise ConfigError(f"out={path}: is a folder")
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise ConfigError(f"out={path.name[:30]}...: the name is too long, at most {_LONGEST_NAME} bytes")
    try:
        path.exists()  # raises where the name is too long
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        check_disk(path, error)
        raise ConfigError(f"out={path}: cannot be written ({error.strerror})") from error


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        check_disk(folder, error)
        raise ConfigError(f"video_dir={folder}: cannot be written ({error.strerror})") from error
    return backend, folder


if __name__ == "__main__":
    sys.exit(console.run(main))
