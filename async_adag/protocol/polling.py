"""Busy-polling: when a wait is to look for news for a while before it sleeps, learned from the waits before.

Waking a process costs its waker a system call, which on a virtual machine is an interrupt between processors, and
the sleeper as long again. A wait that polls costs a core instead. So polling pays where news come soon, and where
a core has nothing better to do; neither is known beforehand, so both are measured:

- Waits are counted in epochs. Of waits that park, the mean is kept. Where some of them were short, the next epoch
  is a trial, which polls for up to `LIMIT_NS`.
- Polling goes on for as long as its waits are shorter, in the mean, than those that parked, and the time spent on
  polling is at most what its hits have saved, `WAKE_NS` each. For how long a wait polls is what would have paid
  best in the epoch before.
- A trial that did not pay is repeated after twice as many epochs as the one before.

Whoever has no core to poll on sees it in its waits, which get longer, and stops. That takes a trial, so `may_poll`
forbids what cannot pay: more processes that poll or work than there are cores.

Times are in nanoseconds.
"""

from __future__ import annotations

from typing import Protocol

LIMIT_NS = 100_000
WAKE_NS = 80_000  # measured on virtual machines: 50 µs of CPU time, of waker and sleeper, and 30 µs of waiting
EPOCH = 32  # waits
PATIENCE = 256  # epochs between trials, at most
_MARGIN_NS = 20_000
_LONG_NS = 3 * LIMIT_NS  # all waits from here on are the same: far too long


class Poller(Protocol):
    """What a waiting thread asks, and tells.

    Attributes:
        rest: how many waits are to park without a question, each of which counts it down: where polling has not
            paid, the books of it should cost nothing.
    """

    rest: int

    def budget(self, now: int) -> int:
        """Nanoseconds for which the wait that begins now (`time.monotonic_ns`) is to poll; 0: not at all."""

    def waited(self, took: int, polled: int, hit: bool) -> None:
        """A wait is over: nanoseconds that it took, and polled; whether its news came while it polled."""


class PollPolicy:
    """What the waits of one thread have taught.

    Attributes:
        budget: for how long the next wait is to poll; 0: park at once.
    """

    __slots__ = ("_hits", "_parked", "_patience", "_spent", "_trial_in", "_waits", "budget")

    def __init__(self) -> None:
        self.budget = 0
        self._waits: list[int] = []
        self._hits: list[int] = []  # of these waits, those whose news came while polling
        self._spent = 0
        self._parked = 0.0  # the mean of the waits of the last epoch that did not poll
        self._patience = 1  # epochs from a trial that fails to the next
        self._trial_in = 1

    def waited(self, took: int, polled: int, hit: bool) -> bool:
        """A wait is over, which was to poll for `budget`; whether that has been decided anew.

        Args:
            took: how long it took.
            polled: how much of that it polled.
            hit: whether its news came while it did.
        """
        self._waits.append(took if took < _LONG_NS else _LONG_NS)
        if polled:
            self._spent += polled
            if hit:
                self._hits.append(took)
        if len(self._waits) < EPOCH:
            return False
        self._conclude()
        return True

    def rest(self) -> int:
        """How many waits from now on need not be told, as nothing would be decided by them; they are to park."""
        if self.budget or self._trial_in <= 1:
            return 0
        waits = EPOCH * (self._trial_in - 1)
        self._trial_in = 1
        return waits

    def _conclude(self) -> None:
        mean = sum(self._waits) / len(self._waits)
        if self.budget == 0:
            self._parked = mean
            self._trial_in -= 1
            if self._trial_in <= 0 and min(self._waits) < _LONG_NS:
                self.budget = LIMIT_NS
        else:
            paid = mean < self._parked and self._spent <= WAKE_NS * len(self._hits)
            self.budget = best_budget(self._hits, len(self._waits)) if paid else 0
            self._patience = 1 if self.budget else min(2 * self._patience, PATIENCE)
            self._trial_in = self._patience
        self._waits.clear()
        self._hits.clear()
        self._spent = 0


def best_budget(hits: list[int], waits: int) -> int:
    """For how long waits are to poll, where of so many waits these had their news while polling, after that long.

    The time that would have saved most in them, and a little more.
    """
    best, most = 0, 0
    spent = 0
    for number, hit in enumerate(sorted(hits)):
        saved = WAKE_NS * (number + 1) - spent - hit * (waits - number)
        if saved > most:
            best, most = hit, saved
        spent += hit
    return min(best + _MARGIN_NS, LIMIT_NS) if best else 0


def may_poll(processes: int, cores: int, polling: int, alone: bool) -> bool:
    """Whether one more process of a graph may poll.

    Args:
        processes: of the graph.
        cores: that they may use.
        polling: of the processes, others that poll.
        alone: whether executions come one at a time, so that about one process of the graph works at a time.
    """
    if processes <= cores:
        return True  # a core each
    return alone and polling + 1 < cores
