"""The benchmark command: what it accepts and what it writes. What it measures is not asserted."""

import json

import pytest

from mtrl_conic.benchmark import networks
from mtrl_conic.benchmark.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speed"], ["speed", "updates", "envs", "networks"]),
        (["updates", "--combiners", "ls,nope"], ["'nope'", "conicgrad"]),
        (["updates", "--rounds", "0"], ["--rounds 0", "at least 1"]),
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
