"""The examples on the page about environments, run as they stand with less work to do."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from conftest import records

from mtrl_conic.evaluate import main as evaluate
from mtrl_conic.policies.policy import load_policy
from mtrl_conic.train import main as train

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "environments.md").read_text()
COMMANDS = {
    Path(command.partition("run_dir=")[2] or "x").name: block
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
    if "run_dir=" in command
}
(MODULE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(YAML,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
LESS = {
    "agent.hidden_sizes=[8]",
    "warmup_steps=20",
    "batch_size_per_task=4",
    "capacity_per_task=100",
    "eval.every=1000",
    "eval.episodes=1",
    "eval.final_episodes=1",
    "device=cpu",
    "threads=1",
    "combiner=ls",
}


@pytest.fixture(autouse=True)
def _handlers():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder that the commands are started from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lights.py").write_text(MODULE)
    (tmp_path / "my_configs" / "env").mkdir(parents=True)
    (tmp_path / "my_configs" / "env" / "lights.yaml").write_text(YAML)
    return tmp_path


def run(name, *more, steps=40):
    """The commands of a block, up to `steps` steps and 20 more where one resumes."""
    for line in COMMANDS[name].replace("\\\n", " ").splitlines():
        _, _, module, *arguments = shlex.split(line)
        if module == "mtrl_conic.evaluate":
            assert evaluate([*(a for a in arguments if not a.startswith("episodes=")), "episodes=1", *more]) == 0
        elif arguments[0].startswith("resume="):
            assert train([arguments[0], f"steps_per_task={steps + 20}"]) == 0
        else:
            assert train([*arguments, *LESS, f"steps_per_task={steps}", *_workers(more)]) == 0
    return Path("runs", name)


def _workers(more):
    return [f"env.{argument}" for argument in more if argument.startswith("workers=")]


def test_some_tasks_of_a_benchmark(capsys):
    folder = run("two", "workers=0")
    (line,) = records(folder)
    assert list(line["success"]) == ["push-v3", "reach-v3"]
    assert load_policy(folder).tasks == ("push-v3", "reach-v3")


def test_gymnasium(capsys):
    folder = run("pendulums", "workers=0")
    lines = records(folder)
    assert [line["step"] for line in lines] == [40, 60]
    assert set(lines[0]["return"]) == {"light", "heavy"}
    record = json.loads((folder / "evaluation_best_episodes_1.json").read_text())
    assert record["protocol"]["success_return"] == -400
    assert "gym, light, heavy" in capsys.readouterr().out


def test_a_class_of_ones_own_in_workers(folder, capsys):
    named = run("named", "workers=1")
    lines = records(named)
    assert set(lines[-1]["success"]) == {"lamp", "candle"}
    assert load_policy(named)([0.0, 0.5], "candle").shape == (1,)
    assert "lights" in capsys.readouterr().out
    shutil.rmtree(folder / "runs")
    assert train(["--config-dir", "my_configs", "env=lights", "env.speed=2", *LESS]) == 2
    assert "error: env.speed must be a number in (0, 1], not 2" in capsys.readouterr().err
    run("lights", "workers=0")
    assert records(Path("runs", "lights"))[-1]["success"] == lines[-1]["success"]


def test_a_run_goes_on_as_if_it_had_not_been_interrupted(folder):
    whole = run("pendulums", "workers=0", steps=40)
    shutil.move(whole, folder / "resumed")
    shutil.rmtree(folder / "runs", ignore_errors=True)
    tasks = ["env.tasks={light: Pendulum-v1, heavy: Pendulum-v1}", "env.task_kwargs={light: {g: 5}, heavy: {g: 15}}"]
    settings = [*LESS, *tasks, "env=gym", "env.success_return=-400", "env.workers=0", "metrics_every=10"]
    assert train([*settings, "steps_per_task=60", "run_dir=whole"]) == 0
    at_60 = [[line for line in records(path) if line["step"] == 60] for path in (folder / "resumed", folder / "whole")]
    assert at_60[0] == at_60[1]


def test_videos_of_what_cannot_be_drawn_are_refused_before_the_work(capsys):
    run("named", "workers=0")
    before = set(Path("runs/named").iterdir())
    assert evaluate(["run=runs/named", "episodes=1", "video=true", "video_format=gif"]) == 2
    assert capsys.readouterr().err == "error: video=true: Lights cannot be drawn\n"
    assert set(Path("runs/named").iterdir()) == before
