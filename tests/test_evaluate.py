"""The evaluation command on toy runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import warm
from conftest import TOY, command, environment, records, train_here, wait_for
from omegaconf import OmegaConf

from mtrl_conic.envs.vector import VectorEnv
from mtrl_conic.evaluate import main
from mtrl_conic.runs.checkpoint import Checkpoints
from mtrl_conic.runs.lock import lock
from mtrl_conic.system.signals import STOPPING

TASKS = {"direct", "mirrored", "damped"}


@pytest.fixture(autouse=True)
def _signals_as_before():
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A toy run whose evaluations are not all 0 or equal: it learns a little."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    learning = ["agent.learning_rate=1e-3", "agent.hidden_sizes=[32]", "batch_size_per_task=32", "eval.episodes=5"]
    learning += ["eval.every=200", "eval.final_episodes=7", "capacity_per_task=600", "metrics_every=600"]
    return train_here(*TOY, *learning, "combiner=ls", "seeds=[4,2]", "steps_per_task=600", f"run_dir={folder}")


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "moved"))


def evaluation(run, *arguments):
    """The JSON of an evaluation that must succeed."""
    out = run / "evaluation.json"
    assert main([f"run={run}", f"out={out}", *arguments]) == 0
    return json.loads(out.read_text())


def test_last_is_the_last_line_of_the_records(run, capsys):
    wanted = [line for line in records(run) if line["step"] == 600]
    result = evaluation(run, "checkpoint=last", "episodes=7")
    assert result["evaluations"] == wanted
    assert 0 < result["success_rate"] < 1  # else equality would say little
    assert result["success_rate"] == pytest.approx(sum(line["success_rate"] for line in wanted) / 2)
    for task in TASKS:
        for key in ("success", "return"):
            assert result[key][task] == pytest.approx(sum(line[key][task] for line in wanted) / 2)
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    for task in TASKS:
        numbers = [*(line["success"][task] for line in wanted), result["success"][task]]
        assert rows[task] == [*(f"{number:.2f}" for number in numbers), f"{result['return'][task]:.1f}"]
    assert rows["mean"] == [
        f"{number:.3f}" for number in (*(w["success_rate"] for w in wanted), result["success_rate"])
    ]


def test_each_seed_alone_gives_the_same_numbers(run):
    wanted = [line for line in records(run) if line["step"] == 600]
    for line in wanted:
        alone = evaluation(run, "checkpoint=last", "episodes=7", f"seeds=[{line['seed']}]", "workers=1")
        assert alone["evaluations"] == [line]
    swapped = evaluation(run, "checkpoint=last", "episodes=7", "seeds=[2,4]")
    assert swapped["evaluations"] == wanted[::-1]


def test_best_is_the_best_evaluation(run):
    by_step = {}
    for line in records(run):
        by_step.setdefault(line["step"], []).append(line)
    means = {step: sum(line["success_rate"] for line in lines) for step, lines in by_step.items()}
    result = evaluation(run, f"episodes={by_step[max(means, key=means.get)][0]['episodes']}")
    assert result["evaluations"] == by_step[max(means, key=means.get)]
    assert result["checkpoint"] == "best"


def test_what_the_json_says(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    name = "evaluation_best_episodes_3.json"
    assert main([f"run={run}", "episodes=3"]) == 0
    result = json.loads((run / name).read_text())
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {run / name}
    assert all(after[path] == content for path, content in before.items())
    assert result["run"] == str(run)
    assert result["file"] == "best.pt"
    assert result["seeds"] == [4, 2]
    assert set(result["tasks"]) == TASKS
    assert result["combiner"] == {"_target_": "mtrl_conic.combiners.ls.LS"}
    shared = {"env": "toy", "horizon": 50, "goals": 10, "episodes": 3}
    assert result["protocol"] == shared | {"policy": "deterministic", "success": "any step"}
    assert result["provenance"]["versions"] == result["trained_with"]
    assert result["provenance"]["command"]
    assert result["wall_seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["episodes=1"], "evaluation_best_episodes_1.json"),
        (["seeds=[2]"], "evaluation_best_seeds_2.json"),
        (["seeds=[2,4]", "episodes=2"], "evaluation_best_seeds_2_4_episodes_2.json"),
        (["episodes=1", "checkpoint=last"], "evaluation_last_episodes_1.json"),
    ],
)
def test_a_quick_look_does_not_take_the_place_of_the_whole_evaluation(run, arguments, name):
    assert main([f"run={run}"]) == 0
    before = (run / "evaluation_best.json").read_bytes()
    assert main([f"run={run}", *arguments]) == 0
    assert (run / "evaluation_best.json").read_bytes() == before
    assert {path.name for path in run.glob("evaluation_*.json")} == {"evaluation_best.json", name}


def test_what_is_replaced_is_said(run, capsys):
    for arguments in (["episodes=1"], ["seeds=[4,2]"]):
        out = f"out={run / 'x.json'}"
        assert main([f"run={run}", out, *arguments]) == 0
        assert "in place" not in capsys.readouterr().out
        assert main([f"run={run}", out, "episodes=2"]) == 0
        episodes = 50 if arguments[0].startswith("seeds") else 1
        assert re.search(
            rf"written +{run}/x.json, in place of one of step \d+, {episodes} episodes\n", capsys.readouterr().out
        )
        (run / "x.json").unlink()
    (run / "x.json").write_text("mine")
    assert main([f"run={run}", out, "episodes=1"]) == 0
    assert "x.json, in place of what was there\n" in capsys.readouterr().out


def test_fifty_episodes_are_the_default(run):
    assert {line["episodes"] for line in evaluation(run)["evaluations"]} == {50}


def test_other_versions_are_named(run, capsys):
    path = run / "provenance.json"
    pieces = json.loads(path.read_text())
    pieces["pieces"][-1]["versions"]["mujoco"] = "2.0.0"
    path.write_text(json.dumps(pieces))
    evaluation(run, "episodes=1")
    assert "trained with mujoco 2.0.0" in capsys.readouterr().out
    path.write_text("damaged")
    assert evaluation(run, "episodes=1")["trained_with"] is None


def test_a_run_with_a_combiner_and_a_device_from_elsewhere(run, capsys):
    config = OmegaConf.load(run / "config.yaml")
    config.combiner = {"_target_": "gone.Mine", "power": 2.0}
    config.choices.combiner = "mine"
    config.device = "cuda:7"
    OmegaConf.save(config, run / "config.yaml")
    assert evaluation(run, "episodes=1")["combiner"]["_target_"] == "gone.Mine"
    assert "(mine)" in capsys.readouterr().out
    del config["choices"]  # as versions before had it: the class is all that is known
    OmegaConf.save(config, run / "config.yaml")
    evaluation(run, "episodes=1")
    assert "(Mine)" in capsys.readouterr().out


def test_products_are_rounded_as_in_training(run, monkeypatch):
    text = (run / "config.yaml").read_text()
    assert "matmul_precision: highest" in text
    (run / "config.yaml").write_text(text.replace("matmul_precision: highest", "matmul_precision: medium"))
    asked = []
    monkeypatch.setattr(
        "mtrl_conic.policies.evaluate_run.set_matmul_precision", lambda *arguments: asked.append(arguments)
    )
    result = evaluation(run, "episodes=1")
    assert asked == [("medium", torch.device("cpu"))]
    assert result["provenance"]["torch_threads"] == 1


def test_a_damaged_newest_checkpoint_is_named(run, capsys):
    (run / "checkpoints" / "step_600.pt").write_bytes(b"no")
    result = evaluation(run, "checkpoint=last", "episodes=5")
    assert "step_600.pt is damaged" in capsys.readouterr().err
    assert result["file"] == "step_400.pt"
    assert result["evaluations"] == [line for line in records(run) if line["step"] == 400]


BAD = {
    "no run": ([], ["run=", "missing"]),
    "no folder": (["run=nowhere"], ["run=nowhere", "config.yaml"]),
    "misspelt key": (["run={run}", "episode=3"], ["episode", "did you mean episodes?"]),
    "no key": (["{run}"], ["key=value"]),
    "unknown checkpoint": (["run={run}", "checkpoint=first"], ["checkpoint=first", "best, last"]),
    "no episodes": (["run={run}", "episodes=0"], ["episodes=0", "at least 1"]),
    "unknown seed": (["run={run}", "seeds=[4,7]"], ["seed 7", "4, 2"]),
    "unknown device": (["run={run}", "device=tpu"], ["device=tpu"]),
    "no such device": (["run={run}", "device=cuda:77"], ["device=cuda:77"]),
    "too many workers": (["run={run}", "workers=31"], ["workers=31", "30"]),  # 2 seeds, 3 tasks, 5 at a time
    "out with a long name": (["run={run}", "out=" + 250 * "x"], ["out=xxx", "240 bytes"]),
    "out is a folder": (["run={run}", "out={run}"], ["out=", "folder"]),
    "out cannot be written": (["run={run}", "out=/proc/x.json"], ["/proc/x.json"]),
    "out without a folder": (["run={run}", "out={run}/none/x.json"], ["none/x.json", "cannot be written"]),
    "video setting alone": (["run={run}", "video_format=gif"], ["video_format", "video=true"]),
    "no such format": (["run={run}", "video=true", "video_format=avi"], ["video_format=avi", "mp4, gif"]),
    "goal not played": (["run={run}", "video=true", "episodes=2", "video_goals=2"], ["goal 2", "0 to 1"]),
    "goal that is none": (["run={run}", "video=true", "video_goals=[0,12]"], ["goal 12", "0 to 9"]),
    "video_dir": (["run={run}", "video=true", "video_format=gif", "video_dir=/proc/x"], ["video_dir=/proc/x"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, trained, capsys):
    arguments, words = BAD[name]
    before = sorted(trained.rglob("*"))
    assert main([argument.format(run=trained) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err
    assert sorted(trained.rglob("*")) == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "config.yaml").write_text("env: [unclosed"), ["config.yaml"]),
        (lambda run: (run / "config.yaml").write_text("colour: red"), ["config.yaml", "colour"]),
        (lambda run: (run / "checkpoints" / "best.pt").unlink(), ["best.pt", "checkpoint=last"]),
        (lambda run: (run / "checkpoints" / "best.pt").write_bytes(b"no"), ["best.pt is damaged"]),
    ],
)
def test_damaged_runs_are_one_line(run, damage, words, capsys):
    damage(run)
    assert main([f"run={run}"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err


def test_help(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in ("checkpoint=best|last", "video=true|false", "libegl1", "exit status"):
        assert word in out


def test_the_command_itself_in_a_run_at_work(run):
    descriptor = lock(run)  # as a training at work would have it
    try:
        command = [sys.executable, "-m", "mtrl_conic.evaluate", f"run={run}", "episodes=1"]
        process = warm.run(command)
    finally:
        os.close(descriptor)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "evaluation_best_episodes_1.json" in process.stdout


@pytest.mark.parametrize("number", STOPPING)
def test_an_interrupted_evaluation_writes_nothing(run, number):
    arguments = [sys.executable, "-m", "mtrl_conic.evaluate", f"run={run}", "episodes=1000000", "workers=2"]
    process = warm.Popen(
        arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("run ")  # it has begun
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    assert not list(run.glob("*evaluation_*"))


@pytest.mark.parametrize("number", STOPPING)
def test_an_interrupt_that_a_library_swallows_ends_it_all_the_same(run, number, monkeypatch, capsys):
    """As `pickle` does, within the start of the workers: `copyreg` has a bare except."""

    def swallow(*arguments, **options):
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            swallowed.append(number)
        return VectorEnv(*arguments, **options)

    swallowed: list[int] = []
    monkeypatch.setattr("mtrl_conic.policies.evaluate_run.VectorEnv", swallow)
    assert main([f"run={run}", "episodes=1000000", "workers=0"]) == 128 + number
    assert swallowed
    assert capsys.readouterr().err == "interrupted\n"
    assert not list(run.glob("*evaluation_*"))


def test_while_the_run_is_trained(tmp_path):
    run = tmp_path / "run"
    arguments = command(*TOY, "eval.every=50", "combiner=ls", "steps_per_task=10000000", f"run_dir={run}")
    process = warm.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # The best of the evaluation at step 50 is written before the whole checkpoint of that step.
        wait_for(lambda: max(Checkpoints(run / "checkpoints").steps(), default=0) > 0, process)
        steps = [evaluation(run, f"checkpoint={kind}", "episodes=1")["step"] for kind in ("last", "best")]
        assert process.poll() is None  # it has not been disturbed
    finally:
        process.kill()
        process.wait()
    assert min(steps) > 0


def test_with_the_threads_that_the_training_had(run, monkeypatch):
    """A run that was given no number has the one that its provenance names."""
    monkeypatch.setattr("mtrl_conic.settings.threads.available_cores", lambda: 4)
    config, provenance = run / "config.yaml", run / "provenance.json"
    config.write_text(config.read_text().replace("threads: 1", "threads: null"))
    provenance.write_text(provenance.read_text().replace('"torch_threads": 1', '"torch_threads": 2'))
    assert evaluation(run, "episodes=1")["provenance"]["torch_threads"] == 2
