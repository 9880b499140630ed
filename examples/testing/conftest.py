"""Fixtures to copy: one Ray for the session, actors for the session, a graph for each test.

pytest-asyncio gives each test an event loop of its own, and runs it once for each kind that is listed here. A
graph may serve one loop after another, so one graph for the whole session would do as well; one for each test, at
some milliseconds, keeps what one test did from the next.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import ray
import uvloop
from my_graph import Speller, known_words

import async_adag


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Any]:  # noqa: ARG001 - pytest gives them by name
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One Ray, on this machine, whatever other Ray is around; its actors find the modules that are here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def speller(cluster: None) -> Speller:  # noqa: ARG001 - Ray has to be there
    """Actors that tests share: what a graph did to them ends with the graph."""
    return Speller.start(known_words())


@pytest_asyncio.fixture
async def graph(speller: Speller) -> AsyncIterator[async_adag.CompiledGraph]:
    """A graph of the test's own; what is in flight at its end is waited for, or abandoned if the test failed."""
    async with await async_adag.compile_async(speller.dag()) as compiled:
        yield compiled
