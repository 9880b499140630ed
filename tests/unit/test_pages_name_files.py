"""The files that the pages name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ONES_OF_THE_READERS = {"summary.py", "first.py", "many.py", "serve.py", "conftest.py"}  # in the tutorial


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page):
    for name in re.findall(r"`([\w/]+\.py|[\w/]+/)`", page.read_text(encoding="utf-8")):
        if name not in ONES_OF_THE_READERS:
            places = [ROOT, ROOT / "async_adag", ROOT / "tests", ROOT / "tests" / "integration", page.parent]
            found = any((place / name).exists() for place in places) or any((ROOT / "tests").rglob(name))
            assert found or any((ROOT / "async_adag").rglob(name)), f"{page.name} names {name}"
