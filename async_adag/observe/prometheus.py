"""`stats` for Prometheus: a collector for ``prometheus_client`` (``pip install 'async-adag[prometheus]'``).

Nothing is counted for it: the figures are read when Prometheus asks.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from async_adag.errors import AdagError
from async_adag.observe.stats import Stats


class HasStats(Protocol):
    """A compiled graph."""

    def stats(self) -> Stats:
        """See `CompiledGraph.stats`."""


_COUNTERS = {
    "executions": "Executions that were admitted.",
    "waits": "Times that a caller had to wait for a place.",
    "written_bytes": "Bytes of payload written to channels, by the driver and all actors.",
    "parked": "Times that an actor's loop, or a thread that waits for a result, went to sleep.",
    "busy_poll_hits": "Times that one got its news while busy-polling instead.",
}
_GAUGES = {
    "in_flight": "Executions in flight.",
    "waiting": "Callers in line for a place.",
}
_NODE = ["graph", "node", "method", "actor"]


class GraphCollector:
    """The figures of any number of graphs: ``REGISTRY.register(GraphCollector({"decode": compiled}))``.

    One collector for all graphs of a process, as names of metrics are there once in a registry. It holds graphs
    weakly: one that is dropped is torn down as ever, and its figures are gone.

    Args:
        graphs: by what is to be the label ``graph``.

    Raises:
        ImportError: prometheus_client is not installed; says what to do.
    """

    def __init__(self, graphs: Mapping[str, HasStats] | None = None) -> None:
        try:
            import prometheus_client.core
        except ImportError as error:
            raise ImportError(
                "a collector for Prometheus needs prometheus_client: pip install 'async-adag[prometheus]'"
            ) from error
        self._families = prometheus_client.core
        self._graphs: weakref.WeakValueDictionary[str, HasStats] = weakref.WeakValueDictionary(graphs or {})

    def add(self, name: str, graph: HasStats) -> None:
        """Have the figures of one more graph collected.

        Raises:
            ValueError: the name is another graph's.
        """
        if self._graphs.get(name, graph) is not graph:
            raise ValueError(f"there is a graph named {name!r} already: choose another name, or remove that one")
        self._graphs[name] = graph

    def remove(self, name: str) -> None:
        """Leave a graph out from now on; harmless where there is none of that name."""
        self._graphs.pop(name, None)

    def collect(self) -> Iterable[Any]:
        """What prometheus_client asks for."""
        counter, gauge = self._families.CounterMetricFamily, self._families.GaugeMetricFamily
        counters = {
            name: counter(f"async_adag_{name}", text, labels=["graph"]) for name, text in _COUNTERS.items()
        }
        gauges = {name: gauge(f"async_adag_{name}", text, labels=["graph"]) for name, text in _GAUGES.items()}
        calls = counter("async_adag_node_calls", "Calls of a node that have ended.", labels=_NODE)
        seconds = counter("async_adag_node_seconds", "Seconds that they took.", labels=_NODE)
        for name, graph in sorted(self._graphs.items()):
            try:
                stats = graph.stats()
            except AdagError:
                continue  # of a process that this one was forked from
            for field, family in [*counters.items(), *gauges.items()]:
                family.add_metric([name], stats.bytes if field == "written_bytes" else getattr(stats, field))
            for node in stats.nodes:
                labels = [name, str(node.number), node.method, node.actor]
                calls.add_metric(labels, node.calls)
                seconds.add_metric(labels, node.seconds)
        return [*counters.values(), *gauges.values(), calls, seconds]
