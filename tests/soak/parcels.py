"""What is sent through graphs: parcels, with orders for the actors on their way and a body that can be checked."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
import ray

Body = bytes | np.ndarray | None

FAILURES = ("fail", "fail deep", "fail beyond rebuilding", "return a lock")
"""Orders after which an execution fails, each with an error of its own."""

SIZES = (0, 1, 100, 960, 961, 10_000, 32_000, 33_000, 100_000, 1 << 20, 3_000_000, 10_000_000, 32_000_000)
"""Bytes: around the limits of slots, blocks and leases, and up to tens of megabytes."""


class Refused(Exception):
    """The user's own exception: of an actor that was ordered to fail."""


class BeyondRebuilding(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()


class Spoiled(Exception):
    """A body is not what was sent."""


@dataclass(frozen=True)
class Parcel:
    """A payload.

    Attributes:
        number: its own; the body is made of it.
        size: bytes of the body.
        body: see `make_body`.
        orders: what to do, by the name of the stage that is to do it.
        delay: seconds that the order "be slow" takes.
        trail: the stages that it has passed.
        extra: whatever else travels along: an ObjectRef, or something that cannot be pickled.
    """

    number: int
    size: int = 0
    body: Body = None
    orders: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    trail: tuple[str, ...] = ()
    extra: Any = None

    def passed(self, stage: str) -> Parcel:
        """This parcel after ``stage``."""
        return replace(self, trail=(*self.trail, stage))

    def check(self) -> None:
        """Raise `Spoiled` if the body is not what was sent."""
        if self.body is None:
            return
        body = np.frombuffer(self.body, dtype=np.uint8)
        if len(body) != self.size:
            raise Spoiled(f"parcel {self.number}: {len(body)} bytes, not {self.size}")
        head, fill = _head(self.number, self.size), self.number % 251
        if body[: len(head)].tobytes() != head or not (body[len(head) :] == fill).all():
            raise Spoiled(f"parcel {self.number}: a body of {self.size} bytes, begins {body[:16].tolist()}")


def make_body(number: int, size: int, form: str) -> Body:
    """A body that tells whose it is: the number in its first eight bytes, then one byte over and over.

    Args:
        number: of the parcel.
        size: bytes.
        form: "bytes" or "array".
    """
    head = _head(number, size)
    if form == "bytes":
        return head + bytes([number % 251]) * (size - len(head))
    body = np.full(size, number % 251, dtype=np.uint8)
    body[: len(head)] = np.frombuffer(head, dtype=np.uint8)
    return body


def _head(number: int, size: int) -> bytes:
    return number.to_bytes(8, "little")[:size]


class Post:
    """Makes parcels, numbered in the order in which they are asked for."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._number = 0

    def parcel(
        self, size: int, *, form: str = "", orders: dict[str, str] | None = None, delay: float = 0.0
    ) -> Parcel:
        """A parcel of ``size`` bytes; of either form where none is asked for."""
        self._number += 1
        form = form or self.rng.choice(("bytes", "array"))
        return Parcel(self._number, size, make_body(self._number, size, form), orders or {}, delay)

    def unsendable(self) -> Parcel:
        """A parcel that cannot be pickled."""
        return replace(self.parcel(100), extra=threading.Lock())

    def with_ref(self, stage: str) -> Parcel:
        """A parcel with an ObjectRef, which ``stage`` is to get."""
        parcel = self.parcel(100, orders={stage: "fetch"})
        return replace(parcel, extra=ray.put(parcel.number))

    def size(self) -> int:
        """A size: mostly small, now and then tens of megabytes."""
        return self.rng.choices(SIZES, weights=[24 // (place + 1) + 1 for place in range(len(SIZES))])[0]

    def any(self, stages: tuple[str, ...], failing: float = 0.15) -> Parcel:
        """A parcel of any size, with an order or none; ``failing`` of all are ordered to fail."""
        rng = self.rng
        orders = {}
        if rng.random() < failing:
            orders[rng.choice(stages)] = rng.choice(FAILURES)
        elif rng.random() < 0.2:
            orders[rng.choice(stages)] = rng.choice(("be slow", "fork", "keep", "keep"))
        return self.parcel(self.size(), orders=orders, delay=rng.choice((0.001, 0.01, 0.05)))
