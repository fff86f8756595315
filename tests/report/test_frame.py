"""`load_runs`: evaluations as one table."""

from __future__ import annotations

import json

import pytest
from synthetic import TASKS, make_run

import mtrl_conic


def test_a_row_per_run_seed_step_and_task(tmp_path):
    first = make_run(tmp_path / "runs" / "one", "conicgrad", (4, 2), steps=300)
    make_run(tmp_path / "runs" / "two", "ls", (0,), steps=200)
    frame = mtrl_conic.load_runs(tmp_path / "runs")
    assert len(frame) == (2 * 3 + 2) * len(TASKS)
    assert not frame.duplicated(["run", "seed", "step", "task"]).any()
    lines = [json.loads(line) for line in (first / "evaluations.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    for line in lines:
        rows = frame[(frame.run == str(first)) & (frame.seed == line["seed"]) & (frame.step == line["step"])]
        assert dict(zip(rows.task, rows.success, strict=True)) == line["success"]
        assert dict(zip(rows.task, rows["return"], strict=True)) == line["return"]
        assert set(rows.episodes) == {line["episodes"]}
        assert rows.success.mean() == pytest.approx(line["success_rate"])
    assert list(frame[["combiner", "method"]].drop_duplicates().itertuples(index=False, name=None)) == [
        ("ConicGrad", "ConicGrad"),
        ("LS", "LS"),
    ]
    assert not frame.halted.any()


def test_a_list_of_folders_and_methods_that_differ(tmp_path):
    folders = [make_run(tmp_path / f"{c}", "conicgrad", (0,), steps=100, combiner__c=c) for c in (0.25, 0.5)]
    frame = mtrl_conic.load_runs([folders[0], str(folders[1]), folders[0]])
    assert len(frame) == 2 * len(TASKS)
    assert set(frame.method) == {"ConicGrad c=0.25", "ConicGrad c=0.5"}


def test_protocols_are_told_apart(tmp_path):
    """Also where all else is equal: the fixed goal of `experiment=mt10_fixed` is a setting of the environments."""
    fixed = {"reward_version": "v1", "num_goals": 1, "episode_length": 150}
    for name, env in (("usual", {}), ("fixed", fixed)):
        env = {
            "name": None,
            "task": None,
            "_target_": "mtrl_conic.envs.metaworld.MetaWorld",
            "benchmark": "mt10",
            **env,
        }
        make_run(tmp_path / name, "ls", (0,), steps=100, env={**env, "tasks": [*TASKS]}, choices={"env": "mt10"})
    frame = mtrl_conic.load_runs(tmp_path)
    assert len(frame["method"].unique()) == 1
    names = f"MT10, {', '.join(TASKS)}, Meta-World V3"
    assert set(frame.groupby("protocol").groups) == {
        f"{names}, reward v2, goal seed 0",
        f"{names}, reward v1, goal seed 0, 1 goal, 150 steps",
    }


def test_what_is_missing_is_said(tmp_path):
    run = make_run(tmp_path / "run", "ls", (0, 1), steps=300, recorded=(0,))
    (run / "halted.json").write_text(json.dumps([{"seed": 0, "step": 200, "network": "actor", "cause": "loss"}]))
    with pytest.warns(UserWarning, match="seed 1 has no usable evaluation"):
        frame = mtrl_conic.load_runs(run)
    assert frame.halted.all()
    with pytest.raises(ValueError, match="no such folder"):
        mtrl_conic.load_runs([run, tmp_path / "nowhere"])
    (run / "config.yaml").unlink()
    with pytest.raises(ValueError, match="nothing that can be used"):
        mtrl_conic.load_runs(run)
