"""The rooms of the package: imports go downwards only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "mtrl_conic"

# A module may import from its own level's entry only where listed, and from all levels below.
LEVELS = [
    {"train", "evaluate", "report", "benchmark", "toy", "sweep"},
    {"multirun"},
    {"session"},
    {"continuation"},
    {"trainer", "run_folder", "policy", "video", "evaluation_record"},
    {"actors", "video_frames", "seed_watch"},
    {"compose", "arguments", "threads"},
    {"explain"},
    {"overrides"},
    {"config", "logging", "checkpoint", "metrics", "steps"},
    {"agent", "backward", "evaluation", "wandb_logging"},
    {"learner", "backward_input"},
    {"combiners", "losses", "replay", "transfer", "capture", "health", "optimizer"},
    {"jacobian", "products", "replicas"},
    {"networks", "envs"},
    {"runtime", "sealed", "event_files"},
    {"cores", "files", "console", "signals", "paths", "classes", "memory"},
    {"__init__"},
]
SIDEWAYS = {
    ("envs", "envs"),
    ("combiners", "combiners"),
    ("networks", "networks"),
    ("toy", "toy"),
    ("benchmark", "benchmark"),
    ("report", "report"),
    ("__init__", "backward"),  # only when a user asks the package for it
    ("__init__", "policy"),
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return next(index for index, names in enumerate(LEVELS) if name in names)


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "mtrl_conic":
                names = [f"mtrl_conic.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("mtrl_conic.")}
    return rooms


FILES = sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    here = room(path)
    for other in imported_rooms(path):
        assert level(here) < level(other) or (here, other) in SIDEWAYS, f"{here} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_envs_and_records_know_nothing_of_the_agent(path):
    if room(path) in {"envs", "replay", "logging", "checkpoint"}:
        assert not imported_rooms(path) & {"agent", "learner", "trainer", "combiners", "losses", "networks", "jacobian"}


def test_files_are_short():
    long = [str(path) for path in FILES if len(path.read_text().splitlines()) > 350]
    assert not long
