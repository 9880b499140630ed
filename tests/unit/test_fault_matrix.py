"""The fault matrix of docs/reliability.md cites tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()
FILES = {  # what is not the namesake of its key, or is one of several
    "death": "test_actor_death.py",
    "operations": "test_death_at_any_operation.py",
    "driver": "test_driver_death.py",
    "spoiled": "test_spoiled_memory.py",
    "false": "test_false_drivers.py",
    "engine": "engine/test_model.py",
    "model": "integration/test_model.py",
    "limits": "faults/test_limits.py",
    "capacity": "integration/test_capacity.py",
    "errors": "integration/test_errors.py",
    "hosts_edges": "hosts/test_edges.py",
    "hosts_faults": "hosts/test_faults.py",
    "lifecycle": "integration/test_lifecycle.py",
}


def text_of(key: str) -> str:
    name = FILES.get(key, f"test_{key}.py")
    (path,) = TESTS.rglob(name) if "/" not in name else [TESTS / name]
    return path.read_text()


def test_every_test_that_the_matrix_cites_exists():
    cited = re.findall(r"`(\w+)::(\w+)`", PAGE)
    assert len(cited) > 120
    for key, name in cited:
        defined = rf"^{name} = " if name.startswith("Test") else rf"^(async )?def test_{name}\("
        assert re.search(defined, text_of(key), re.MULTILINE), f"{key}::{name}"


def test_every_file_that_it_names_exists():
    for path in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (TESTS.parent / path).exists(), path
