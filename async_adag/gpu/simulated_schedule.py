"""In which order the streams of the simulated device go on, one piece of work at a time, in virtual time.

Nothing is done until the simulation is stepped, so the code that issues work runs ahead of the device, as it does
on a real one. In order of time, the piece that ends first is done first; another order may be chosen, and then
time only says what each piece had to wait for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from async_adag.gpu.interface import Span
from async_adag.gpu.simulated_clocks import Deadlock, Misuse
from async_adag.gpu.simulated_memory import Part
from async_adag.gpu.simulated_work import Done, Host, Queue, Work

Match = Callable[[Work], bool]
Choose = Callable[[Sequence[Work]], int]


class Schedule:
    """All streams, and in which order they go on.

    Attributes:
        hosts: all processes.
        queues: all streams.
        transfers_at_once: how many transfers a device holds (None: any number).
        transfers: how many it holds now, for the number of each device.
        now: virtual time, in seconds: when the last piece of work that was done ended.
        history: what was done, in order.
        faults: what was found; code that swallows a Misuse does not hide it: the next step raises it again.
    """

    def __init__(self, choose: Choose | None, transfers_at_once: int | None) -> None:
        self.transfers_at_once = transfers_at_once
        self.transfers: Counter[int] = Counter()
        self.now = 0.0
        self.history: list[Done] = []
        self.faults: list[Misuse] = []
        self.hosts: list[Host] = []
        self.queues: list[Queue] = []
        self._choose = choose
        self._failures: list[tuple[Match, str]] = []
        self._stalls: list[tuple[Match, float]] = []

    def fault(self, error: Misuse) -> Misuse:
        """Note what was found, to be raised."""
        self.faults.append(error)
        return error

    def find(self, host: Host, span: Span) -> Part:
        """What lies at an address of that process.

        Raises:
            Misuse: nothing that it may use.
        """
        try:
            return host.space.find(span)
        except Misuse as error:
            raise self.fault(error) from None

    def fail(self, match: Match, message: str = "an illegal memory access was encountered") -> None:
        """Have the device fail, for the process that issued it, at the first piece of work that matches.

        Its streams stop there, and its later calls raise DeviceError.
        """
        self._failures.append((match, message))

    def stall(self, match: Match, seconds: float) -> None:
        """Have each piece of work that matches take so much longer."""
        self._stalls.append((match, seconds))

    def step(self) -> bool:
        """Do the next piece of work: in order of time, or as chosen; False if none can be done.

        Raises:
            Misuse: it, or something before, broke a rule.
        """
        if self.faults:
            raise self.faults[0]
        ready = self._ready()
        if not ready:
            return False
        if self._choose is None:
            begin, end, work = min(ready, key=_end)
        else:
            begin, end, work = ready[self._choose([work for _, _, work in ready])]
        self._do(work, begin, end)
        return True

    def settle(self) -> list[str]:
        """Step until nothing can go on; returns which streams wait then, and for what."""
        while self.step():
            pass
        return self.waiting()

    def run(self) -> float:
        """Step until all is done; returns the time.

        Raises:
            Deadlock: nothing can go on before that.
            Misuse: a rule was broken.
        """
        waiting = self.settle()
        if waiting:
            raise Deadlock("nothing can go on: " + "; ".join(waiting))
        return self.now

    def advance(self, seconds: float) -> None:
        """Do what ends within so much time, in order of time, and let the time pass."""
        until = self.now + seconds
        while True:
            if self.faults:
                raise self.faults[0]
            ready = [candidate for candidate in self._ready() if candidate[1] <= until]
            if not ready:
                break
            begin, end, work = min(ready, key=_end)
            self._do(work, begin, end)
        self.now = until

    def waiting(self) -> list[str]:
        """The streams that have work left, and for what each waits."""
        return [
            f"{queue} waits with {queue.items[0].what} for {queue.items[0].waits_for()}"
            for queue in self.queues
            if queue.items
        ]

    def _ready(self) -> list[tuple[float, float, Work]]:
        ready = []
        for queue in self.queues:
            if queue.items:
                work = queue.items[0]
                at = work.ready_at()
                if at is not None:
                    parts = work.together()
                    for part in parts:
                        self._disturb(part)
                    begin = max(at, *(max(part.queue.free_at, part.issued_at) for part in parts))
                    ready.append((begin, begin + max(part.seconds for part in parts), work))
        return ready

    def _disturb(self, work: Work) -> None:
        if work.disturbed:
            return
        work.disturbed = True
        work.seconds += sum(seconds for match, seconds in self._stalls if match(work))
        for number, (match, message) in enumerate(self._failures):
            if match(work):
                work.failure = message
                del self._failures[number]
                break

    def _do(self, work: Work, begin: float, end: float) -> None:
        self.now = max(self.now, end)
        failed = [part for part in work.together() if part.failure is not None]
        for part in failed:
            part.queue.host.failure = f"{part.failure}, in {part.what} of {part.queue.name}"
            for queue in self.queues:
                if queue.host is part.queue.host:
                    queue.clear()
        if not failed:
            try:
                work.complete(self.history, begin, end)
            except Misuse as error:
                raise self.fault(error) from None


def explore(run: Callable[[Choose], object], limit: int = 10_000) -> int:
    """Run a program in every order in which its streams can go on; returns how many there are.

    Args:
        run: makes a simulation with what it is given as ``choose``, and runs it; the same each time.
        limit: how many orders are tried at most.

    Raises:
        ValueError: there are more.
    """
    choices: list[int] = []
    for number in range(1, limit + 1):
        widths: list[int] = []

        def choose(ready: Sequence[Work], choices: list[int] = choices, widths: list[int] = widths) -> int:
            widths.append(len(ready))
            return choices[len(widths) - 1] if len(widths) <= len(choices) else 0

        run(choose)
        choices = choices + [0] * (len(widths) - len(choices))
        while choices and choices[-1] + 1 == widths[len(choices) - 1]:
            choices.pop()
        if not choices:
            return number
        choices[-1] += 1
    raise ValueError(f"there are more than {limit} orders")


def _end(candidate: tuple[float, float, Work]) -> float:
    return candidate[1]
