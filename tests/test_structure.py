"""The rooms of the package: imports go one way, nothing is long, and few modules stand outside of a room."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "mtrl_conic"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.parts)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms that a module imports from, its own aside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    rooms = {name.split(".")[1] for name in found if name.startswith("mtrl_conic.")}
    return rooms - {room(path), "__version__"}


def test_rooms_import_one_way():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        if path.parent == PACKAGE and path.name == "__init__.py":
            continue  # hands out public names, when asked for
        graph.setdefault(room(path), set()).update(imports(path))
    order = list(TopologicalSorter(graph).static_order())  # a CycleError names the circle
    assert {"train", "evaluate", "sweep"} <= set(order)


def test_what_agents_share_knows_no_agent():
    for path in FILES:
        if room(path) in {"envs", "networks", "combiners", "gradients", "system"}:
            assert not imports(path) & {"agents", "settings", "runs"}, path
        if room(path) == "runs":
            assert "agents" not in imports(path), path


def test_modules_are_short_and_few_are_outside_of_rooms():
    assert not [str(path) for path in FILES if len(path.read_text().splitlines()) > 300]
    assert len(list(PACKAGE.glob("*.py"))) <= 6
