"""A second node for a while: a host of its own, whose actors share no memory with those of the first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.actors import AsyncWorker, Worker
from tests.nodes import node, on


@pytest.fixture(scope="module")
def second(request: pytest.FixtureRequest, nodes: Cluster) -> Iterator[Any]:
    """The second node."""
    if request.config.getoption("--hosts") > 1:
        yield None
        return
    made = nodes.add_node(**node(1))
    yield made
    nodes.remove_node(made)


@pytest.fixture(scope="module")
def here(nodes: Cluster) -> Iterator[list[Any]]:
    """Two synchronous actors on the driver's node, and an asynchronous one."""
    yield from _actors(0)


@pytest.fixture(scope="module")
def there(second: Any) -> Iterator[list[Any]]:
    """Two synchronous actors on the second node, and an asynchronous one."""
    yield from _actors(1)


def _actors(number: int) -> Iterator[list[Any]]:
    where = on(number)
    made = [
        Worker.options(**where).remote(),
        Worker.options(**where).remote(),
        AsyncWorker.options(**where).remote(),
    ]
    yield made
    for actor in made:
        ray.kill(actor)
