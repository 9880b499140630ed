"""Words of host memory on the simulated device: streams of several processes store them and wait for them.

A wait proves what had happened before the stores that may have satisfied it: all that were done and are as much as
was waited for. Where there is none, a host has stored the word, and has let the stream go: what comes behind it
there need not be whole, so its accesses are checked no longer.

Limit: a store that would have satisfied a wait, and comes later here, is not thought of. So it finds all races
where the values of a word come from one stream, or from streams that are in order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from async_adag.gpu.interface import DeviceError, Stream
from async_adag.gpu.simulated_clocks import Clock, Misuse
from async_adag.gpu.simulated_work import Host, Queue, Work

PAGE = 4096
_WORD = 8


class Word:
    """A word, whichever processes have it.

    Attributes:
        stores: by streams: the value, when it was stored, and what had happened before; and what it began with.
    """

    def __init__(self, memory: memoryview, name: str) -> None:
        self._memory = memory
        self._name = name
        self.stores: list[tuple[int, float, Clock]] = [(self.value, 0.0, Clock())]

    def __str__(self) -> str:
        return self._name

    @property
    def value(self) -> int:
        """What it holds; a host may have stored it."""
        return int(self._memory[0])

    def store(self, value: int, at: float, clock: Clock) -> None:
        """A stream stores it."""
        self._memory[0] = value
        self.stores.append((value, at, clock))

    def reaching(self, value: int) -> list[tuple[float, Clock]]:
        """Those of at least that."""
        return [(at, clock) for stored, at, clock in self.stores if stored >= value]


class Store(Work):
    """A stream stores a word."""

    kind = "store"
    word: Word
    value: int

    def effect(self) -> None:
        self.word.store(self.value, self.queue.free_at, self.queue.clock.copy())


class Await(Work):
    """What comes behind it waits for a word."""

    kind = "await"
    word: Word
    value: int

    def ready_at(self) -> float | None:
        if self.word.value < self.value:
            return None
        return min([at for at, _ in self.word.reaching(self.value)], default=0.0)

    def waits_for(self) -> str:
        return f"{self.word} to be {self.value}"

    def effect(self) -> None:
        clocks = [clock for _, clock in self.word.reaching(self.value)]
        if clocks:
            self.queue.clock.join(Clock.meet(clocks))
        else:
            self.queue.let_go = True


class SimulatedWords:
    """The words of a piece of host memory, in a process; see `interface.Words`.

    Args:
        host: the process.
        known: all words of the simulation, by their address; those of this memory are added.
        memory: as `Device.words` has it.
        queue_of: what a stream of this process issues to.
        now: virtual time.
        fault: notes a misuse, to be raised.
    """

    def __init__(
        self,
        host: Host,
        known: dict[int, Word],
        memory: memoryview,
        queue_of: Callable[[Stream], Queue],
        now: Callable[[], float],
        fault: Callable[[str], Misuse],
    ) -> None:
        host.check()
        self._array: Any = (ctypes.c_char * memory.nbytes).from_buffer(memory)
        address = ctypes.addressof(self._array)
        if memory.readonly or address % PAGE or memory.nbytes % _WORD:
            raise DeviceError("invalid argument: words need writable memory that begins with a page")
        view = memory.cast("B").cast("q")
        addresses = range(address, address + memory.nbytes, _WORD)
        for index, at in enumerate(addresses):
            if at not in known:
                known[at] = Word(view[index : index + 1], f"word {index}")
        self._words = [known[at] for at in addresses]
        self._host = host
        self._queue_of = queue_of
        self._now = now
        self._fault = fault
        self._issued: list[Work] = []
        self._closed = False

    def __str__(self) -> str:
        return f"{len(self._words)} words"

    @property
    def closed(self) -> bool:
        return self._closed or not self._host.alive

    def store(self, stream: Stream, index: int, value: int) -> None:
        work = Store(self._queue(stream), self._now())
        work.word, work.value = self._words[index], value
        self._issued.append(work)

    def wait(self, stream: Stream, index: int, value: int) -> None:
        work = Await(self._queue(stream), self._now())
        work.word, work.value = self._words[index], value
        self._issued.append(work)

    def load(self, index: int) -> int:
        """What a word holds; this host learns what had happened before the device stored that."""
        word = self._words[index]
        value = word.value
        clocks = [clock for _, clock in word.reaching(value)]
        if clocks:
            self._host.clock.join(Clock.meet(clocks))
        return value

    def close(self) -> None:
        if self.closed:
            return
        name = str(self)
        issued, self._issued, self._words = self._issued, [], []
        self._closed = True
        self._array = None
        for work in issued:
            if not work.done:
                raise self._fault(f"{self._host.name} closes {name}, which {work.what} ({work.queue}) needs")

    def _queue(self, stream: Stream) -> Queue:
        queue = self._queue_of(stream)
        if self._closed:
            raise self._fault(f"{self._host.name} uses {self}, which it has closed")
        self._issued = [work for work in self._issued if not work.done]
        return queue
