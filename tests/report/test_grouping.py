"""Which runs share a table and a row, and what a row is called."""

from __future__ import annotations

import json

import pytest
from synthetic import TASKS, make_run

from mtrl_conic.report import protocol, tables
from mtrl_conic.report.grouping import sections
from mtrl_conic.report.options import find_runs
from mtrl_conic.report.reading import read_run


def grouped(runs, steps=None):
    """The sections of the run folders below a folder, and the notes."""
    notes: list[str] = []
    read = [read_run(folder, notes) for folder in find_runs(str(runs), notes)]
    return sections(read, steps, notes), notes


def rows(section, steps=None):
    return {row.method.label: row for row in tables.rows(section, steps)}


@pytest.mark.parametrize(
    "change",
    [
        {"env": {"reward_version": "v1"}},
        {"env": {"goal_seed": 1}},
        {"env": {"name": "mt25"}},
        {"env": {"some_new_setting": 2}},
        {"env": {"action_repeat": 2}},
        {"env": {"num_goals": 1}},
        {"env": {"episode_length": 150}},
        {"tasks": TASKS[:2]},
    ],
    ids=str,
)
def test_another_protocol_is_another_section(tmp_path, change):
    make_run(tmp_path / "a", "ls", [0])
    make_run(tmp_path / "b", "ls", [1], **change)
    found, notes = grouped(tmp_path)
    assert [[method.seeds for method in section.methods] for section in found] in ([[[0]], [[1]]], [[[1]], [[0]]])
    assert len({section.slug for section in found}) == 2
    assert len(notes) == 1


METAWORLD = {"_target_": "mtrl_conic.envs.metaworld.MetaWorld", "benchmark": "mt10"}


@pytest.mark.parametrize(
    ("env", "title", "words"),
    [
        (
            {"tasks": [*TASKS]},
            f"MT10, {', '.join(TASKS)}, Meta-World V3, reward v2, goal seed 0",
            "39 numbers observed",
        ),
        ({"_target_": "mtrl_conic.envs.toy.Toy", "benchmark": None}, "mt10, toy environment", "episodes of 50 steps"),
        ({"_target_": "not_there.Mine", "speed": 3}, "mt10", "benchmark mt10, speed 3"),
        ({"reward_version": "v9"}, "mt10", "3 tasks"),
        (
            {"action_repeat": 5},
            "MT10, Meta-World V3, reward v2, goal seed 0, action repeat 5",
            "39 numbers observed, each action held for 5 steps",
        ),
        ({"action_repeat": 1}, "MT10, Meta-World V3, reward v2, goal seed 0", "39 numbers observed"),
    ],
    ids=str,
)
def test_a_protocol_in_words(tmp_path, env, title, words):
    """Of a user's own class, which is not imported, and of settings that this version does not take, what is stored."""
    make_run(tmp_path / "a", "ls", env={"name": None, "task": None, **METAWORLD, **env}, choices={"env": "mt10"})
    ((section,), notes) = grouped(tmp_path)
    assert section.title == title
    assert words in section.sentence
    assert not notes


def test_how_fast_a_run_is_is_no_protocol(tmp_path):
    make_run(tmp_path / "a", "ls", [0])
    make_run(tmp_path / "b", "ls", [1], env={"workers": 0, "fast": False, "timeout": 5.0}, device="cuda")
    ((section,), notes) = grouped(tmp_path)
    assert [method.seeds for method in section.methods] == [[0, 1]]
    assert notes == []


def test_runs_of_versions_without_a_repeat_held_no_action(tmp_path):
    make_run(tmp_path / "a", "ls", [0])
    make_run(tmp_path / "b", "ls", [1], env={"action_repeat": 1})
    make_run(tmp_path / "c", "ls", [0], env={"action_repeat": 5})
    found, _ = grouped(tmp_path)
    assert {section.slug: [method.seeds for method in section.methods] for section in found} == {
        "mt10_v2_goals0": [[0, 1]],
        "mt10_v2_goals0_repeat5": [[0]],
    }


def test_tasks_may_come_in_another_order(tmp_path):
    one = make_run(tmp_path / "a", "ls", [0])
    make_run(tmp_path / "b", "ls", [1], tasks=TASKS[::-1])
    ((section,), _) = grouped(tmp_path)
    (method,) = section.methods
    assert section.tasks == TASKS
    reversed_run = read_run(tmp_path / "b", [])
    assert method.final[1].tolist() == reversed_run.curves[1].success[-1, ::-1].tolist()
    assert method.final[0].tolist() == read_run(one, []).curves[0].success[-1].tolist()
    weights = {seed: method.runs[seed].traces[seed]["critic/weight"][1] for seed in (0, 1)}
    assert weights[1].tolist() == reversed_run.traces[1]["critic/weight"][1][:, ::-1].tolist()


def test_a_row_is_called_by_what_sets_it_apart(tmp_path):
    make_run(tmp_path / "a", "conicgrad")
    make_run(tmp_path / "b", "conicgrad", combiner__c=0.5)
    make_run(tmp_path / "c", "cagrad")
    make_run(tmp_path / "d", "ls", agent__gradient_scope="all")
    make_run(tmp_path / "e", "ls", combiner___target_="mine.LS")
    ((section,), _) = grouped(tmp_path)
    assert set(rows(section)) == {
        "ConicGrad c=0.75",
        "ConicGrad c=0.5",
        "CAGrad",
        "LS combiner._target_=mtrl_conic.combiners.ls.LS gradient_scope=all",
        "LS combiner._target_=mine.LS",
    }
    origins = {method.label: tables.origin(method, section) for method in section.methods}
    assert origins["CAGrad"]["settings that differ"] == "gradient_scope=shared"
    assert origins["ConicGrad c=0.5"]["settings that differ"] == "c=0.5, gradient_scope=shared"


def test_an_exact_conicgrad_is_called_so_also_alone(tmp_path):
    make_run(tmp_path / "exact", "conicgrad", combiner__weights="exact")
    ((section,), _) = grouped(tmp_path)
    assert set(rows(section)) == {"ConicGrad exact"}
    make_run(tmp_path / "default", "conicgrad")
    ((section,), _) = grouped(tmp_path)
    assert set(rows(section)) == {"ConicGrad exact", "ConicGrad"}


def test_a_combiner_that_no_network_has_is_no_part_of_the_method(tmp_path):
    """Where each has its own, two runs that differ in the other are of one method."""
    own = {"actor": {"_target_": "mtrl_conic.combiners.pcgrad.PCGrad"}}
    both = own | {"critic": {"_target_": "mtrl_conic.combiners.ls.LS"}}
    make_run(tmp_path / "a", "cagrad", [0], combiners=both)
    make_run(tmp_path / "b", "famo", [1], combiners=both)
    make_run(tmp_path / "c", "cagrad", combiners=own)
    make_run(tmp_path / "d", "cagrad", combiners=both, agent__temperatures="combined")
    for name in "abcd":
        path = tmp_path / name / "provenance.json"
        path.write_text(json.dumps({"pieces": [{"parameters_per_seed": {"critic": 5, "actor": 3}}]}))
    ((section,), _) = grouped(tmp_path)
    found = {label.partition(" temperatures=")[0]: row.method.seeds for label, row in rows(section).items()}
    assert found.pop("actor PCGrad, critic LS") == [0, 1]
    assert set(found) == {"CAGrad, actor PCGrad", "CAGrad, actor PCGrad, critic LS"}


def test_labels_are_distinct_where_nothing_is_usual():
    base = {"combiner._target_": "mtrl_conic.combiners.ls.LS", "agent.tau": "1", "steps_per_task": "5"}
    methods = [
        base,
        base | {"agent.tau": "2"},
        base | {"steps_per_task": "6"},
        base | {"agent.tau": "2", "steps_per_task": "6"},
    ]
    named = protocol.labels(methods)
    assert len(set(named)) == 4
    assert named[3] == "LS tau=2 steps_per_task=6"


def test_steps_compares_at_a_common_step(tmp_path):
    make_run(tmp_path / "short", "ls", steps=600)
    make_run(tmp_path / "long", "ls", [3, 4], steps=1000)
    make_run(tmp_path / "other", "cagrad", steps=1000, every=250)
    ((section,), notes) = grouped(tmp_path)
    found = rows(section)
    assert set(found) == {"LS steps_per_task=600", "LS steps_per_task=1000", "CAGrad"}
    assert "steps per task: 600, most rows 1,000" in found["LS steps_per_task=600"].remarks
    assert any(remark.startswith("evaluations to choose the best from: 4") for remark in found["CAGrad"].remarks)
    ((section,), more) = grouped(tmp_path, steps=600)
    found = rows(section, steps=600)
    assert set(found) == {"LS", "CAGrad"}
    assert found["LS"].method.seeds == [0, 1, 2, 3, 4]
    assert tables.episodes_text(found["LS"].method) == "5 / 5, 50"
    assert "no evaluation at 600: numbers of step 500" in found["CAGrad"].remarks
    assert {int(curve.steps[-1]) for curve in found["LS"].method.curves.values()} == {600}
    assert {int(curve.steps[-1]) for curve in found["CAGrad"].method.curves.values()} == {500}
    traces = found["CAGrad"].method.traces("critic/cosine")
    assert [(int(steps[-1]), len(values)) for steps, values in traces] == [(558, 9)] * 3
    assert len(notes) == len(more) == 1
    assert notes[0].startswith(f"{section.title}: not all methods have the same seeds: ")
    assert all(part in notes[0] for part in ("CAGrad 0-2", "LS steps_per_task=600 0-2", "LS steps_per_task=1000 3-4"))
    assert all(part in more[0] for part in ("CAGrad 0-2", "LS 0-4"))


def test_a_seed_counts_once(tmp_path):
    make_run(tmp_path / "a", "ls", [0, 1], reached=500)
    make_run(tmp_path / "b", "ls", [1, 2])
    ((section,), notes) = grouped(f"{tmp_path}/a,{tmp_path}/*,{tmp_path}")
    (method,) = section.methods
    assert (method.seeds, method.stopped) == ([1, 2], [0])
    assert f"LS, seed 1 is in two run folders: {tmp_path}/b counts, {tmp_path}/a does not" in notes


def test_settings_of_older_runs_have_their_defaults(tmp_path):
    make_run(tmp_path / "old", "conicgrad", [0])
    newer = {"weights_lr": 0.025, "enforce_cone": True, "schedule": "constant", "c_end": None, "schedule_updates": 0}
    make_run(
        tmp_path / "new",
        "conicgrad",
        [1],
        env={"fast": True, "num_envs_per_task": 1},
        agent__layer_norm=False,
        **{f"combiner__{key}": value for key, value in newer.items()},
    )
    ((section,), _) = grouped(tmp_path)
    assert [(method.label, method.seeds) for method in section.methods] == [("ConicGrad", [0, 1])]


def test_evaluations_that_seeds_do_not_share_are_no_row(tmp_path):
    make_run(tmp_path / "a", "ls", [0], every=400, steps=1000)
    make_run(tmp_path / "b", "ls", [1], every=300, steps=1000)
    found, notes = grouped(tmp_path)
    assert found == []
    assert any(note.startswith("LS: its seeds have no evaluation in common") for note in notes)


def test_names_with_commas_and_brackets_are_folders(tmp_path):
    folder = make_run(tmp_path / "combiner=ls,seeds=[0]", "ls", [0])
    assert find_runs(str(folder), []) == [folder]
    other = make_run(tmp_path / "b", "ls", [1])
    assert find_runs(f"{other},{tmp_path}", []) == [other, folder]
