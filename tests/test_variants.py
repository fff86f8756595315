"""Sweeps of named variants: what a file may say, the package's own file, and a sweep through the real command."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import warm
import yaml
from conftest import TOY, records, train_here

from mtrl_conic import sweep
from mtrl_conic.report.reading import read_run
from mtrl_conic.settings import paths
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.variants import layered, read_variants
from mtrl_conic.sweep import main
from mtrl_conic.training.sweep_runs import list_runs

MINE = """\
settings: [env=toy, agent.batch_size_per_task=4, combiner=pcgrad, steps_per_task=1000]
variants:
  base: []
  narrow, 2 layers: ["agent.hidden_sizes=[8,8]", agent.batch_size_per_task=9]
"""
FOLDERS = ("base", "narrow_2_layers")


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / "sweep" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run_sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run([sys.executable, "-m", "mtrl_conic.sweep", *arguments], cwd=folder, timeout=200)


def test_a_sweep_of_a_users_variants(tmp_path):
    """The command line changes what all share, a variant what it is about; the runs know their names."""
    write(tmp_path / "my_configs", MINE)
    toy = [*(each for each in TOY if not each.startswith("agent.hidden")), "combiner=ls", "steps_per_task=100"]
    arguments = ["variants=mine", "0", "sweep", "--config-dir", "my_configs", *toy]
    done = run_sweep(tmp_path, *arguments, "jobs=2")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "sweep"
    runs = [folder / name / "seed_0" for name in FOLDERS]
    assert all(records(run)[-1]["step"] == 100 for run in runs)
    base, narrow = (yaml.safe_load((run / "config.yaml").read_text()) for run in runs)
    assert (base["variant"], narrow["variant"]) == ("base", "narrow, 2 layers")
    assert narrow["agent"]["network"]["hidden_sizes"] == [8, 8]
    assert (base["agent"]["batch_size_per_task"], narrow["agent"]["batch_size_per_task"]) == (8, 9)
    assert base["choices"]["combiner"] == narrow["choices"]["combiner"] == "ls"

    copy = shutil.copytree(runs[1], tmp_path / "elsewhere")
    assert read_run(copy, []).config["variant"] == "narrow, 2 layers"
    assert resume_config(str(copy), ["steps_per_task=200"]).variant == "narrow, 2 layers"
    with pytest.raises(ConfigError, match="variant=other: cannot change on resume"):
        resume_config(str(copy), ["variant=other"])


def test_a_path_is_a_file_too(tmp_path):
    path = write(tmp_path, MINE)
    jobs = list_runs(f"variants={path}", ["0", "1,2"], str(tmp_path / "new"), TOY[1:])
    assert [job.name for job in jobs] == [f"{name}/{seeds}" for name in FOLDERS for seeds in ("seed_0", "seeds_1_2")]


def test_later_settings_replace_earlier_ones_of_the_same_name():
    early = ["warmup_steps=1", "combiner=ls", "env=toy", "+extra=1"]
    assert layered(early, ["combiner=cagrad", "extra=2"], ["agent.warmup_steps=3"]) == [
        *("env=toy", "combiner=cagrad", "extra=2", "agent.warmup_steps=3")
    ]


def test_a_setting_of_the_command_line_that_a_variant_replaces_is_named(tmp_path, monkeypatch, capsys):
    path = write(tmp_path, MINE)
    monkeypatch.setattr(sweep, "Sweep", lambda *_: SimpleNamespace(run=lambda: 0))
    given = ["agent.warmup_steps=100", "agent.batch_size_per_task=5"]
    assert main([f"variants={path}", "0 1", str(tmp_path / "new"), *given]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: agent.batch_size_per_task=5 is not for {FOLDERS[1]}: ")


BAD = {
    "no such file": ("variants=fast_ablatio", "", ["variants=fast_ablatio", "did you mean fast_ablation"]),
    "no such path": ("variants=no/such.yaml", "", ["no/such.yaml", "no such file"]),
    "no name": ("variants=", "", ["variants=", "fast_ablation"]),
    "bad yaml": ("variants=mine", "variants: {base: [}", ["mine.yaml, line 1"]),
    "no mapping": ("variants=mine", "[base]", ["variants=mine", "must have variants"]),
    "no variants": ("variants=mine", "settings: [env=toy]", ["must have variants"]),
    "another entry": ("variants=mine", "variant: {}\nvariants: {base: []}", ["variant", "there are settings and"]),
    "twice in the file": ("variants=mine", "variants:\n  a: []\n  a: []", ["mine.yaml, line 3", "duplicate key"]),
    "one folder": ("variants=mine", "variants: {Repeat 2: [], repeat_2: []}", ["Repeat 2 and repeat_2", "run folder"]),
    "name is a number": ("variants=mine", "variants: {0.5: []}", ["variant 0.5", "text"]),
    "name without a letter": ("variants=mine", "variants: {β: []}", ["variant 'β'", "letter"]),
    "name too long": ("variants=mine", f"variants: {{{'a' * 41}: []}}", ["variant", "40 characters"]),
    "no list": ("variants=mine", "variants: {base: [], other: env.action_repeat=2}", ["variant other", "a list of"]),
    "no setting": ("variants=mine", "variants: {base: [fast]}", ["variant base", "key=value", "fast"]),
    "sets the seeds": ("variants=mine", "variants: {base: ['seeds=[0]']}", ["base", "the sweep sets seeds itself"]),
    "sets the name": ("variants=mine", "settings: [variant=x]\nvariants: {base: []}", ["sets variant itself"]),
    "unknown setting": ("variants=mine", "variants: {base: [], b: [env.repeat=2]}", ["variant b: env.repeat"]),
    "unusable value": ("variants=mine", "variants: {base: [], b: [env.action_repeat=7]}", ["variant b", "must divide"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    what, text, words = BAD[name]
    write(tmp_path / "my_configs", text)
    assert main([what, "0", "new", "--config-dir", "my_configs", "env=toy"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert all(word in error for word in words), error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [("variant=mine", "the sweep sets variant itself"), ("--config-dir=nowhere", "nowhere: no such folder")],
)
def test_bad_arguments(argument, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["variants=fast_ablation", "0", "new", argument]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("value", ["' '", "'a\tb'", "a" * 41], ids=["blank", "tab", "long"])
def test_a_name_must_be_one(value):
    with pytest.raises(ConfigError, match=r"variant=.*must be null or a name of at most 40"):
        compose_config(["env=toy", f"variant={value}"])


def flat(tree: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


@pytest.mark.parametrize("name", paths.choices("sweep"))
def test_every_variant_of_the_package_changes_something_of_its_own(name, tmp_path):
    jobs = list_runs(f"variants={name}", ["0,1,2"], str(tmp_path), ["experiment=mt10"] * (name == "table3"))
    settings = {job.config.variant: flat(asdict(job.config)) for job in jobs}
    base = settings.pop("base" if "base" in settings else next(iter(settings)))
    changes = {}
    for variant, found in settings.items():
        differ = {key for key in base | found if base.get(key) != found.get(key)} - {"run_dir", "variant"}
        assert differ, variant
        changes[variant] = frozenset((key, str(found.get(key))) for key in differ)
    assert len(set(changes.values())) == len(changes)
    if name == "fast_ablation":
        assert len(jobs) == 17
        assert (base["steps_per_task"], base["eval.every"], base["choices.experiment"]) == (100_000, 25_000, "fast")
        for found in (base, *settings.values()):  # rows per task of a rollout
            assert found["agent.rollout_steps"] * found["env.num_envs_per_task"] == 2000


FAST = read_variants("fast_ablation")
TINY = [
    *("env=toy", "env.horizon=50", "env.workers=0", "agent.rollout_steps=10"),
    *("metrics_every=80", "eval.every=2000", "eval.episodes=1", "eval.final_episodes=1", "device=cpu", "threads=1"),
]


NOT_ON_THE_TOY = ("horizon 500", "action repeat 4")  # its episodes have 50 steps
# Kinds of change, and values at a bound; the others change a number or a size.
KINDS = (
    *("base", "action repeat 2", "PopArt off", "layer norm off", "advantages over all tasks", "trace 1.0"),
    *("environments per task 16", "entropy bonus 0", "task number not given"),
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in KINDS else pytest.mark.slow)
        for name in FAST.changes
        if name not in NOT_ON_THE_TOY
    ],
)
def test_each_variant_of_the_fast_ablation_trains(name, tmp_path):
    """On the toy, with a small rollout where the variant sets none."""
    of_its_own = any(each.startswith("agent.rollout_steps") for each in FAST.changes[name])
    length = f"steps_per_task={2000 if of_its_own else 320}"  # at least one rollout
    folder = train_here(*layered(FAST.settings, [*TINY, length], FAST.changes[name]), f"run_dir={tmp_path / 'run'}")
    line = records(folder, "metrics")[-1]
    assert all(map(math.isfinite, line.values()))
    assert {"loss/actor/direct", "loss/critic/direct"} <= line.keys()
