"""Who keeps an ObjectRef alive while it is in another process: the writer's holds, the reader's leases.

Ray does not know that a ref went through a channel. So the writer *holds* the refs of a frame, as ObjectRefs of
its own, until every reader has given them back. A hold has a number and, for each use, a generation; a reader
gives it back by storing that generation in a word of its own, as it does for blocks (`channels/blocks.py`).

A reader keeps a *lease* on a hold only for refs that are new in its process, and until nothing there refers to
them any more. A ref that the process has already is safe there, whoever sees to that (Ray, another lease, or that
it is the owner), and stays so while anything refers to it. So the leases on an object form a tree, whose root Ray
knows about: each process leans on one that had the ref earlier. A ref that comes back to where it was cannot keep
itself alive. (This is indirect reference counting, after Piquer.)

Looking costs microseconds for each lease, so a few are looked at each time, those first that have waited longest.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from async_adag.channels import ray_objects
from async_adag.protocol.ring import RingLayout, Words

LOOKS = 8  # holds, or leases, that are looked at in one go
LOOK_AGAIN = 0.1  # seconds until a reader that has nothing new looks again before it sleeps


class Holds:
    """The writer's holds.

    Attributes:
        refs: what is held, by the hold's number.
    """

    __slots__ = ("_firsts", "_free", "_generations", "_pin", "_turn", "_words", "refs")

    def __init__(self, words: Words, layout: RingLayout, pin: Callable[[Any], None] = ray_objects.pin) -> None:
        self._words = words
        self._firsts = layout.released
        self._pin = pin
        self._generations = [0] * layout.holds
        self._free = list(range(layout.holds))
        self._turn: deque[int] = deque()  # the numbers in use, in the order in which they are looked at
        self.refs: dict[int, list[Any]] = {}

    def take(self, refs: list[Any]) -> tuple[int, int]:
        """Hold ``refs``; the hold's number and generation. Where none was free, the generation is 0 and Ray has
        pinned the objects: there is nothing to give back.
        """
        if not self._free:
            self.sweep(len(self._turn))
        if not self._free:
            for ref in refs:
                self._pin(ref)
            return 0, 0
        number = self._free.pop()
        self._generations[number] += 1
        self.refs[number] = refs
        self._turn.append(number)
        return number, self._generations[number]

    def untake(self, number: int) -> None:
        """Give up a hold that no reader was told of."""
        self._generations[number] -= 1
        self._turn.remove(number)
        self._free.append(number)
        del self.refs[number]

    def sweep(self, count: int = LOOKS) -> None:
        """Free those of the next ``count`` holds that every reader has given back."""
        for _ in range(min(count, len(self._turn))):
            number = self._turn.popleft()
            if self._is_given_back(number):
                self._free.append(number)
                del self.refs[number]
            else:
                self._turn.append(number)

    def _is_given_back(self, number: int) -> bool:
        generation = self._generations[number]
        return all(self._words[first + number] == generation for first in self._firsts)

    def close(self) -> None:
        """Free what was given back, and pin the rest: readers use it, and nobody will be there to be told."""
        self.sweep(len(self._turn))
        for refs in self.refs.values():
            for ref in refs:
                self._pin(ref)
        self.refs.clear()
        self._turn.clear()


class RefLeases:
    """One reader's leases. ``first`` is the word in which it gives back hold number 0."""

    __slots__ = ("_clock", "_first", "_is_referenced", "_leases", "_look_at", "_words")

    def __init__(
        self,
        words: Words,
        first: int,
        is_referenced: Callable[[bytes], bool] = ray_objects.is_referenced,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._words = words
        self._first = first
        self._is_referenced = is_referenced
        self._clock = clock
        self._leases: deque[tuple[int, int, list[bytes]]] = deque()
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._leases)

    def keep(self, number: int, generation: int, new: list[bytes]) -> None:
        """Keep a lease until nothing here refers to the ``new`` refs of its frame; none where there are none."""
        if new and generation:
            self._leases.append((number, generation, new))
            self._look_at = 0.0
        else:
            self.give_back(number, generation)

    def give_back(self, number: int, generation: int) -> None:
        """Give back a hold; harmless for refs that were pinned."""
        if generation:
            self._words[self._first + number] = generation

    def look(self, count: int = LOOKS) -> None:
        """Give back those of the next ``count`` holds whose refs are gone from this process."""
        for _ in range(min(count, len(self._leases))):
            number, generation, ids = self._leases.popleft()
            while ids and not self._is_referenced(ids[-1]):
                ids.pop()
            if ids:
                self._leases.append((number, generation, ids))
            else:
                self.give_back(number, generation)

    def look_before_sleep(self) -> None:
        """As `look`, where there is something new or the last time was a while ago."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            self.look()
