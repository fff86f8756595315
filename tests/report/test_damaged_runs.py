"""What a report says of runs that are damaged, unfinished or halted, and that it says it."""

from __future__ import annotations

import json
import re

import pytest
from synthetic import make_run
from written_reports import notes, report, table


@pytest.mark.xdist_group("damaged_runs")  # one worker: the report is written once
class TestDamage:
    @pytest.fixture(scope="class")
    @staticmethod
    def damaged(tmp_path_factory):
        root = tmp_path_factory.mktemp("damaged")
        runs = root / "runs"
        make_run(runs / "good", "conicgrad")
        broken = make_run(runs / "broken", "cagrad")
        lines = (broken / "evaluations.jsonl").read_text().splitlines()
        lines[3] = lines[3][:40]
        lines[7] = lines[7].replace('"episodes": 5', '"episodes": "five"')
        lines[8] = re.sub(r'("reach-v3": )[\d.]+', r"\g<1>NaN", lines[8], count=1)
        (broken / "evaluations.jsonl").write_text("\n".join(lines) + "\n\x00\xff")
        with (broken / "evaluations.jsonl").open("a") as file:
            file.write(f'\n{{"step": {10**400}, "seed": 0, "success": {{"reach-v3": {10**400}}}, "episodes": 1}}\n')
            file.write('{"step": 5, "seed": 0, "success": {"\\ud800": 1}, "episodes": 1}\n' + "[" * 100_000)
        (broken / "provenance.json").write_text('{"pieces": [')
        with (broken / "metrics.jsonl").open("a") as file:
            file.write("[1, 2]\nnull\n")
        make_run(runs / "unreadable", "ls").joinpath("config.yaml").write_text("env: [\n")
        make_run(runs / "no_config", "ls").joinpath("config.yaml").unlink()
        make_run(runs / "no_metrics", "pcgrad").joinpath("metrics.jsonl").unlink()
        make_run(runs / "no_evaluations", "ls").joinpath("evaluations.jsonl").unlink()
        make_run(runs / "missing", "famo", recorded=[0, 2])
        make_run(runs / "stopped", "ls", [0, 1])
        make_run(runs / "stopped_2", "ls", [2], reached=600)
        make_run(runs / "all_stopped", "ls", reached=300, agent__discount=0.9)
        return report(runs, root / "out"), table(root / "out" / "mt10_v2_goals0")

    def test_says_what_is_wrong(self, damaged):
        told = notes(damaged[0])
        for folder, words in {
            "broken": [
                "evaluations.jsonl: 7 lines (4, 8, 9, 31, 32, ...)",
                "provenance.json is damaged",
                "metrics.jsonl: 2 lines",
            ],
            "unreadable": ["config.yaml cannot be read"],
            "no_config": ["config.yaml is missing"],
            "no_metrics": ["metrics.jsonl is missing"],
            "no_evaluations": ["evaluations.jsonl is missing"],
            "missing": ["seed 1 has no usable evaluation"],
            "stopped_2": ["the last evaluation of seed 2 is at step 600 of 1,000"],
            "all_stopped": ["the last evaluation of seeds 0, 1, 2 is at step 300 of 1,000"],
        }.items():
            of_folder = [note for note in told if f"/runs/{folder}: " in note]
            assert len(of_folder) == len(words), of_folder
            assert all(any(word in note for note in of_folder) for word in words), of_folder
        assert not any("/runs/good: " in note for note in told)
        (seeds,) = [note for note in told if "not all methods have the same seeds" in note]
        assert "FAMO 0, 2" in seeds
        assert "ConicGrad 0-2" in seeds

    def test_renders_the_rest(self, damaged):
        page, rows = damaged
        by_name = {row["method"]: row for row in rows}
        assert len(rows) == 6
        assert by_name["CAGrad"]["torch"] == "not recorded"
        assert by_name["ConicGrad"]["seeds"] == "0-2"
        assert by_name["FAMO"]["seeds"] == "0, 2"
        assert "seeds: 0, 2, most rows 0-2" in by_name["FAMO"]["remarks"]
        ls = by_name["LS"]
        assert (ls["seeds"], ls["steps_per_task"]) == ("0-1", "1,000 of 1,000")
        assert "stopped earlier: seed 2" in ls["remarks"]
        unfinished = by_name["LS discount=0.9"]
        assert unfinished["steps_per_task"] == "300 of 1,000"
        assert "unfinished: 300 of 1,000 steps" in unfinished["remarks"]
        assert page.rstrip().endswith("</html>")

    def test_has_no_nan(self, damaged):
        page, rows = damaged
        text = re.sub(r"<[^>]*>", " ", page)
        assert not re.search(r"\bnan\b|\binf\b|None", text)
        assert not any(value in ("nan", "inf", "None") for row in rows for value in row.values())


def halt(run, seed, step):
    """Leave the records as they are where that seed stopped learning at that step."""
    path = run / "evaluations.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    for line in lines:
        if line["seed"] == seed and line["step"] >= step:
            line["halted"] = step
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    causes = json.loads((run / "halted.json").read_text()) if (run / "halted.json").exists() else []
    causes.append({"step": step, "seed": seed, "network": "critic", "cause": "the loss of push-v3"})
    (run / "halted.json").write_text(json.dumps(causes))


def test_a_halted_seed_never_looks_like_a_result(tmp_path):
    some, every, early = (make_run(tmp_path / "runs" / name, name) for name in ("ls", "pcgrad", "famo"))
    halt(some, 1, 530)
    for seed in range(3):
        halt(every, seed, 530)
        halt(early, seed, 30)
    page = report(tmp_path / "runs", tmp_path / "out")
    rows = {row["method"]: row for row in table(tmp_path / "out" / "mt10_v2_goals0")}
    why = "stopped learning at step 530 (critic: the loss of push-v3 is not finite)"
    assert (rows["LS"]["seeds"], rows["LS"]["steps_per_task"]) == ("0, 2", "1,000 of 1,000")
    assert f"seed 1 {why}" in rows["LS"]["remarks"]
    assert rows["PCGrad"]["steps_per_task"] == "500 of 1,000"
    assert all(f"seed {seed} {why}" in rows["PCGrad"]["remarks"] for seed in range(3))
    assert "FAMO" not in rows
    told = notes(page)
    assert any(note.endswith(f"runs/ls: seed 1 {why}") for note in told)
    assert any("runs/famo: seed 2 stopped learning at step 30 (" in note for note in told)
    assert not any("unfinished" in note for note in told)
