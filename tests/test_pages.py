"""The prose of README and pages: wrapped, and its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "docs" / "results" / "README.md"]
WIDTH = 100


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is no table, picture, heading or code."""
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        if not code and not line.lstrip().startswith(("|", "![", "#", "```")):
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_wrapped_and_its_links_lead_somewhere(page):
    # a long link or piece of code may stand alone in its line
    assert not [number for number, line in prose(page) if len(line) > WIDTH and len(line.split("](")[0].split()) > 3]
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target
