"""Graphs written by hand, as `read_dag` would give them."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.graphs import GraphMaker, build_graph

settings.register_profile("same-each-time", derandomize=True, deadline=None)
settings.load_profile("same-each-time")


@pytest.fixture(scope="session")
def make_graph() -> GraphMaker:
    return build_graph
