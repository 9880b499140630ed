"""A live view of a graph in the terminal, drawn by rich from what `stats` gives.

rich is imported here alone, and only when somebody watches: it comes with ``pip install 'async-adag[watch]'``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from async_adag.observe.shares import Shares, human_seconds, shares_between
from async_adag.observe.stats import Stats
from async_adag.observe.words import counted, human_size, printable

WINDOW = 1.0  # seconds that the figures are of
BAR = 20  # characters of a node that is busy all the time


@dataclass(frozen=True, slots=True)
class Row:
    """What is shown of a node.

    Attributes:
        node: method and number.
        actor: its actor; "" where that is the one of the row above.
        idle: the share of time in which the actor ran no method; "" likewise.
        rate: calls in a second.
        mean: what a call takes.
        busy: the share of time in which the node ran.
        bar: the same, drawn.
    """

    node: str
    actor: str
    idle: str
    rate: str
    mean: str
    busy: str
    bar: str


def headline(shares: Shares) -> str:
    """What is shown of the graph as a whole."""
    seconds = shares.seconds or 1.0
    written = human_size(round(shares.bytes / seconds))
    return (
        f"{shares.rate:,.0f} executions/s, {shares.in_flight} in flight, {counted(shares.waiting, 'caller')} in "
        f"line for a place\n{written}/s written, {shares.waits / seconds:,.0f} waits/s for "
        f"a place, {shares.parked / seconds:,.0f} sleeps/s"
    )


def rows_of(shares: Shares) -> list[Row]:
    """What is shown of the nodes: by actor, in the order of flow."""
    order = {actor: number for number, actor in enumerate(shares.idle)}
    rows: list[Row] = []
    before = None
    for node in sorted(shares.nodes, key=lambda node: (order[node.actor], node.number)):
        is_next = node.actor != before
        before = node.actor
        rows.append(
            Row(
                f"{printable(node.method)} #{node.number}",
                printable(node.actor) if is_next else "",
                f"{shares.idle[node.actor]:.0%}" if is_next else "",
                f"{node.calls / shares.seconds:,.0f}" if shares.seconds else "0",
                human_seconds(node.mean),
                f"{node.busy:.0%}",
                "█" * round(BAR * min(1.0, node.busy)),
            )
        )
    return rows


class Watch:
    """Shows a graph while a ``with`` block runs. Made by `CompiledGraph.watch`.

    rich draws on a thread of its own, which reads the figures; the graph and its event loop go on meanwhile.

    Args:
        stats: takes a snapshot.
        title: of the table.
        console: a ``rich.console.Console``; by default the terminal.
        refresh: how often to draw, in a second.

    Raises:
        ImportError: rich is not installed; says what to do.
        ValueError: a ``refresh`` that is 0 or less.
    """

    def __init__(self, stats: Callable[[], Stats], title: str, console: Any = None, refresh: float = 4.0) -> None:
        try:
            import rich.live  # noqa: F401 - so that who lacks it is told at once
        except ImportError as error:
            raise ImportError("watching a graph needs rich: pip install 'async-adag[watch]'") from error
        if not refresh > 0:
            raise ValueError(f"refresh says how often to draw, in a second: more than 0, not {refresh!r}")
        self._stats = stats
        self._title = title
        self._taken: deque[Stats] = deque([stats()])
        self._console = console
        self._refresh = refresh
        self._live: Any = None

    def table(self) -> Any:
        """The table as it is now, a ``rich.table.Table``; its figures are of the last second."""
        from rich.table import Table
        from rich.text import Text

        shares = self._shares()
        table = Table(
            title=Text(self._title), caption=Text(headline(shares)), title_justify="left", caption_justify="left"
        )
        for name in ("actor", "idle", "node", "calls/s", "a call", "busy", ""):
            table.add_column(name, justify="right" if name in ("idle", "calls/s", "a call", "busy") else "left")
        table.columns[-1].min_width = BAR
        for row in rows_of(shares):
            cells = (row.actor, row.idle, row.node, row.rate, row.mean, row.busy, row.bar)
            table.add_row(*map(Text, cells))  # as text: brackets in names are no markup
        return table

    def _shares(self) -> Shares:
        taken = self._taken
        taken.append(self._stats())
        while len(taken) > 2 and taken[1].seconds <= taken[-1].seconds - WINDOW:
            taken.popleft()
        return shares_between(taken[0], taken[-1])

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(console=self._console, refresh_per_second=self._refresh, get_renderable=self.table)
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
