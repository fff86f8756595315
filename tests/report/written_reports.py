"""Reports made in this process, and what they say."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from mtrl_conic.report.__main__ import main


def table(folder: Path, name: str = "table") -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def report(runs: object, out: Path, *more: str) -> str:
    assert main([f"runs={runs}", f"out={out}", *more]) == 0
    return (out / "index.html").read_text()


def notes(page: str) -> list[str]:
    box = re.search(r'<aside class="notes".*?</aside>', page, re.DOTALL)
    return re.findall(r"<li>(.*?)</li>", box[0]) if box else []
