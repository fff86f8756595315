"""The papers' table in a report: its rows and their order, its numbers, and what it says of the papers' own."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path

import pytest
from synthetic import make_run
from written_reports import notes, report, table

MT10 = "mt10_v2_goals0"
NAMES = ("reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close", "button-press-topdown")
TASKS = [f"{name}-v3" for name in (*NAMES, "peg-insert-side", "window-open", "window-close")]


def make_row(folder: Path, name: str, combiner: str, seeds=(0, 1, 2), *, agent: str = "mtsac", **settings) -> Path:
    """A run as a sweep of the table leaves it, with many evaluations of few episodes."""
    settings = {"agent__temperatures": "task", "episodes": (2, 5), "tasks": TASKS, "variant": name} | settings
    return make_run(folder, combiner, seeds, choices={"env": "mt10", "agent": agent, "combiner": combiner}, **settings)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Rows of two agents, one of them with a seed that was stopped, a run that only has a row's name, and another."""
    root = tmp_path_factory.mktemp("table3")
    runs = root / "runs"
    make_row(runs / "cagrad", "CAGrad", "cagrad", level=0.75)
    make_row(runs / "famo", "FAMO", "famo", (0, 1), level=0.6)
    make_row(runs / "famo_2", "FAMO", "famo", (2,), level=0.6, reached=500)
    make_row(runs / "heads", "Multi-headed SAC", "ls", agent="mtmhsac", level=0.7)
    make_row(runs / "ls", "LS", "ls", (3,), level=0.4)
    make_row(runs / "pcgrad", "PCGrad", "pcgrad", agent="mtmhsac", level=0.65)
    make_run(runs / "other", "conicgrad", tasks=TASKS, level=0.9)
    return root, report(runs, root / "out")


FOLDERS = {"LS": ["ls"], "Multi-headed SAC": ["heads"], "CAGrad": ["cagrad"], "FAMO": ["famo"]}


def curves(folders: list[Path]) -> dict[int, dict[int, list[float]]]:
    """Success of each task by step and seed."""
    found: dict[int, dict[int, list[float]]] = {}
    for folder in folders:
        for text in (folder / "evaluations.jsonl").read_text().splitlines():
            line = json.loads(text)
            found.setdefault(line["step"], {})[line["seed"]] = list(line["success"].values())
    return found


def mean(values) -> float:
    return math.fsum(values) / len(values)


def error(values) -> float:
    return math.sqrt(math.fsum((value - mean(values)) ** 2 for value in values) / (len(values) - 1) / len(values))


@pytest.mark.xdist_group("paper_table")  # one worker: the report is written once
class TestWritten:
    def test_rows_are_in_the_order_of_the_papers(self, written):
        root, page = written
        assert [line["row"] for line in table(root / "out" / MT10, "table3")] == list(FOLDERS)
        assert [line["method"] for line in table(root / "out" / MT10)] != list(FOLDERS)
        shown = block(page)
        assert [shown.index(f"</svg> {name}</th>") for name in FOLDERS] == sorted(
            shown.index(f"</svg> {name}</th>") for name in FOLDERS
        )

    def test_numbers(self, written):
        root, page = written
        chosen = set()
        for line in table(root / "out" / MT10, "table3"):
            by_step = curves([root / "runs" / name for name in FOLDERS[line["row"]]])
            seeds = {step: [mean(tasks) for tasks in by_seed.values()] for step, by_seed in by_step.items()}
            best = max(seeds, key=lambda step: (mean(seeds[step]), -step))
            assert int(line["best_step"]) == best
            assert float(line["best_success"]) == pytest.approx(mean(seeds[best]))
            assert float(line["final_success"]) == pytest.approx(mean(seeds[1000]))
            results = sorted(rate for tasks in by_step[1000].values() for rate in tasks)
            quarter = len(results) // 4
            assert float(line["iqm"]) == pytest.approx(mean(results[quarter : len(results) - quarter]))
            if len(seeds[best]) > 1:
                assert float(line["best_standard_error"]) == pytest.approx(error(seeds[best]))
                assert float(line["final_standard_error"]) == pytest.approx(error(seeds[1000]))
                assert f"<td>{mean(seeds[best]):.3f} ± {error(seeds[best]):.3f}<br>" in block(page)
            else:
                assert (line["best_standard_error"], line["iqm_low"]) == ("", "")
            chosen.add(best)
        assert chosen != {1000}  # or the test could not tell the best from the last

    def test_what_is_not_whole_is_named(self, written):
        root, page = written
        lines = {line["row"]: line for line in table(root / "out" / MT10, "table3")}
        assert lines["FAMO"]["seeds"] == "0-1"
        assert "not in the numbers, as stopped earlier: seed 2" in lines["FAMO"]["remarks"]
        assert "one seed" in lines["LS"]["remarks"]
        assert "not in the numbers, as stopped earlier: seed 2" in block(page)
        assert "Rows that were not run: STL, Soft Modularization, PCGrad, NashMTL (every 1)," in block(page)

    def test_a_run_that_only_has_the_name_is_no_row(self, written):
        _, page = written
        ((note),) = [note for note in notes(page) if "row of the papers" in note]
        assert html.unescape(note) == (
            "PCGrad: has the name of a row of the papers' table, but agent is mtmhsac, not mtsac"
        )

    def test_the_papers_numbers_stand_apart(self, written):
        root, page = written
        lines = {line["row"]: line for line in table(root / "out" / MT10, "table3")}
        published = {"LS": (0.49, 0.073), "Multi-headed SAC": (0.61, 0.036), "CAGrad": (0.83, 0.045)}
        for name, line in lines.items():
            theirs = (line["published_v1_success"], line["published_v1_standard_error"])
            assert theirs == tuple(map(str, published.get(name, ("", "")))), name
            assert ("arXiv 2110.14048" in line["published_source"]) == (name in published)
        assert "another protocol" in block(page)
        assert "0.83 ± 0.045" in block(page)
        assert "It must not be compared" in block(page)

    def test_caption_says_protocol_and_episodes(self, written):
        _, page = written
        caption = block(page)
        assert "MT10, Meta-World V3, reward v2, goal seed 0: 10 tasks" in caption
        assert "2 / 5" in caption

    def test_rows_are_no_changes_of_a_base(self, written):
        root, page = written
        assert "What each change is worth" not in page
        assert not (root / "out" / MT10 / "ablation.csv").exists()


def block(page: str) -> str:
    """The table and its caption, as text of HTML without entities."""
    found = re.search(r"<h3>The table of the papers</h3>.*?(?=<h3>)", page, re.DOTALL)
    assert found
    return " ".join(html.unescape(found[0]).split())


def test_other_tasks_have_no_published_numbers_beside_them(tmp_path):
    make_row(tmp_path / "runs" / "ls", "LS", "ls", tasks=TASKS[:3])
    make_row(tmp_path / "runs" / "cagrad", "CAGrad", "cagrad", tasks=TASKS[:3])
    page = report(tmp_path / "runs", tmp_path / "out")
    (line, _) = table(tmp_path / "out" / MT10, "table3")
    assert line["row"] == "LS"
    assert not [key for key in line if "published" in key]
    assert "V1" not in block(page)


OTHER_SETTINGS = [
    {"combiner__c": 0.5},
    {"combiners": {"actor": {"_target_": "mtrl_conic.combiners.ls.LS"}}},
    {"choices": {"env": "mt10", "agent": "mtmhsac", "combiner": "cagrad"}},
    {"choices": {"env": "mt10", "agent": "mtmhsac", "combiner": "ls"}, "variant": "Multi-headed SAC"},
    {"choices": {"env": "mt10"}},
    {"variant": "CAGrad 2"},
]


def test_another_setting_is_another_method(tmp_path):
    """Without a row there is no table at all, and nothing is said: a name may be anybody's."""
    for number, change in enumerate(OTHER_SETTINGS):
        settings = {"choices": {"env": "mt10", "agent": "mtsac", "combiner": "cagrad"}, "variant": "CAGrad"}
        settings |= {"agent__temperatures": "shared"} | change  # as the multi-headed row has not
        make_run(tmp_path / "runs" / str(number), "cagrad", **settings)
    page = report(tmp_path / "runs", tmp_path / "out")
    assert "The table of the papers" not in page
    assert "row of the papers" not in page
