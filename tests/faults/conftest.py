"""Every test here needs Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from tests.actors import AsyncWorker, Worker


@pytest.fixture(autouse=True)
def _ray(cluster: str) -> None:
    pass


@pytest.fixture(scope="module")
def spares(cluster: str) -> Iterator[dict[Any, Any]]:
    """An actor of each kind for the next test that harms one: it starts while the test before that runs."""
    ready = {kind: kind.remote() for kind in (Worker, AsyncWorker)}
    yield ready
    for actor in ready.values():
        ray.kill(actor)


@pytest.fixture
def make_victim(spares: dict[Any, Any]) -> Iterator[Callable[..., Any]]:
    """As `make_actor`, for tests that take actors as they are; does not wait for one to start."""
    made = []

    def make(actor_class: Any = Worker) -> Any:
        made.append(spares[actor_class])
        spares[actor_class] = actor_class.remote()
        return made[-1]

    yield make
    for actor in made:
        ray.kill(actor)
