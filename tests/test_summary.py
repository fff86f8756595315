"""What a run prints at its start and end."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import TOY

from mtrl_conic.runs.table import success_table
from mtrl_conic.train import main

RUN = [*TOY, "combiner=ls", "seeds=[3,1]", "steps_per_task=150", "env.workers=0"]


def test_what_a_run_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [*RUN, "run_dir=a run", "resume=auto"]
    assert main(command) == 0
    begin, _, end = capsys.readouterr().out.partition("\n\n")
    assert begin.startswith("run folder: a run\nstarting: goals are drawn, 6 environments built in this process ...\n")
    assert "at step 0 of 150\n" in begin
    lines = [json.loads(line) for line in Path("a run/evaluations.jsonl").read_text().splitlines()][-2:]
    table, _, rest = end.partition("\n\n")
    assert table == f"last evaluation: step 150, 2 episodes per task and seed\n{success_table(lines)}".rstrip()
    assert rest.startswith("best weights: a run/checkpoints/best.pt (step ")
    assert "\n  python -m mtrl_conic.evaluate 'run=a run'\n" in rest
    assert "\n  python -m mtrl_conic.report 'runs=a run' 'out=a run/report'\n" in rest
    assert rest.endswith("\n  tensorboard --logdir 'a run/tensorboard'\n")
    assert main(command) == 0
    assert capsys.readouterr().out == "complete: a run\n"


def test_no_summary(tmp_path, capsys):
    assert main([*RUN, f"run_dir={tmp_path / 'whole'}", "--no-summary"]) == 0
    assert "\n\n" not in capsys.readouterr().out
    assert main([*RUN, f"run_dir={tmp_path / 'cut'}", "max_wall_seconds=1e-3"]) == 0
    captured = capsys.readouterr()
    assert "\n\n" not in captured.out
    assert "continue with resume=" in captured.err


def evaluation(seed: int, rates: dict[str, float]) -> dict:
    returns = dict.fromkeys(rates, 10.0 * seed)
    return {"seed": seed, "success": rates, "return": returns, "success_rate": sum(rates.values()) / len(rates)}


def test_a_column_per_seed_while_they_are_few():
    first = evaluation(0, {"push-v3": 0.5, "a": 1.0})
    second = evaluation(7, {"push-v3": 1.0, "a": 1.0})
    assert success_table([first]).splitlines() == [
        "success rate    seed 0    return",
        "push-v3           0.50       0.0",
        "a                 1.00       0.0",
        "mean             0.750",
    ]
    assert success_table([first, second]).splitlines()[:2] == [
        "success rate    seed 0    seed 7      mean    return",
        "push-v3           0.50      1.00      0.75      35.0",
    ]
    many = [evaluation(seed, {"push-v3": seed / 5}) for seed in range(6)]
    assert success_table(many).splitlines() == [
        "success rate      mean    ± s.e.    return",
        "push-v3           0.50      0.15      25.0",
        "mean             0.500     0.153",
    ]
