"""docs/examples, run with shorter trainings."""

from __future__ import annotations

import runpy
from pathlib import Path

from conftest import TOY

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"


def test_compare(tmp_path, capsys):
    example = runpy.run_path(str(EXAMPLES / "compare.py"))
    small = dict(setting.split("=", 1) for setting in TOY if not setting.startswith("env="))
    for _ in range(2):  # what is complete is left as it is
        example["train"](tmp_path, **small | {"steps_per_task": 100})
    assert capsys.readouterr().out.count("complete: ") == 2
    example["compare"](tmp_path)
    example["watch"](tmp_path / "conicgrad")
    out = capsys.readouterr().out
    for word in ("conicgrad", "ls", "step", "100", "direct", "mirrored", "damped", "the goal"):
        assert word in out
    assert out.count("return") == 3
