"""Graphs without Ray: two actors that take the same input, and both of whose results are outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from async_adag.graph.model import FromInput, FromNode
from tests.graphs import build_graph
from tests.stage import Stage

settings.register_profile("same-each-time", derandomize=True, deadline=None)
settings.load_profile("same-each-time")


def two_parts() -> Any:
    whole = FromInput(None)
    return build_graph((0, [whole]), (1, [whole]), outputs=[FromNode(0), FromNode(1)])


def one_part() -> Any:
    return build_graph((0, [FromInput(None)]), outputs=[FromNode(0)])


@pytest.fixture
def make_stage() -> Iterator[Callable[..., Stage]]:
    """Makes stages with one or two parts, and closes them."""
    made: list[Stage] = []

    def make(parts: int = 2, **options: Any) -> Stage:
        made.append(Stage(one_part() if parts == 1 else two_parts(), **options))
        return made[-1]

    yield make
    for stage in made:
        stage.close()
