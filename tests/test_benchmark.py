"""The benchmark command: what it accepts and what it writes. What it measures is not asserted."""

import json

import pytest
import torch

from mtrl_conic.benchmark import networks, peers
from mtrl_conic.benchmark.__main__ import main
from mtrl_conic.benchmark.loop import benchmark_loop
from mtrl_conic.benchmark.updates import filled_replay
from mtrl_conic.compose import compose_config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speed"], ["speed", "updates", "envs", "networks"]),
        (["updates", "--combiners", "ls,nope"], ["'nope'", "conicgrad"]),
        (["updates", "--rounds", "0"], ["--rounds 0", "at least 1"]),
        (["loop", "--seeds", "1,none"], ["--seeds", "1,none"]),
        (["loop", "--combiner", "nope"], ["'nope'", "conicgrad"]),
        (["loop", "--device", "tpu"], ["tpu", "cpu", "cuda"]),
        (["networks", "--sizes", "6,7"], ["--sizes 7", "6, 25, 34"]),
        (["updates", "--env", "mt11"], ["mt11", "mt10"]),
        (["networks", "--picture", "/nonexistent/x.png"], ["--picture", "/nonexistent"]),
        (["updates", "--json", "/nonexistent/x.json"], ["--json", "/nonexistent"]),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert all(word in line for word in words), line


def test_updates_are_written_with_their_provenance(tmp_path, capsys):
    path, names = tmp_path / "speed.json", "ls,famo,nashmtl"
    assert main(["updates", "--env", "toy", "--combiners", names, "--rounds", "1", "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    assert set(results["updates"]["milliseconds"]) == {"ls", "famo", "nashmtl", "matrix products"}
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
    sizes, replay = filled_replay(config)
    batch = replay.sample(16)
    agents = []
    for fill in (peers.mean_loss(), peers.backward_a_task(config, sizes[0]), peers.torchjd_backward("Mean")):
        torch.manual_seed(0)
        agents.append(peers.PlainSAC(config, sizes, fill))
        agents[-1].update(batch)
    for other in agents[1:]:
        for one, two in zip(agents[0].critics.parameters(), other.critics.parameters(), strict=True):
            if other is agents[1] or one.shape[0] > 1:  # TorchJD gives heads the gradient of the sum
                torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)


def test_loop_is_measured(capsys):
    (row,) = benchmark_loop("ls", "toy", [2], 1, "cpu")
    assert row["seeds"] == 2
    assert row["loop"] > 0
    assert 0 < row["evaluation_share"] < 1
    assert "evaluation" in capsys.readouterr().out
