"""What a workload is: something that is measured on a graph, and the rows of the table that come of it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from benchmarks.backends import Backend
from benchmarks.floor import Floor
from benchmarks.rows import Figures, Row
from benchmarks.site import Site


class Workload(Protocol):
    """Gives the figures of its rows for a backend; a row that makes no sense there may be missing."""

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> list[Row]: ...

    def measure(self, backend: Backend, site: Site) -> Figures: ...


@runtime_checkable
class Floored(Workload, Protocol):
    """A workload that C processes can do as well."""

    def floor(self, floor: Floor, site: Site) -> Figures: ...


@runtime_checkable
class Rivalled(Workload, Protocol):
    """A workload that something other than a graph does as well, which then stands in Ray's place."""

    @property
    def rival(self) -> str: ...

    def measure_rival(self, site: Site) -> Figures: ...


@runtime_checkable
class Sliced(Workload, Protocol):
    """A workload whose ratio to the floor counts, so that both take short turns, `slices` of them in a round."""

    @property
    def slices(self) -> int: ...


@runtime_checkable
class Populous(Workload, Protocol):
    """A workload of a number of actors that is worth telling ahead, as starting them takes time and memory."""

    @property
    def actors(self) -> int: ...
