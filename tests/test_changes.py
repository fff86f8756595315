"""What a run may be resumed with: the choices it was composed of, other threads, another length."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from conftest import TOY, records, train_here
from omegaconf import OmegaConf

from mtrl_conic.report.grouping import sections
from mtrl_conic.report.reading import read_run
from mtrl_conic.runs.folder import open_run
from mtrl_conic.settings.compose import compose_config, load_stored, resume_config
from mtrl_conic.settings.errors import ConfigError
from mtrl_conic.settings.paths import choices
from mtrl_conic.sweep import main as sweep
from mtrl_conic.train import main

ARGUMENTS = [*TOY, "combiner=imtl_g", "steps_per_task=200"]
CHOICES = {"env": "toy", "agent": "mtmhsac", "network": "multi_head", "combiner": "imtl_g"}


@pytest.fixture(autouse=True)
def _handlers():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return train_here(*ARGUMENTS, f"run_dir={tmp_path_factory.mktemp('changes') / 'run'}")


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def settings(run: Path, *overrides: str):
    return resume_config(str(run), overrides)


def test_choices_are_stored(run):
    assert OmegaConf.load(run / "config.yaml").choices == CHOICES


@pytest.mark.parametrize("name", choices("combiner"))
def test_the_same_combiner_may_be_named_on_resume(name, tmp_path):
    config = compose_config(["env=toy", f"combiner={name}"])
    OmegaConf.save(OmegaConf.structured(config), tmp_path / "config.yaml")
    assert (
        settings(tmp_path, f"combiner={name}", "agent=mtmhsac", "network=multi_head", "env=toy").choices["combiner"]
        == name
    )
    other = "ls" if name != "ls" else "mgda"
    with pytest.raises(ConfigError, match=f"combiner={other}: cannot change on resume, the run has {name};"):
        settings(tmp_path, f"combiner={other}")


def test_runs_of_versions_that_stored_no_choices(run):
    stored = OmegaConf.load(run / "config.yaml")
    del stored["choices"]
    stored["env"] = {"name": "toy", "num_envs_per_task": 1, "workers": 0, "timeout": 60.0, "fast": True}
    OmegaConf.save(stored, run / "config.yaml")
    assert load_stored(run).choices == CHOICES
    assert settings(run, "combiner=imtl_g", "agent=mtmhsac").choices["combiner"] == "imtl_g"
    with pytest.raises(ConfigError, match="the run has imtl_g"):
        settings(run, "combiner=ls")
    assert main([*ARGUMENTS, f"run_dir={run}", "resume=auto"]) == 0


def test_another_combiner_is_refused_by_name(run, capsys):
    assert main([*ARGUMENTS, "combiner=aligned_mtl", f"run_dir={run}", "resume=auto"]) == 2
    assert "combiner=aligned_mtl: cannot change on resume, the run has imtl_g" in capsys.readouterr().err


def test_a_folder_of_settings_must_be_there_on_resume_too(run, capsys):
    assert main([f"resume={run}", "--config-dir", "nowhere"]) == 2
    assert "--config-dir nowhere: no such folder" in capsys.readouterr().err


def test_experiments_are_compared(tmp_path):
    config = compose_config(["experiment=smoke", "env=toy"])
    OmegaConf.save(OmegaConf.structured(config), tmp_path / "config.yaml")
    assert settings(tmp_path, "experiment=smoke").choices["experiment"] == "smoke"
    with pytest.raises(ConfigError, match="experiment=cpu: cannot change on resume, the run has smoke"):
        settings(tmp_path, "experiment=cpu")


def test_the_names_of_fresh_folders(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with open_run(compose_config([*TOY, "combiner=aligned_mtl"]), False) as folder:
        assert folder.name.startswith("toy_aligned_mtl_")


def test_a_report_names_combiners_of_ones_own_by_their_files(tmp_path):
    (tmp_path / "combiner").mkdir()
    text = "_target_: mtrl_conic.combiners.conicgrad.ConicGrad\nc: 0.4\n"
    (tmp_path / "combiner" / "narrow.yaml").write_text(text)
    runs = []
    for name in ("narrow", "conicgrad"):
        arguments = [*TOY, "steps_per_task=50", f"combiner={name}", f"run_dir={tmp_path / name}"]
        config = compose_config(arguments, [str(tmp_path)])
        with open_run(config, False) as folder:
            line = '{"step": 50, "seed": 0, "success": {"direct": 1.0}, "episodes": 1}\n'
            (folder / "evaluations.jsonl").write_text(line)
        runs.append(read_run(folder, []))
    (section,) = sections(runs, None, [])
    assert sorted(section.labels) == ["ConicGrad", "narrow"]


def test_a_combiners_settings_that_are_a_mapping_are_compared(tmp_path):
    pytest.importorskip("torchjd")
    arguments = ["combiner=torchjd", "combiner.aggregator=CAGrad", "combiner.settings={c: 0.4}"]
    OmegaConf.save(OmegaConf.structured(compose_config(["env=toy", *arguments])), tmp_path / "config.yaml")
    assert settings(tmp_path, *arguments)
    with pytest.raises(ConfigError, match=r"combiner\.settings"):
        settings(tmp_path, "combiner.settings={c: 0.5}")


@pytest.mark.parametrize("how", ["resume", "auto"])
def test_other_threads_are_taken_and_said(how, run, capfd):
    arguments = [f"resume={run}"] if how == "resume" else [*ARGUMENTS, f"run_dir={run}", "resume=auto"]
    assert main([*arguments, "threads=2", "steps_per_task=250"]) == 0
    assert "threads: 2, 1 before: sums are rounded in another order" in capfd.readouterr().err
    assert [line["step"] for line in records(run)] == [100, 200, 250]
    assert main([*arguments, "threads=2", "steps_per_task=300"]) == 0
    assert "threads:" not in capfd.readouterr().err


def text_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["resume", "auto", "sweep", "multirun"])
def test_fewer_steps_than_done_are_refused(how, finished, tmp_path, capsys):
    folder, name = tmp_path / "sweep", {"sweep": "imtl_g/seed_0", "multirun": "combiner=imtl_g"}.get(how, "run")
    run = Path(shutil.copytree(finished, folder / name))
    before = text_of(run)
    fewer = [*ARGUMENTS, "steps_per_task=150"]
    status = {
        "resume": lambda: main([f"resume={run}", "steps_per_task=150"]),
        "auto": lambda: main([*fewer, f"run_dir={run}", "resume=auto"]),
        "sweep": lambda: sweep(["imtl_g", "0", str(folder), *TOY, "steps_per_task=150"]),
        "multirun": lambda: main(["-m", *fewer, f"hydra.sweep.dir={folder}"]),
    }[how]()
    error = capsys.readouterr().err
    assert status == 2, error
    assert len(error.splitlines()) == 1
    assert "steps_per_task=150: " in error
    assert "at step 200" in error
    assert text_of(run) == before


def test_fewer_steps_than_planned_but_more_than_done(tmp_path):
    """A run stopped at 120 of 200 may end at 150, but not at 100; nor at 120, where nothing final was evaluated."""
    from mtrl_conic.training.trainer import Trainer

    config = compose_config([*ARGUMENTS, f"run_dir={tmp_path / 'run'}"])
    with open_run(config, False) as folder:
        trainer = Trainer(config, folder)
        assert not trainer.run(lambda: trainer.step >= 120)
        trainer.close()
    for steps in (100, 120):
        assert main([f"resume={folder}", f"steps_per_task={steps}"]) == 2
    assert main([f"resume={folder}", "steps_per_task=150"]) == 0
    assert [(line["step"], line["episodes"]) for line in records(folder)] == [(100, 1), (150, 2)]


def test_a_vector_step_beyond_the_end_is_no_longer_run(tmp_path):
    folder = train_here(*ARGUMENTS, "env.num_envs_per_task=3", f"run_dir={tmp_path / 'run'}")
    assert records(folder)[-1]["step"] == 201
    assert main([f"resume={folder}"]) == 0
    assert main([f"resume={folder}", "steps_per_task=198"]) == 2


def test_the_folder_may_be_named_beside_resume(run):
    assert settings(run, f"run_dir={run}").run_dir == str(run)
    with pytest.raises(ConfigError, match="run_dir=elsewhere: cannot change"):
        settings(run, "run_dir=elsewhere")
