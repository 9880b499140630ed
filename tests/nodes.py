"""A Ray of several nodes on one machine, each a host of its own: its actors share no memory with others'."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import ray
from ray.actor import ActorClass
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@contextmanager
def several_nodes(count: int, **options: Any) -> Iterator[Cluster]:
    """A Ray of ``count`` nodes, with this process connected to the first. ``options`` are `ray.init`'s."""
    cluster = Cluster(initialize_head=True, head_node_args=node(0))
    try:
        for number in range(1, count):
            cluster.add_node(**node(number))
        ray.init(address=cluster.address, **options)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def node(number: int) -> dict[str, Any]:
    """The options of the node of this number."""
    return {"num_cpus": 2, "include_dashboard": False, "resources": {host(number): 1000.0}}


def host(number: int) -> str:
    """A resource that only the node of this number has."""
    return f"host{number}"


def on(number: int) -> dict[str, Any]:
    """The options of an actor that is to live on the node of this number."""
    return {"resources": {host(number): 0.001}}


@contextmanager
def spread(nodes: list[str]) -> Iterator[None]:
    """Actors that say nothing of where they want to be go to these nodes in turn, by id."""
    turn = itertools.cycle(nodes)
    plain = ActorClass._remote

    def remote(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        told = self._default_options.keys() | {key for key, value in options.items() if value is not None}
        if not told & {"scheduling_strategy", "resources", "num_gpus"}:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(next(turn), soft=False)
        return plain(self, args, kwargs, **options)

    with mock.patch.object(ActorClass, "_remote", remote):
        yield
