"""The whole command on made-up records: what it writes, says, refuses and survives."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import warm
from synthetic import TASKS, make_run
from written_reports import notes, report, table

from mtrl_conic.report import statistics
from mtrl_conic.report.__main__ import main

FILES = {
    *("table.csv", "tasks.csv", "improvement.csv", "curves.csv", "diagnostics.csv", "tables.md", "tables.tex"),
    *(
        f"{name}.{kind}"
        for name in ("curves", "wall_clock", "profile", "cosine", "conflict", "weights")
        for kind in ("png", "svg")
    ),
}


@pytest.fixture(scope="module")
def normal(tmp_path_factory):
    """Four methods; one of them spread over run folders with a seed each."""
    root = tmp_path_factory.mktemp("normal")
    for seed in range(3):
        make_run(root / "runs" / "conicgrad" / f"seed_{seed}", "conicgrad", [seed], level=0.8)
    make_run(root / "runs" / "cagrad", "cagrad", level=0.6)
    make_run(root / "runs" / "ls", "ls", level=0.4)
    make_run(root / "runs" / "ls_slow", "ls", level=0.3, agent__learning_rate=1e-4)
    page = report(root / "runs", root / "out")
    return root, page


def evaluations(folder: Path, step: int) -> np.ndarray:
    lines = [json.loads(text) for path in folder.rglob("evaluations.jsonl") for text in path.read_text().splitlines()]
    lines = sorted((line for line in lines if line["step"] == step), key=lambda line: line["seed"])
    return np.array([[line["success"][task] for task in TASKS] for line in lines])


@pytest.mark.xdist_group("normal_report")  # one worker: the report is written once
class TestNormal:
    def test_files(self, normal):
        root, page = normal
        assert {path.name for path in root.joinpath("out").iterdir()} == {"index.html", "mt10_v2_goals0"}
        written = {path.name for path in root.joinpath("out", "mt10_v2_goals0").iterdir()}
        assert written == FILES | {"improvement.png", "improvement.svg"}
        assert notes(page) == []

    def test_main_table(self, normal):
        root, _ = normal
        rows = {row["method"]: row for row in table(root / "out" / "mt10_v2_goals0")}
        slow, usual = "LS learning_rate=0.0001", "LS"
        assert set(rows) == {"ConicGrad", "CAGrad", usual, slow}
        row = rows["ConicGrad"]
        final = evaluations(root / "runs" / "conicgrad", 1000)
        assert final.shape == (3, 3)
        assert float(row["final_success"]) == pytest.approx(final.mean())
        error = final.mean(1).std(ddof=1) / np.sqrt(3)
        assert float(row["final_standard_error"]) == pytest.approx(error)
        means = {step: evaluations(root / "runs" / "conicgrad", step).mean() for step in range(100, 1001, 100)}
        assert float(row["best_success"]) == pytest.approx(max(means.values()))
        assert int(row["best_step"]) == max(means, key=means.get)
        assert float(row["iqm"]) == pytest.approx(statistics.interquartile_mean(final))
        assert float(row["iqm_low"]) <= float(row["iqm"]) <= float(row["iqm_high"])
        assert float(row["iqm_low"]) < float(row["iqm_high"])

    def test_each_row_says_where_it_comes_from(self, normal):
        root, page = normal
        row = next(row for row in table(root / "out" / "mt10_v2_goals0") if row["method"].startswith("ConicGrad"))
        assert row["steps_per_task"] == "1,000 of 1,000"
        assert row["transitions"] == "3,000"
        assert row["evaluation_episodes_(during_/_final)"] == "5 / 50"
        assert (row["seeds"], row["seeds_per_run"], row["gradient_scope"]) == ("0-2", "1", "shared")
        assert (row["torch"], row["metaworld"], row["mujoco"]) == ("2.13.0", "3.1.1", "3.3.0")
        assert row["mtrl_conic"] == "0123456789"
        assert "reward v2" in row["protocol"]
        assert "goal seed 0" in row["protocol"]
        assert "500 steps" in row["protocol"]
        assert row["run_folders"].count("seed_") == 3
        for text in ("0123456789", "3.1.1", "5 / 50", "optimistic"):
            assert text in page

    def test_tasks_and_improvement(self, normal):
        root, _ = normal
        rows = [row for row in table(root / "out" / "mt10_v2_goals0", "tasks") if row["method"].startswith("CAGrad")]
        final = evaluations(root / "runs" / "cagrad", 1000)
        assert [row["task"] for row in rows] == list(TASKS)
        assert [float(row["final_success"]) for row in rows] == pytest.approx(final.mean(0).tolist())
        pairs = table(root / "out" / "mt10_v2_goals0", "improvement")
        assert len(pairs) == 6
        pair = next(pair for pair in pairs if (pair["x"] + pair["y"]).startswith("ConicGrad") and "CAGrad" in pair["y"])
        expected = statistics.probability_of_improvement(evaluations(root / "runs" / "conicgrad", 1000), final)
        assert float(pair["probability_x_above_y"]) == pytest.approx(expected)

    def test_curves_and_diagnostics_hold_every_record(self, normal):
        root, _ = normal
        folder = root / "out" / "mt10_v2_goals0"
        assert len(table(folder, "curves")) == 4 * 3 * 10
        lines = table(folder, "diagnostics")
        assert len(lines) == 4 * 3 * 2 * 40
        assert {line["method"].split()[0] for line in lines if line["cosine"]} == {"ConicGrad", "CAGrad"}

    def test_methods_without_a_jacobian_have_no_cosine(self, normal):
        root, page = normal
        captions = re.findall(r"No such record: ([^(]*)\(", page)
        assert len(captions) == 2  # cosine and conflict
        for name in ("cosine", "conflict"):
            text = (root / "out" / "mt10_v2_goals0" / f"{name}.svg").read_text()
            assert "CAGrad" in text
            assert ">LS" not in text
        assert all("LS" in text and "CAGrad" not in text for text in captions)

    def test_it_is_the_same_again(self, normal, tmp_path):
        root, _ = normal
        report(root / "runs", tmp_path / "again")
        first, again = root / "out" / "mt10_v2_goals0", tmp_path / "again" / "mt10_v2_goals0"
        for path in first.glob("*.csv"):
            assert (again / path.name).read_text() == path.read_text()
        assert (again / "curves.svg").read_text() == (first / "curves.svg").read_text()

    def test_pictures_have_words(self, normal):
        _, page = normal
        pictures = re.findall(r"<svg role=[^>]*>", page)
        assert len(pictures) == 1 + 3 + 1 + 1 + 1 + 2 + 2 + 8
        assert all(re.search(r'aria-label="[^"]{30,}"', picture) for picture in pictures)

    def test_nothing_is_fetched(self, normal):
        _, page = normal
        without_data = re.sub(r"data:image/png;base64,[\w+/=\s]*", "data:", page)
        without_text = re.sub(r"<(p|dd|code|td)\b[^>]*>.*?</\1>", "", without_data, flags=re.DOTALL)
        assert not re.search(r"https?:|//[a-z]|@import|<script|<iframe|<object|<embed", without_text)
        for kind, value in re.findall(r'\b(src|href|data|srcset)="([^"]*)"', page):
            assert value.startswith(("data:", "#")), (kind, value)
        assert all(name.startswith("#") for name in re.findall(r"url\(([^)]*)\)", page))
        identifiers = re.findall(r'\bid="([^"]*)"', page)
        assert len(identifiers) == len(set(identifiers))
        assert {name[1:] for name in re.findall(r"url\((#[^)]*)\)", page)} <= set(identifiers)


def test_protocols_never_share_a_table(tmp_path):
    make_run(tmp_path / "runs" / "a", "conicgrad")
    make_run(tmp_path / "runs" / "b", "ls")
    make_run(tmp_path / "runs" / "v1", "ls", env={"reward_version": "v1"})
    page = report(tmp_path / "runs", tmp_path / "out")
    tables = {
        path.name: [row["method"] for row in table(path)] for path in (tmp_path / "out").iterdir() if path.is_dir()
    }
    assert tables == {"mt10_v2_goals0": ["ConicGrad", "LS"], "mt10_v1_goals0": ["LS"]}
    for body in re.findall("<tbody>.*?</tbody>", page, re.DOTALL):
        assert not ("reward v1" in body and "reward v2" in body)
    assert len(re.findall("<h3>Results</h3>", page)) == 2
    assert any(note.startswith("2 protocols, whose numbers must not be compared") for note in notes(page))


def test_one_seed_has_no_interval(tmp_path):
    make_run(tmp_path / "runs" / "a", "conicgrad", [3])
    make_run(tmp_path / "runs" / "b", "ls", [3])
    page = report(tmp_path / "runs", tmp_path / "out")
    rows = table(tmp_path / "out" / "mt10_v2_goals0")
    assert [row["final_standard_error"] for row in rows] == ["", ""]
    assert [row["iqm_low"] for row in rows] == ["", ""]
    assert all("one seed: no standard error, no interval" in row["remarks"] for row in rows)
    assert "±" not in re.search(r"<tbody>.*?</tbody>", page, re.DOTALL)[0]
    assert not re.search(r"\bnan\b", page)


def test_names_from_records_are_text(tmp_path):
    make_run(tmp_path / "runs" / "<b>&a", "ls", tasks=["<script>x", 'push"', "$x^"])
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "<script" not in page
    assert "<b>" not in page


def test_a_real_run(tmp_path):
    page = report(Path(__file__).parents[2] / "docs" / "results" / "mt10_cpu", tmp_path / "out")
    (row,) = table(tmp_path / "out" / "mt10_v2_goals0")
    assert float(row["final_success"]) == pytest.approx(0.676)
    assert (float(row["best_success"]), row["best_step"]) == (pytest.approx(0.7), "50000")
    assert row["mtrl_conic"] == "f6aa97329e, f6aa97329e + uncommitted changes"
    assert notes(page) == []


BAD = {
    "unknown key": (["runs=RUNS", "out=OUT", "step=3"], "step: no such setting (did you mean steps?)"),
    "old use": (["run=RUNS", "out=OUT"], "run: no such setting (did you mean runs?)"),
    "no key": (["RUNS", "out=OUT"], "not of the form key=value"),
    "no out": (["runs=RUNS"], "out=... is missing"),
    "twice": (["runs=RUNS", "runs=RUNS", "out=OUT"], "runs is given twice"),
    "empty": (["runs=", "out=OUT"], "runs=: must not be empty"),
    "steps": (["runs=RUNS", "out=OUT", "steps=1.5"], "steps=1.5: must be a whole number of at least 1"),
    "no folder": (["runs=RUNS,nowhere", "out=OUT"], "runs=nowhere: no such folder"),
    "no glob": (["runs=nowhere*", "out=OUT"], "runs=nowhere*: no such folder"),
    "no run": (["runs=EMPTY", "out=OUT"], "no run folder there"),
    "nothing usable": (["runs=BROKEN", "out=OUT"], "nothing that can be used"),
    "steps too early": (["runs=RUNS", "out=OUT", "steps=50"], "no evaluation in common up to step 50"),
    "out is a file": (["runs=RUNS", "out=FILE"], "cannot be written"),
    "out below a file": (["runs=RUNS", "out=FILE/x"], "cannot be written"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    make_run(tmp_path / "runs" / "a", "ls")
    broken = make_run(tmp_path / "broken", "ls")
    (broken / "evaluations.jsonl").write_text("{}\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    places = {"RUNS": "runs", "OUT": "out", "EMPTY": "empty", "BROKEN": "broken", "FILE": "file"}
    for word, name in places.items():
        arguments = [argument.replace(word, str(tmp_path / name)) for argument in arguments]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_as_a_command(tmp_path):
    make_run(tmp_path / "runs" / "a", "ls", reached=500)
    words = [sys.executable, "-m", "mtrl_conic.report"]
    done = subprocess.run([*words, "runs=runs/*", "out=out"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == "report of 1 run folder: out/index.html\n"
    assert done.stderr == "note: runs/a: unfinished: the last evaluation of seeds 0, 1, 2 is at step 500 of 1,000\n"
    again = warm.run([*words, "runs=runs/*", "out=out"], cwd=tmp_path)
    assert again.stdout == "report of 1 run folder: out/index.html, in place of an earlier one\n"
    shown = warm.run([*words, "--help"], cwd=tmp_path)
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: python -m mtrl_conic.report runs=")
