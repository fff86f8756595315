"""The benchmark command: what it accepts and what it writes. What it measures is not asserted."""

import json

import pytest
import torch

from mtrl_conic.benchmark import growth, networks, peers
from mtrl_conic.benchmark.__main__ import main
from mtrl_conic.settings.compose import compose_config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speed"], ["speed", "updates", "envs", "networks"]),
        (["updates", "combiners=ls,nope"], ["combiners=ls,nope", "conicgrad"]),
        (["updates", "rounds=0"], ["rounds=0", "at least 1"]),
        (["loop", "seeds=1,none"], ["seeds=1,none"]),
        (["loop", "combiner=nope"], ["combiner=nope", "conicgrad"]),
        (["loop", "device=tpu"], ["tpu", "cpu", "cuda"]),
        (["loop", "seeds=0"], ["seeds=0", "1,10"]),
        (["updates", "matmul_precision=low"], ["low", "highest", "medium"]),
        (["networks", "sizes=6,7"], ["sizes=6,7", "6, 25, 34"]),
        (["updates", "env=mt11"], ["mt11", "mt10"]),
        (["networks", "picture=/nonexistent/x.png"], ["picture=/nonexistent"]),
        (["updates", "json=/nonexistent/x.json"], ["json=/nonexistent"]),
        (["envs", "env=toy"], ["env=toy", "mt10"]),
        (["env=toy"], ["env=toy", "mt10"]),
        (["updates", "experiment=nope"], ["experiment=nope", "fast"]),
        (["agents", "agents=mtmhsac,nope"], ["agents=mtmhsac,nope", "soft_modularization"]),
        (["updates", "agents=mtmhsac,stl"], ["agents=mtmhsac,stl", "only with agents"]),
        (["envs", "experiment=fast"], ["experiment=fast", "updates", "command"]),
        (["agents", "experiment=cpu"], ["experiment=cpu", "only with updates"]),
        (["agents", "loop", "experiment=cpu"], ["experiment=cpu", "not with agents"]),
        (["agents", "combiner=pcgrad"], ["combiner=pcgrad", "only with loop"]),
        (["envs", "combiners=ls,pcgrad"], ["combiners=ls,pcgrad", "only with updates"]),
        (["loop", "experiment=fast", "env=toy"], ["env.horizon=200", "50"]),
        (["command", "steps=0"], ["steps=0", "at least 1"]),
        (["loop", "steps=100"], ["steps=100", "command"]),
        (["updates", "--rounds=3"], ["--rounds", "key=value"]),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line


def test_updates_are_written_with_their_provenance(tmp_path, capsys):
    path, names = tmp_path / "speed.json", "ls,famo,nashmtl"
    assert main(["updates", "env=toy", f"combiners={names}", "rounds=1", f"json={path}"]) == 0
    results = json.loads(path.read_text())
    assert set(results["updates"][0]["milliseconds"]) == {"ls", "famo", "nashmtl", "matrix products"}
    assert results["provenance"]["versions"]["torch"]
    assert "nashmtl" in capsys.readouterr().out


def test_networks_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "WIDTHS", {6: 16, 25: 24})
    rows = [networks.measure(name, size, 1) for size in (6, 25) for name in ("ls", "famo", "conicgrad")]
    assert [row["parameters"] for row in rows[::3]] == [128 * 16 + 16 + 2 * 17 * 16, 128 * 24 + 24 + 2 * 25 * 24]
    assert all(row["seconds"] > 0 and row["peak_gib"] > 0 for row in rows)
    networks.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_peers_make_the_same_update():
    """With the mean loss and with ten backward passes the plain agent gets the same gradients."""
    config = compose_config(["env=toy", "combiner=ls", "agent.max_grad_norm=1e9"])
    sizes = (3, 6, 2)
    replay = peers.filled_replay(config, sizes)
    batch = replay.sample(16)
    agents = []
    for fill in (peers.mean_loss(), peers.backward_per_task(config, sizes[0]), peers.torchjd_backward("Mean")):
        torch.manual_seed(0)
        agents.append(peers.PlainSAC(config, sizes, fill))
        agents[-1].update(batch)
    for other in agents[1:]:
        for one, two in zip(agents[0].critics.parameters(), other.critics.parameters(), strict=True):
            if other is agents[1] or one.shape[0] > 1:  # TorchJD gives heads the gradient of the sum
                torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_loop_is_measured_for_each_number_of_seeds(tmp_path, capsys):
    path = tmp_path / "loop.json"
    arguments = ["env=toy", "combiner=ls", "seeds=1,2", "rounds=1", f"json={path}"]
    assert main(["loop", *arguments]) == 0
    rows = json.loads(path.read_text())["loop"]
    assert [row["seeds"] for row in rows] == [1, 2]
    assert all(0 < row["evaluation_share"] < 1 and row["peak_gib"] > 0.05 for row in rows)
    assert rows[0]["full_length_hours"] > 2e6 * rows[0]["loop"] / 3.6e6  # evaluations come on top
    assert "evaluation" in capsys.readouterr().out


@pytest.mark.slow
def test_growth_changes_one_thing_at_a_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "DEFAULT", {"tasks": 2, "seeds": 1, "batch": 4, "width": 8})
    monkeypatch.setattr(growth, "VALUES", {"tasks": (2, 3), "seeds": (2,), "batch": (8,), "width": (16,)})
    path = tmp_path / "growth.json"
    assert main(["growth", "env=toy", "rounds=1", f"json={path}"]) == 0
    rows = json.loads(path.read_text())["growth"]
    assert [row["varied"] for row in rows] == ["tasks", "tasks", "seeds", "batch", "width"]
    assert all(set(row["milliseconds"]) == {"ls", "conicgrad", "matrix products"} for row in rows)
    assert "tasks 3" in capsys.readouterr().out


def test_profile_names_the_operators(tmp_path, capsys):
    path = tmp_path / "profile.json"
    assert main(["profile", "env=toy", "rounds=2", f"json={path}"]) == 0
    ls, conicgrad = json.loads(path.read_text())["profile"]
    operators = {row["operator"] for row in conicgrad["operators"]}
    assert {"aten::bmm", "aten::baddbmm"} <= operators
    assert sum(row["milliseconds"] for row in ls["operators"]) > 0
    assert "conicgrad" in capsys.readouterr().out
