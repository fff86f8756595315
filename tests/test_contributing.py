"""The recipes of CONTRIBUTING.md, word for word in a folder outside the package: train, resume, evaluate."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import records
from omegaconf import OmegaConf

from mtrl_conic.settings.compose import compose_config
from mtrl_conic.settings.paths import CONFIG_DIR, choices

PAGE = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text()
RECIPES = dict(re.findall(r"^## An? (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
FILE = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)
# Runs of the tests are shorter than those that one would look at.
SMALL = ["batch_size_per_task=8", "eval.every=300", "eval.episodes=1", "threads=1"]
SMALL += ["eval.final_episodes=1", "capacity_per_task=300", "device=cpu"]
GROUP = {"combiner": "combiner", "network": "network", "agent": "agent", "environment": "env"}


def run(line: str) -> int:
    """A command line as in the page, in this process."""
    _, _, module, *arguments = shlex.split(line)
    starts = module == "mtrl_conic.train" and not any(each.startswith("resume=") for each in arguments)
    sizes = [] if "network=gated" in arguments else ["agent.hidden_sizes=[16]"]
    return importlib.import_module(module).main([*(SMALL + sizes if starts else []), *arguments])


def test_there_are_four_recipes():
    assert list(RECIPES) == list(GROUP)


@pytest.mark.parametrize("kind", GROUP)
def test_a_recipe_trains_resumes_and_evaluates(kind, tmp_path, monkeypatch):
    files = dict(FILE.findall(RECIPES[kind]))
    (module, config) = files
    assert Path(config).parts[:2] == ("my_configs", GROUP[kind])
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    train, resume, evaluate = re.search(r"```bash\n(.*?)```", RECIPES[kind], re.DOTALL)[1].splitlines()
    assert run(train) == 0
    assert run(resume) == 0
    assert run(evaluate) == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name == Path(module).stem
    assert [line["step"] for line in records(folder)] == [300, 400]
    (result,) = folder.glob("evaluation_*.json")
    assert json.loads(result.read_text())["step"] in (300, 400)


@pytest.mark.parametrize("critic", [[], ["critic_network=gated"]], ids=["actor", "both"])
@pytest.mark.parametrize("agent", choices("agent"))
def test_the_network_works_with_every_agent(agent, critic, tmp_path, monkeypatch):
    """Choosing a network leaves nothing of the default one's arguments."""
    for name, text in FILE.findall(RECIPES["network"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    has_popart = "popart" in OmegaConf.load(CONFIG_DIR / "agent" / f"{agent}.yaml")
    arguments = ["env=toy", f"agent={agent}", "network=gated", *critic, *["agent.popart=null"] * has_popart]
    config = compose_config([*arguments, "device=cpu"], ["my_configs"])
    assert config.agent["network"]["_target_"].endswith(".Gated")
    assert config.choices["network"] == "gated"


@pytest.mark.parametrize("agent", choices("agent"))
def test_agents_leave_the_arguments_of_networks_to_the_networks_own_files(agent):
    """Otherwise another network would be given those of the default one."""
    loaded = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "agent" / f"{agent}.yaml"))
    bases = [each for each in loaded["defaults"] if isinstance(each, str) and each != "_self_"]
    of_bases = [OmegaConf.load(CONFIG_DIR / "agent" / f"{base}.yaml").defaults for base in bases]
    listed = [each for defaults in (loaded["defaults"], *of_bases) for each in defaults if not isinstance(each, str)]
    chosen = [key.partition("@")[2] for each in listed for key in each]
    assert {"network", "critic_network"} <= {*chosen}
    assert not [key for key in chosen if isinstance(loaded.get(key), dict)]
