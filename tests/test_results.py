"""What lies in docs/results can be used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import torch

from mtrl_conic.envs import metaworld
from mtrl_conic.envs.evaluation import evaluate
from mtrl_conic.envs.vector import VectorEnv
from mtrl_conic.policies.policy import load_policy

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
POLICY = RESULTS / "mt10_fast" / "ls" / "seed_0"


def test_the_policy_of_the_first_picture_solves_tasks():
    policy = load_policy(POLICY)
    assert policy.step == 500_000
    tasks = ["drawer-open-v3", "window-close-v3"]

    def act(observation):
        actions = [policy(observation[0, number].numpy(), task) for number, task in enumerate(tasks)]
        return torch.from_numpy(np.stack(actions)).unsqueeze(0)

    with VectorEnv(metaworld.make_spec(tasks), [0], 2, workers=0, goals="in_turn") as envs:
        assert evaluate(act, envs, episodes=2).success_rate.tolist() == [[1.0, 1.0]]


def test_the_readme_says_where_it_is_and_how_large():
    text = (ROOT / "README.md").read_text()
    assert str(POLICY.relative_to(ROOT)) in text
    megabytes = float(re.search(r"\(([\d.]+) MB\)", text)[1])
    assert abs((POLICY / "checkpoints" / "best.pt").stat().st_size / 1e6 - megabytes) < 0.05


def test_records_name_no_machine():
    for path in RESULTS.rglob("*"):
        if path.suffix in (".yaml", ".json", ".jsonl"):
            assert not re.search(r"/(tmp|home|root|work)/", path.read_text()), path


def _tables():
    """The rows of docs/results/README.md that are named by a folder of records, with the table's head."""
    folder, head = None, []
    for line in (RESULTS / "README.md").read_text().splitlines():
        if line.startswith("## "):
            found = re.search(r"`(\w+)/`", line)
            folder = RESULTS / found[1] if found else None
        if not line.startswith("|"):
            head = []
            continue
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        head = head or cells
        row = first.strip("`").replace(" ", "_")
        if folder and row and (folder / row).is_dir():
            yield folder / row, head, cells


def _recorded(folder):
    """Success by thousands of steps: one number for each seed."""
    found = {}
    for path in folder.rglob("evaluations.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            found.setdefault(round(record["step"] / 1000), []).append(record["success_rate"])
    return found


def test_tables_are_those_of_the_records():
    checked = 0
    for folder, head, cells in _tables():
        recorded = _recorded(folder)
        for name, cell in zip(head, cells, strict=True):
            at = re.search(r"(\d+)k", cell) or re.fullmatch(r"(\d+)k", name)
            written = re.match(r"([\d.]+)(?: ± ([\d.]+))?", cell)
            if at is None or written is None:
                continue
            where = f"{folder.name} at {at[0]}"
            assert int(at[1]) in recorded, where
            seeds = recorded[int(at[1])]
            assert abs(np.mean(seeds) - float(written[1])) < 0.0051, where
            if written[2]:
                error = np.std(seeds, ddof=1) / np.sqrt(len(seeds))
                assert abs(error - float(written[2])) < 0.0051, where
            checked += 1
    assert checked > 150
