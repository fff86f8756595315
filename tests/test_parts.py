"""What agents are made of, and how it is chosen: clipping, AdamW, combiners of single networks, old names."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TOY, records, train_here
from omegaconf import OmegaConf

from mtrl_conic.agents.clipping import NetworkClip, TaskClip
from mtrl_conic.agents.optimizer import SeedwiseAdam
from mtrl_conic.agents.protocol import Setting
from mtrl_conic.combiners import CAGrad, Combiner, ConicGrad
from mtrl_conic.networks.initial import constant
from mtrl_conic.networks.layout import Layout, Parameter
from mtrl_conic.networks.multi_head import MultiHeadMLP
from mtrl_conic.policies.policy import load_policy
from mtrl_conic.report.grouping import sections
from mtrl_conic.report.reading import read_run
from mtrl_conic.runs.checkpoint import read_file, write_file
from mtrl_conic.settings.compose import compose_config, resume_config
from mtrl_conic.settings.errors import ConfigError, UnknownSettingError
from mtrl_conic.settings.parts import build
from mtrl_conic.settings.schema import TrainConfig
from mtrl_conic.train import main


@pytest.fixture
def layout():
    parameters = {"trunk": Parameter((2, 3), constant(0.0)), "head": Parameter((4, 2), constant(0.0), per_task=True)}
    return Layout(parameters | {"bias": Parameter((4, 1), constant(0.0), per_task=True)})


def test_the_norm_of_a_network_is_bounded(layout):
    gradient = torch.randn(3, layout.size, dtype=torch.float64)
    gradient[0] *= 1e-3
    before = gradient.clone()
    norm = NetworkClip(0.5)(layout, gradient)
    torch.testing.assert_close(norm, before.norm(dim=1))
    assert torch.equal(gradient[0], before[0])
    torch.testing.assert_close(gradient[1:], 0.5 * before[1:] / norm[1:, None])


def test_the_norm_of_each_task_is_bounded_by_itself(layout):
    """A task with a huge gradient shrinks neither another's nor what tasks share; seeds stay apart."""
    gradient = torch.randn(3, layout.size, dtype=torch.float64) * 0.01
    views = layout.views(gradient)
    views["head"][1, 2] = 1e6
    before = {name: view.clone() for name, view in views.items()}
    TaskClip(0.5)(layout, gradient)
    assert torch.equal(views["trunk"], before["trunk"])
    own = torch.cat((views["head"], views["bias"]), 2)
    assert own[1, 2].norm() == pytest.approx(0.5)
    others = torch.ones(3, 4, dtype=torch.bool)
    others[1, 2] = False
    assert torch.equal(own[others], torch.cat((before["head"], before["bias"]), 2)[others])
    views["trunk"].fill_(1.0)
    TaskClip(0.5)(layout, gradient)
    torch.testing.assert_close(views["trunk"].flatten(1).norm(dim=1), torch.full((3,), 0.5, dtype=torch.float64))


def test_a_norm_need_not_be_bounded(layout):
    config = compose_config(["env=toy", "agent.max_grad_norm=null"])
    bound = config.make_agent().max_grad_norm
    for clip in (NetworkClip(bound), TaskClip(bound)):
        gradient = 1e9 * torch.randn(3, layout.size, dtype=torch.float64)
        before = gradient.clone()
        clip(layout, gradient)
        assert torch.equal(gradient, before)


@pytest.mark.parametrize(("decay", "beta1"), [(0.0, 0.9), (0.1, 0.9), (0.0, 0.5)])
def test_the_optimizer_is_torchs_for_each_seed(decay, beta1):
    start, gradient = torch.randn(3, 5), torch.zeros(3, 5)
    params = start.clone()
    own = SeedwiseAdam(params, gradient, learning_rate=0.1, epsilon=1e-5, weight_decay=decay, beta1=beta1)
    theirs = start[0].clone().requires_grad_()
    kind = torch.optim.AdamW if decay else torch.optim.Adam
    reference = kind([theirs], lr=0.1, betas=(beta1, 0.999), eps=1e-5, weight_decay=decay)
    for step in range(4):
        gradient.copy_(torch.randn(3, 5, generator=torch.Generator().manual_seed(step)))
        theirs.grad = gradient[0].clone()
        reference.step()
        own.step(torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(params[0], theirs.detach())
    assert torch.equal(params[1], start[1])  # halted: it does not decay either
    assert not torch.equal(params[2], start[2])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tau", 2, r"tau must be a number in \(0, 1\], not 2"),
        ("discount", 0, "discount must be"),
        ("network", 3, "network must be a Network, not 3"),
        ("critic_network", "deep", "critic_network must be a Network"),
        ("num_critics", 1001, "num_critics must be at most 1000"),
        ("warmup_steps", -1, "warmup_steps must be a whole number of at least 0"),
        ("updates_per_step", 0.5, "updates_per_step must be"),
        ("weight_decay", -0.1, "weight_decay must be"),
        ("clip", "head", "clip must be one of network, task"),
        ("task_id_input", 1, "task_id_input must be true or false"),
        ("learning_rate", float("inf"), "learning_rate must be"),
    ],
)
def test_an_agent_checks_its_hyperparameters(name, value, words):
    from mtrl_conic.agents.sac import MultiTaskSAC

    with pytest.raises(ValueError, match=words):
        MultiTaskSAC(**{"network": MultiHeadMLP([4]), name: value})


def test_critics_may_have_a_network_of_their_own():
    config = compose_config([*TOY, "critic_network=multi_head", "agent.critic_network.hidden_sizes=[5,4]"])
    agent = config.make_agent()
    agent.setup(Setting([0], 3, 6, 2, make_combiner=config.make_combiner))
    assert agent.actor.views["actor.trunk.0.weight"].shape == (1, 16, 9)
    assert agent.critic.views["critic1.trunk.1.weight"].shape == (1, 4, 5)
    assert set(agent.needs(config.setting())) >= {"network", "critic_network"}
    assert config.choices["critic_network"] == "multi_head"


OLD = {
    "warmup_steps": ("agent.warmup_steps", 7),
    "batch_size_per_task": ("agent.batch_size_per_task", 8),
    "capacity_per_task": ("agent.capacity_per_task", 90),
    "updates_per_step": ("agent.updates_per_step", 2),
    "agent.hidden_sizes": ("agent.network.hidden_sizes", [5, 6]),
    "agent.layer_norm": ("agent.network.layer_norm", True),
}


def written(overrides) -> list[str]:
    return [f"{key}={str(value).replace(' ', '')}" for key, value in overrides]


def test_settings_by_their_old_names():
    old = compose_config(["env=toy", *written((key, value) for key, (_, value) in OLD.items())])
    new = compose_config(["env=toy", *written(OLD.values())])
    assert old == new
    agent = old.make_agent()
    assert (agent.warmup_steps, agent.network.hidden_sizes, agent.network.layer_norm) == (7, [5, 6], True)


ARGUMENTS = [*TOY, "combiner=ls", "steps_per_task=100"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "run"
    return train_here(*ARGUMENTS, "critic.combiner=cagrad", "critic.combiner.c=0.3", f"run_dir={folder}")


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def made_old(run: Path) -> None:
    """As the version before wrote its settings and its best weights."""
    stored = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    agent, network = stored["agent"], stored["agent"].pop("network")
    for name in ("_target_", "critic_network", "weight_decay", "clip"):
        del agent[name]
    for key in ("warmup_steps", "batch_size_per_task", "capacity_per_task", "updates_per_step"):
        stored[key] = agent.pop(key)
    agent |= {"hidden_sizes": network["hidden_sizes"], "layer_norm": network["layer_norm"]}
    del stored["choices"]["network"]
    stored.pop("combiners")
    OmegaConf.save(stored, run / "config.yaml")
    best = read_file(run / "checkpoints" / "best.pt")
    write_file(run / "checkpoints" / "best.pt", {**best, "actor": best.pop("policy")["params"]})


def test_runs_of_the_version_before_go_on(tmp_path):
    import numpy as np

    run, again = (train_here(*ARGUMENTS, f"run_dir={tmp_path / name}") for name in ("one", "two"))
    expected = load_policy(run)(np.zeros(6), "direct")
    made_old(run)
    assert np.array_equal(load_policy(run)(np.zeros(6), "direct"), expected)
    (section,) = sections([read_run(run, []), read_run(again, [])], None, [])
    assert section.labels == ("LS",)  # one method
    longer = ["steps_per_task=200", "batch_size_per_task=8", "agent.hidden_sizes=[16]"]
    assert main([f"resume={run}", *longer]) == 0
    assert main([f"resume={again}", *longer]) == 0
    assert records(run, "metrics") == records(again, "metrics")
    assert main([*ARGUMENTS, "steps_per_task=200", f"run_dir={run}", "resume=auto"]) == 0
    with pytest.raises(ConfigError, match=r"agent\.batch_size_per_task=9: cannot change on resume, the run has 8"):
        resume_config(str(run), ["batch_size_per_task=9"])


def test_networks_may_have_combiners_of_their_own(finished):
    config = compose_config([*ARGUMENTS, "critic.combiner=cagrad", "critic.combiner.c=0.3"])
    agent = config.make_agent()
    agent.setup(config.setting())
    assert [type(each).__name__ for each in agent.combiners] == ["CAGrad", "LS"]
    assert agent.critic.combiner.c == 0.3
    line = records(finished, "metrics")[-1]
    assert "combiner/critic/cosine" in line
    assert "combiner/actor/cosine" not in line  # LS builds no Jacobian


def test_a_combiner_of_ones_own_beside_another():
    both = ["critic.combiner=cagrad", "actor.combiner=conicgrad", "actor.combiner.c=0.4", "combiner=pcgrad"]
    config = compose_config([*TOY, *both])
    assert isinstance(config.make_combiner("critic"), CAGrad)
    assert isinstance(config.make_combiner("actor"), ConicGrad)
    assert config.choices["actor.combiner"] == "conicgrad"
    assert isinstance(config, TrainConfig)


def test_combiners_of_single_networks_are_part_of_the_run(run, tmp_path):
    same = ["critic.combiner=cagrad", "critic.combiner.c=0.3"]
    assert resume_config(str(run), same).combiners["critic"]["c"] == 0.3
    for other, has in (("critic.combiner=ls", "cagrad"), ("combiners.critic.c=0.4", "0.3")):
        with pytest.raises(ConfigError, match=f"cannot change on resume, the run has {has}"):
            resume_config(str(run), [other])
    with pytest.raises(ConfigError, match="cannot change on resume"):
        resume_config(str(run), ["actor.combiner=ls"])
    assert main([*ARGUMENTS, *same, f"run_dir={run}", "resume=auto"]) == 0
    assert main([*ARGUMENTS, f"run_dir={run}", "resume=auto"]) == 2
    runs = [read_run(run, [])]
    for name, more in (("other", []), ("narrow", ["critic.combiner=cagrad", "critic.combiner.c=0.1"])):
        shutil.copytree(run, tmp_path / name)
        config = compose_config([*ARGUMENTS, *more])
        OmegaConf.save(OmegaConf.structured(config), tmp_path / name / "config.yaml")
        runs.append(read_run(tmp_path / name, []))
    (section,) = sections(runs, None, [])
    wanted = ["LS", "LS, critic CAGrad critic.combiner.c=0.1", "LS, critic CAGrad critic.combiner.c=0.3"]
    assert sorted(section.labels) == wanted


def test_sweeps_over_the_combiners_of_a_network(tmp_path, capsys):
    toy = [each for each in TOY if not each.startswith("warmup_steps")]
    arguments = ["-m", *toy, "combiner=ls", "steps_per_task=50", "critic.combiner=cagrad,pcgrad", "agent.tau=0.01"]
    assert main([*arguments, "warmup_steps=10,20", f"hydra.sweep.dir={tmp_path / 'sweep'}"]) == 0
    folders = {path.parent.name: OmegaConf.load(path) for path in (tmp_path / "sweep").rglob("config.yaml")}
    assert "critic.combiner=pcgrad,agent.warmup_steps=10,combiner=ls" in folders
    configs = list(folders.values())
    found = {(each.choices["critic.combiner"], each.agent.warmup_steps) for each in configs}
    assert found == {(name, steps) for name in ("cagrad", "pcgrad") for steps in (10, 20)}
    assert main([*arguments, "warmup_steps=10,20", f"hydra.sweep.dir={tmp_path / 'sweep'}"]) == 0
    assert "4 of them complete" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ImportError("a package is missing"), ZeroDivisionError("by 0"), KeyError("power")])
def test_whatever_a_constructor_raises_becomes_one_line(error, monkeypatch):
    class Broken(Combiner):
        def __init__(self, power=1.0):
            raise error

    monkeypatch.setattr("mtrl_conic.combiners.ls.Broken", Broken, raising=False)
    with pytest.raises(ConfigError, match=r"^combiner: \S.*$"):
        build({"_target_": "mtrl_conic.combiners.ls.Broken", "power": 2.0}, Combiner, "combiner")


@pytest.mark.parametrize(
    ("overrides", "advice"),
    [
        (["experiment=cpu", "agent=paco"], "experiment=cpu sets it, ~agent.network.layer_norm leaves it out"),
        (["experiment=[smoke,cpu]", "agent=paco"], "experiment=cpu sets it"),
        (["experiment=cpu", "network=paco"], "experiment=cpu sets it"),
        (["experiment=mine", "combiner=pcgrad"], "experiment=mine sets it, ~combiner.c leaves it out"),
        (["experiment=cpu", "agent=paco", "++agent.network.layer_norm=true"], None),
        (["experiment=cpu", "+agent.network={foo: 3}"], None),
        (["experiment=cpu", "combiner=mine"], None),
    ],
)
def test_what_an_experiment_sets_for_another_choice_is_named_with_it(overrides, advice, tmp_path):
    for name, text in {
        "experiment/mine": "combiner:\n  c: 0.5",
        "combiner/mine": "defaults: [conicgrad]\nfoo: 1",
    }.items():
        (tmp_path / name).parent.mkdir()
        text = f"# @package _global_\n{text}" if name.startswith("experiment") else text
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(ConfigError, match="has no such setting") as caught:
        compose_config(overrides, [str(tmp_path)])
    line = str(caught.value)
    assert (advice in line) if advice else ("sets it" not in line), line


def test_a_setting_that_is_not_there_can_be_sent_to_another_process():
    sent = pickle.loads(pickle.dumps(UnknownSettingError("a.b: there is no b", "a.b")))
    assert (str(sent), sent.key) == ("a.b: there is no b", "a.b")
