"""Every example is listed in the README and run by ``nox -s examples``, where the packages are that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = {"side_by_side", "tiny_transformer"}  # of other examples
EXAMPLES = {path.stem for path in (ROOT / "examples").glob("*.py")} - PARTS


def test_there_are_examples():
    assert {"quickstart", "web_service", "llm_service"} <= EXAMPLES


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_is_run_and_listed(name):
    assert f'"{name}": [' in (ROOT / "noxfile.py").read_text()
    assert f"(examples/{name}.py)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_belongs_to_an_example(part):
    assert any(f"from {part} import" in (ROOT / "examples" / f"{name}.py").read_text() for name in EXAMPLES)
