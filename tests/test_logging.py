"""What TensorBoard and W&B are given, read back from their files."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm
from conftest import TOY, command, environment, records, run_command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from mtrl_conic.runs.folder import open_run
from mtrl_conic.settings.compose import compose_config
from mtrl_conic.training.trainer import Trainer

SEEDS, TASKS = (0, 3), ("direct", "mirrored", "damped")
ARGUMENTS = [*TOY, "combiner=conicgrad", "seeds=[0,3]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("logging") / "run"
    config = compose_config([*ARGUMENTS, "steps_per_task=200", f"run_dir={run}"])
    with open_run(config, resume=False) as folder:
        trainer = Trainer(config, folder)
        assert trainer.run()
        trainer.close()
    return run


def board(run: Path, name: str) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard" / name), size_guidance={"scalars": 0, "tensors": 0})
    return events.Reload()


def test_tensorboard_has_every_key_of_the_records(run):
    keys = {key for line in records(run, "metrics") for key in line} - {"step", "seed"}
    keys |= {"eval/success_rate", *(f"eval/{kind}/{task}" for kind in ("success_rate", "return") for task in TASKS)}
    for network in ("critic", "actor"):
        assert {f"combiner/{network}/{key}" for key in ("cosine", "conflict")} < keys
        assert {f"combiner/{network}/weight/{task}" for task in TASKS} < keys
    for name in ("seed_0", "seed_3", "mean"):
        tags = set(board(run, name).Tags()["scalars"])
        assert {tag for tag in tags if not tag.startswith(("time/", "throughput/"))} == keys


def test_tensorboard_shows_each_seed_and_their_mean(run):
    for task in TASKS:
        tag, lines = f"eval/success_rate/{task}", records(run)
        curves = {}
        for seed in SEEDS:
            curves[seed] = [(event.step, event.value) for event in board(run, f"seed_{seed}").Scalars(tag)]
            assert curves[seed] == [(line["step"], line["success"][task]) for line in lines if line["seed"] == seed]
        mean = [(event.step, event.value) for event in board(run, "mean").Scalars(tag)]
        assert mean == [
            (step, pytest.approx((one + other) / 2)) for (step, one), (_, other) in zip(*curves.values(), strict=True)
        ]


def test_the_overview_has_a_chart_a_task_and_names_real_tags(run):
    import re

    events = board(run, "mean")
    content = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(content)
    charts = {
        category.title: {chart.title: chart.multiline.tag for chart in category.chart} for category in layout.category
    }
    assert set(charts["success rate"]) == {"mean over tasks", *TASKS}
    tags = events.Tags()["scalars"]
    for category in charts.values():
        for patterns in category.values():
            assert [sum(bool(re.match(pattern, tag)) for tag in tags) for pattern in patterns] == [1]


def wandb_records(path: Path) -> Iterator:
    """The records of an offline run: LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, position, part = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        part += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def history(run: Path, seed: int) -> tuple[set, dict[str, list[tuple[int, float]]]]:
    """The (id, group) of a seed's W&B runs and the curves they hold."""
    import json

    identities, curves = set(), {}
    for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime):
        if not path.stem.endswith(f"_{seed}"):
            continue
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "run":
                identities.add((record.run.run_id, record.run.run_group))
                config = {update.key: json.loads(update.value_json) for update in record.run.config.update}
                assert config["seed"] == seed
                assert config["steps_per_task"] in (100, 200)
                assert config["provenance"]["versions"]["torch"]
            elif record.WhichOneof("record_type") == "history":
                values = {(item.key or "/".join(item.nested_key)): item.value_json for item in record.history.item}
                step = int(values.pop("step"))
                for key, value in values.items():
                    curves.setdefault(key, []).append((step, float(value)))
    return identities, curves


def test_wandb_offline_with_a_resume(run, tmp_path):
    """A run per seed with the same id before and after, every value of the records, nothing outside the run folder."""
    pytest.importorskip("wandb")
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    settings = {"WANDB_MODE": "offline", "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    # Inherited settings of the user's own would change what is tested.
    clean = {key: value for key, value in environment().items() if not key.startswith("WANDB_")}
    for arguments in (
        [*ARGUMENTS, "logger=wandb", "steps_per_task=100", "run_dir=mine"],
        ["resume=mine", "steps_per_task=200"],
    ):
        process = warm.run(command(*arguments), cwd=tmp_path, env={**clean, **settings}, timeout=200)
        assert process.returncode == 0, process.stderr
    mine = tmp_path / "mine"
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(mine)]
    assert [path for path in files if "wandb" in str(path)] == []
    groups = set()
    for seed in SEEDS:
        identities, curves = history(mine, seed)
        assert len(identities) == 1
        groups |= {group for _, group in identities}
        evaluations = [line for line in records(mine) if line["seed"] == seed]
        assert curves["eval/success_rate"] == [
            (line["step"], pytest.approx(line["success_rate"])) for line in evaluations
        ]
        for key in ("loss/critic/direct", "combiner/actor/cosine"):
            expected = [
                (line["step"], pytest.approx(line[key]))
                for line in records(mine, "metrics")
                if line["seed"] == seed and key in line
            ]
            assert curves[key] == expected
    assert len(groups) == 1


def refused(tmp_path: Path, *arguments: str, code: str = "", **settings: str) -> str:
    script = f"import sys\n{code}\nfrom mtrl_conic.train import main\nsys.exit(main(sys.argv[1:]))"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    process = subprocess.run(
        [sys.executable, "-c", script, "env=toy", *arguments],
        cwd=tmp_path,
        env={**clean, **settings},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert list(tmp_path.iterdir()) == []
    return process.stderr


def test_unknown_logger(tmp_path):
    process = run_command("env=toy", "logger=mlflow", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr == "error: logger=mlflow: must be null or wandb\n"


def test_wandb_that_is_not_installed(tmp_path):
    error = refused(tmp_path, "logger=wandb", code="sys.modules['wandb'] = None")
    assert 'pip install "mtrl_conic[wandb]"' in error


@pytest.mark.slow
def test_wandb_without_a_login(tmp_path_factory, tmp_path):
    pytest.importorskip("wandb")
    error = refused(tmp_path, "logger=wandb", HOME=str(tmp_path_factory.mktemp("home")))
    assert "wandb login" in error
    assert "WANDB_MODE=offline" in error
