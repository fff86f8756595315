"""What lies in docs/results can be used."""

from __future__ import annotations

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
