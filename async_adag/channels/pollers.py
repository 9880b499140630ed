"""Who polls: decides, before each wait, for how long it busy-polls, and learns from it.

The processes of a graph share a page, the *board*, on which each says until when it polls and which CPUs it may
use. What it says runs out by itself, so a process that is killed leaves nothing wrong behind. Whatever else the
machine does is seen in the waits themselves, which get longer (`protocol/polling.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from async_adag.channels.memory import PAGE, Mapping, create_file, kept
from async_adag.channels.processor import current_cpu
from async_adag.protocol.polling import EPOCH, Poller, PollPolicy, may_poll
from async_adag.protocol.ring import LINE

_UNTIL, _CPUS, _HERE = 0, 1, 2
_WORDS = LINE  # for each process, so that each has a cache line of its own
_HOLD_NS = 5_000_000  # who has polled keeps its core that long: its next waits are to find it free, and renew that
_LOOK_NS = 10_000_000  # between looks at which CPUs a thread may use


class FixedPoller:
    """The same for every wait, as somebody has chosen."""

    def __init__(self, nanoseconds: int) -> None:
        self._budget = nanoseconds
        self.rest = 0

    def budget(self, now: int) -> int:  # noqa: ARG002 - always the same
        """See `Poller`."""
        return self._budget

    def waited(self, took: int, polled: int, hit: bool) -> None:
        """See `Poller`."""


def board_size(processes: int) -> int:
    """Bytes of the board of so many processes, in whole pages."""
    return -(-processes * _WORDS * 8 // PAGE) * PAGE


def create_board(processes: int) -> int:
    """A new board; returns its descriptor.

    Raises:
        OSError: as `create_file`.
    """
    return create_file("async-adag-board", board_size(processes))


class Board:
    """The board of a graph, as one of its processes sees it. ``fd`` stays the caller's."""

    def __init__(self, fd: int, processes: int, place: int) -> None:
        self._words = Mapping(fd, 0, board_size(processes)).words(processes * _WORDS)
        self._place = place * _WORDS
        self._others = [other * _WORDS for other in range(processes) if other != place]
        self.processes = processes
        self.come()

    def close(self) -> None:
        """Let go of the page: nobody learns what is said from now on."""
        self._words = kept(self._words)

    def come(self) -> None:
        """Say which CPUs this thread may use."""
        cpus = 0
        for cpu in os.sched_getaffinity(0):
            cpus |= 1 << cpu % 64
        self._words[self._place + _CPUS] = cpus

    def settle(self, may_move: bool) -> None:
        """Say on which CPU this thread is. Where others are there too, go to one where none is, if there is one.

        The scheduler may leave threads that wake each other on one CPU, where a poll only keeps the other waiting.
        """
        words, here = self._words, current_cpu()
        if may_move:
            taken = {words[other + _HERE] - 1 for other in self._others}
            mine = os.sched_getaffinity(0)
            if here in taken and mine - taken:
                try:
                    os.sched_setaffinity(0, mine - taken)
                    os.sched_setaffinity(0, mine)  # it stays where it is, and may go on as before
                except OSError:
                    self.come()  # it may not, or its CPUs have changed just now: this is only for speed
                here = current_cpu()
        words[self._place + _HERE] = here + 1

    def cores(self) -> int:
        """How many CPUs the processes may use, all together."""
        cpus = self._words[self._place + _CPUS]
        for other in self._others:
            cpus |= self._words[other + _CPUS]
        return cpus.bit_count()

    def polling(self, now: int) -> int:
        """How many of the others poll, or do so again in a moment."""
        words = self._words
        return sum([words[other + _UNTIL] > now for other in self._others])

    def poll_until(self, when: int) -> None:
        """Say until when this process polls; 0: it does not."""
        self._words[self._place + _UNTIL] = when


class AdaptivePoller:
    """Polls where that has paid, while there is a core for it.

    Args:
        board: of the graph.
        alone: whether executions come one at a time.
        may_move: whether the thread is ours to be moved to another CPU.
    """

    def __init__(self, board: Board, alone: Callable[[], bool], may_move: bool = False) -> None:
        self._board = board
        self._alone = alone
        self._may_move = may_move
        self._policy = PollPolicy()
        self._asked = True  # whether the last wait did what the policy said
        self._granted = 0  # for how long waits may poll
        self._held_until = 0  # what the board says
        self._renew_at = 0
        self._apart = False  # whether each process has a core
        self._left = 0  # waits until that is decided anew
        self._look_at = 0
        self.rest = 0

    def budget(self, now: int) -> int:
        """See `Poller`."""
        if self._left <= 0 or (self._granted and now >= self._held_until):
            self._decide(now)
        self._left -= 1
        if self._granted:
            if not self._apart and not self._alone():
                self._refuse()
            elif now >= self._renew_at:
                self._hold(now)
        return self._granted

    def waited(self, took: int, polled: int, hit: bool) -> None:
        """See `Poller`."""
        if self._asked and self._policy.waited(took, polled, hit):
            self._left = 0
            self.rest = self._policy.rest()

    def _refuse(self) -> None:
        """Have this wait and an epoch more park, of which the policy is to learn nothing."""
        self._granted = 0
        self._asked = False
        self._left = 0
        self.rest = EPOCH

    def _hold(self, now: int) -> None:
        self._held_until = now + _HOLD_NS
        self._renew_at = now + _HOLD_NS // 2
        self._board.poll_until(self._held_until)

    def _decide(self, now: int) -> None:
        self._left = EPOCH
        board = self._board
        if now >= self._look_at:
            self._look_at = now + _LOOK_NS
            board.come()
        cores = board.cores()
        self._apart = board.processes <= cores
        budget = self._policy.budget
        if budget and not may_poll(board.processes, cores, board.polling(now), self._apart or self._alone()):
            budget = 0
        self._granted = budget
        self._asked = True
        if budget < self._policy.budget:
            self._refuse()
        if budget:
            self._hold(now)
        else:
            board.poll_until(0)
        board.settle(self._may_move and self._apart and (budget > 0 or not self._alone()))


def make_poller(
    nanoseconds: int | None, board: Board | None, alone: Callable[[], bool], may_move: bool = False
) -> Poller | None:
    """The poller of a thread: for so long, or (None) as it learns, for which there has to be a board.

    Returns:
        None where the thread is never to poll.
    """
    if nanoseconds is not None:
        return FixedPoller(nanoseconds) if nanoseconds else None
    return None if board is None else AdaptivePoller(board, alone, may_move)
