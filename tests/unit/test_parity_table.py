"""The table of docs/parity.md cites tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = (TESTS.parent / "docs" / "parity.md").read_text()


def test_every_test_that_the_table_cites_exists():
    cited = re.findall(r"`((?:\w+/)?test_\w+\.py)(?:::(\w+))?`", TABLE)
    assert len(cited) > 200
    for file, name in cited:
        path = TESTS / (file if "/" in file else f"integration/{file}")
        assert path.exists(), file
        assert not name or re.search(rf"def {name}\b", path.read_text()), f"{file}::{name}"
