"""The actors that carry orders out."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any

import ray

from async_adag.channels.backlog import Chunks
from tests.belongings import take_stock
from tests.soak.parcels import BeyondRebuilding, Parcel, Refused, Spoiled

DEPTH = 200  # calls of the traceback of "fail deep"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h
LOCK = type(threading.Lock())
KEPT = 6  # bodies that an actor keeps


class Orders:
    """What both kinds of actor can be ordered to do."""

    def __init__(self) -> None:
        keep_no_free_memory()
        self._kept: deque[Parcel] = deque(maxlen=KEPT)

    def _begin(self, stage: str, parcels: tuple[Parcel, ...]) -> tuple[Parcel, str]:
        for parcel in parcels:
            parcel.check()
            if isinstance(parcel.extra, LOCK):
                # Within an actor values are passed on as they are: what comes of it is the same all the same.
                raise TypeError(f"{stage} was given a lock, which does not pickle")
        parcel = parcels[0]
        order = parcel.orders.get(stage, "")
        self._obey(order, stage, parcel)
        return parcel.passed(stage), order

    def _obey(self, order: str, stage: str, parcel: Parcel) -> None:
        who = f"{stage} of {parcel.number}"
        match order:
            case "fail":
                raise Refused(who)
            case "fail deep":
                _descend(DEPTH, "x" * 1000, who)
            case "fail beyond rebuilding":
                raise BeyondRebuilding(who)
            case "keep":
                self._kept.append(parcel)
                self._kept[0].check()
            case "fork":
                _fork(parcel.delay)
            case "leave":
                os._exit(3)
            case "raise SystemExit":
                sys.exit(3)

    def _rest(self) -> None:
        self._kept.clear()
        give_back_memory()


def _descend(depth: int, ballast: str, who: str) -> None:
    if depth == 0:
        raise Refused(who)
    _descend(depth - 1, ballast, who)


def _fork(seconds: float) -> None:
    """A child that holds every descriptor of the actor for a while; another thread reaps it."""
    child = os.fork()
    if child == 0:
        time.sleep(seconds)
        os._exit(0)
    threading.Thread(target=os.waitpid, args=(child, 0), name="reaper", daemon=True).start()


def keep_no_free_memory() -> None:
    """Have the C library give back free memory at once: by itself it keeps tens of megabytes in each arena.

    An arena is added when threads meet, so that these would look like a leak, or hide one.
    """
    libc = ctypes.CDLL(None)
    for threshold in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        libc.mallopt(threshold, 1 << 20)


def give_back_memory() -> None:
    """Collect, and have free memory given back by networks and the C library: what is left is held by somebody."""
    gc.collect()
    for chunks in [each for each in gc.get_objects() if type(each) is Chunks]:
        for _ in range(2):  # one finds out what was needed before, one what is not
            chunks.trim()
    ctypes.CDLL(None).malloc_trim(0)


@ray.remote(num_cpus=0)
class Hand(Orders):
    """A synchronous actor."""

    def work(self, stage: str, *parcels: Parcel) -> Parcel:
        parcel, order = self._begin(stage, parcels)
        if order == "be slow":
            time.sleep(parcel.delay)
        elif order == "fetch":
            check_fetched(parcel, ray.get(parcel.extra))
        return _with_lock(parcel) if order == "return a lock" else parcel

    def rest(self) -> None:
        self._rest()

    def pid(self) -> int:
        return os.getpid()

    def leave(self) -> None:
        os._exit(3)

    def of_graphs(self) -> dict[str, int]:
        """What graphs hold in this process."""
        return dict(take_stock().of_graphs())


@ray.remote(num_cpus=0)
class AsyncHand(Orders):
    """An asynchronous actor."""

    async def work(self, stage: str, *parcels: Parcel) -> Parcel:
        parcel, order = self._begin(stage, parcels)
        if order == "be slow":
            await asyncio.sleep(parcel.delay)
        elif order == "fetch":
            check_fetched(parcel, await parcel.extra)
        elif parcel.number % 3 == 0:
            await asyncio.sleep(0)
        return _with_lock(parcel) if order == "return a lock" else parcel

    async def rest(self) -> None:
        self._rest()

    async def pid(self) -> int:
        return os.getpid()

    async def leave(self) -> None:
        os._exit(3)

    async def of_graphs(self) -> dict[str, int]:
        """What graphs hold in this process."""
        return dict(take_stock().of_graphs())


def check_fetched(parcel: Parcel, fetched: object) -> None:
    """Raise `Spoiled` if the object that travelled by reference is another one."""
    if fetched != parcel.number:
        raise Spoiled(f"parcel {parcel.number}: its ObjectRef gave {fetched!r:.100}")


def _with_lock(parcel: Parcel) -> Any:
    return replace(parcel, extra=threading.Lock())
