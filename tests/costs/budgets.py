"""What an execution may cost at most, beside what it cost when that was last looked at (CPython 3.11).

Whoever makes an execution cheaper lowers the budget with it; whoever has to raise one says why in the change.
Frames, rings, parks and system calls are exact: one more is a regression. Calls have a tenth to spare.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCKS_LEFT = 50  # in a thousand executions; 1 to 3 were: the counters of the count itself
CYCLES_LEFT = 0


@dataclass(frozen=True)
class Budget:
    """Of one execution; see `counted.Cost`.

    Attributes:
        frames: as there.
        rings: as there.
        silences: as there.
        driver_parks: as there.
        actor_parks: as there.
        driver_calls: measured, and a tenth above that is the limit.
        actor_calls: the same.
        driver_system_calls: those of the event loop itself included: asyncio waits twice for an execution, uvloop
            once, and Python 3.11 asks for the process id to find the running loop.
        actor_system_calls: of all actors.
    """

    frames: float
    rings: float
    silences: float
    driver_parks: float
    actor_parks: float
    driver_calls: float
    actor_calls: float
    driver_system_calls: float
    actor_system_calls: float


BUDGETS = {
    "awaited": Budget(2, 2, 1, 0, 1, 86.4, 60.4, 5, 2),
    "awaited, uvloop": Budget(2, 2, 1, 0, 1, 86.4, 60.4, 4, 2),
    "blocking": Budget(2, 2, 0, 1, 1, 113.4, 60.4, 6, 2),
    "burst of 8": Budget(2, 2 / 8, 1 / 8, 0, 1 / 8, 56.6, 41.9, 1 + 4 / 8, 2 / 8),
    "chain of 3": Budget(4, 4, 1, 0, 3, 86.4, 60.4, 5, 6),
    "dictionary": Budget(2, 2, 1, 0, 1, 96.4, 70.4, 5, 2),
    "block": Budget(2, 2, 1, 0, 1, 113.4, 87.4, 5, 2),
}
CALLS_TO_SPARE = 1.1
