"""The files that the pages name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.interpreted(reason="the sources are where pages say only in a checkout")

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ONES_OF_THE_READERS = {"summary.py", "first.py", "many.py", "serve.py", "conftest.py"}  # in the tutorial


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page):
    for name in re.findall(r"`([\w/]+\.py|[\w/]+/)`", page.read_text(encoding="utf-8")):
        if name not in ONES_OF_THE_READERS and not name.startswith("build/"):
            folders = (ROOT / folder for folder in ("async_adag", "tests", "examples", "benchmarks"))
            found = (ROOT / name).exists() or any(any(folder.rglob(name)) for folder in folders)
            assert found, f"{page.name} names {name}"
