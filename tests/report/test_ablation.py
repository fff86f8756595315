"""Variants in a report: what they are called, their effects, and the picture of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from synthetic import make_run
from test_grouping import grouped, rows
from written_reports import notes, report, table

from mtrl_conic.report import ablation

PICTURES = {f"{name}.{kind}" for name in ("ablation", "ablation_curves") for kind in ("png", "svg")}
ABLATION = "mt10_v2_goals0"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A base, a better and a worse variant, one with another action repeat, and a run that is none."""
    root = tmp_path_factory.mktemp("ablation")
    make_run(root / "runs" / "base", "ls", level=0.5, variant="base")
    make_run(root / "runs" / "high", "ls", level=0.6, variant="high rate", agent__learning_rate=1e-3)
    make_run(root / "runs" / "low", "ls", level=0.3, variant="low rate", agent__learning_rate=1e-4)
    make_run(root / "runs" / "repeat", "ls", level=0.4, variant="repeat 2", env={"action_repeat": 2})
    make_run(root / "runs" / "other", "cagrad", level=0.9)
    return root, report(root / "runs", root / "out")


@pytest.mark.xdist_group("ablation_report")  # one worker: the report is written once
class TestWritten:
    def test_variants_have_their_names(self, written):
        root, _ = written
        assert [row["method"] for row in table(root / "out" / ABLATION)] == ["CAGrad", "high rate", "base", "low rate"]

    def test_effects_are_in_order_and_of_whole_seeds(self, written):
        root, _ = written
        lines = table(root / "out" / ABLATION, "ablation")
        assert [line["variant"] for line in lines] == ["high rate", "base", "repeat 2", "low rate"]
        assert [line["action_repeat"] for line in lines] == ["1", "1", "2", "1"]
        for line, folder in zip(lines, ("high", "base", "repeat", "low"), strict=True):
            records = map(json.loads, (root / "runs" / folder / "evaluations.jsonl").read_text().splitlines())
            success = {(record["step"], record["seed"]): record["success_rate"] for record in records}
            curves = np.array([[0.0, *(success[step, seed] for step in range(100, 1001, 100))] for seed in range(3)])
            final = curves[:, -1]
            assert float(line["final_success"]) == pytest.approx(final.mean())
            area = (curves.sum(1) - final / 2) / 10  # trapezoids of equal width, from 0
            assert float(line["over_training"]) == pytest.approx(area.mean())
            # of 27 equally likely draws of three seeds one has the lowest mean, so 2.5 % of draws are no other
            assert float(line["final_low"]) == pytest.approx(final.min())
            assert float(line["final_high"]) == pytest.approx(final.max())

    def test_the_pictures_are_drawn_once_and_shown(self, written):
        root, page = written
        folders = [folder for folder in (root / "out").iterdir() if folder.is_dir()]
        having = [folder.name for folder in folders if (folder / "ablation.csv").exists()]
        assert having == [ABLATION]
        assert {path.name for path in (root / "out" / ABLATION).iterdir()} >= PICTURES
        for heading in ("What each change is worth", "Each variant against the base"):
            assert page.count(f"<h3>{heading}</h3>") == 1
        assert "Diamonds are measured by another protocol" in page
        assert len(notes(page)) == 1  # that of two protocols


def test_the_same_variant_of_two_combiners_is_two_rows(tmp_path):
    for combiner in ("ls", "cagrad"):
        make_run(tmp_path / combiner, combiner, variant="wide")
    make_run(tmp_path / "c", "cagrad", variant="wide", combiner__c=0.5)
    make_run(tmp_path / "long", "ls", variant="long", steps=500)
    make_run(tmp_path / "longer", "ls", variant="long", steps=1000)
    ((section,), _) = grouped(tmp_path)
    assert set(rows(section)) == {
        *("wide, LS", "wide, CAGrad c=0.9", "wide, CAGrad c=0.5", "long steps_per_task=500"),
        "long steps_per_task=1000",
    }


def test_equal_settings_of_two_names_are_two_rows(tmp_path):
    make_run(tmp_path / "a", "ls", variant="base")
    make_run(tmp_path / "b", "ls", variant="rate 3e-4")
    make_run(tmp_path / "c", "ls")
    ((section,), _) = grouped(tmp_path)
    assert set(rows(section)) == {"base", "rate 3e-4", "LS"}


def shown(tmp_path):
    found, messages = grouped(tmp_path)
    return [ablation.ablation(section, found, messages) for section in found], messages


def test_two_bases_are_named_in_place_of_a_picture(tmp_path):
    for combiner in ("ls", "cagrad"):
        make_run(tmp_path / combiner, combiner, variant="base")
    ((none,), messages) = shown(tmp_path)
    assert none is None
    assert "several variants are the base" in messages[-1]
    assert all(name in messages[-1] for name in ("base, LS", "base, CAGrad"))


def test_variants_without_a_base_have_no_second_picture(tmp_path):
    make_run(tmp_path / "a", "ls", variant="a", level=0.3)
    make_run(tmp_path / "b", "ls", [0], variant="b", level=0.5)
    ((found,), _) = shown(tmp_path)
    assert found.base is None
    assert [effect.method.label for effect in found.effects] == ["b", "a"]
    assert found.effects[0].final.interval is None
    assert [picture.name for picture in ablation.pictures(found)] == ["ablation"]


def test_one_variant_alone_is_no_picture(tmp_path):
    make_run(tmp_path / "a", "ls", variant="base")
    make_run(tmp_path / "b", "ls")
    ((none,), _) = shown(tmp_path)
    assert none is None


def test_another_reward_is_never_drawn_beside_the_base(tmp_path):
    make_run(tmp_path / "a", "ls", variant="base")
    make_run(tmp_path / "b", "ls", variant="reward v1", env={"reward_version": "v1"})
    found, _ = shown(tmp_path)
    assert found == [None, None]


def test_a_variant_that_is_not_as_far_says_so(tmp_path):
    make_run(tmp_path / "a", "ls", variant="base")
    make_run(tmp_path / "b", "ls", variant="slow", reached=500)
    ((found,), _) = shown(tmp_path)
    alt = [panel.title for panel in ablation.pictures(found)[1].panels]
    assert alt == ["slow (at 500)"]


def test_success_over_steps_counts_each_step_alike():
    success = np.array([[0.0, 1.0], [0.5, 1.0], [0.5, 1.0]])
    steps = np.array([100, 300, 400])
    expected = [(200 * 0.25 + 100 * 0.5) / 400, (100 * 0.5 + 300) / 400]
    np.testing.assert_allclose(ablation.over_steps(steps, success), expected)


def test_no_words_of_the_picture_overlap(tmp_path):
    """As many variants as configs/sweep/fast_ablation.yaml has, some of the longest names."""
    make_run(tmp_path / "base", "ls", variant="base", level=0.5)
    for number in range(17):
        name = f"a name of forty letters, the number {number:5}" if number % 4 == 0 else f"variant {number}"
        make_run(tmp_path / f"{number}", "ls", variant=name, level=0.3 + 0.02 * number, agent__tau=number)
    ((found,), _) = shown(tmp_path)
    for panel in ablation.pictures(found)[0].panels:
        figure = Figure(figsize=panel.size, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axis = figure.subplots()
        panel.draw(axis)
        axis.set_title(panel.title, loc="left", fontweight="bold")
        canvas.draw()
        low, high = axis.get_xlim()
        numbers = [text for text in axis.get_xticklabels() if low <= text.get_position()[0] <= high]
        texts = [*axis.texts, *axis.get_yticklabels(), *numbers, axis.xaxis.label, axis._left_title]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert len(boxes) > 2 * 18
        for index, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[index + 1 :]), texts[index]
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
