"""Places: on which host each actor of a graph lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import ray

from async_adag.actor.ray_runtime import node_of
from async_adag.driver.inquiry import Inquiry
from async_adag.errors import GraphError
from async_adag.graph.model import Graph, Host


def find_places(graph: Graph, inquiry: Inquiry, apart: Mapping[str, int]) -> Graph:
    """The graph with `Graph.hosts`, where its processes live on several; else the same.

    Args:
        graph: the graph.
        inquiry: asks its actors, where there are several nodes.
        apart: actors that share no memory with others on their node, by id: a number for each.

    Raises:
        GraphError: as `Inquiry.ask`.
    """
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(addresses) < 2 and not apart:
        return graph
    here = ray.get_runtime_context().get_node_id()
    nodes: dict[int, str] = inquiry.ask(node_of, {actor.number: () for actor in graph.actors}, "where it lives")
    for actor in graph.actors:
        if nodes[actor.number] not in addresses:
            raise GraphError(f"the node of {actor} is dead, so the graph cannot be compiled")
    hosts = tuple(
        Host(nodes[actor.number], addresses[nodes[actor.number]], apart.get(actor.id, 0)) for actor in graph.actors
    )
    driver = Host(here, addresses[here])
    if all(host == driver for host in hosts):
        return graph
    return replace(graph, hosts=hosts, driver_host=driver)
