"""Limits of a process, lowered for a while: here, or in an actor through `Worker.call`."""

from __future__ import annotations

import functools
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

MB = 1 << 20
_undo: list[tuple[list[int], int, int]] = []  # descriptors to close, and the limit as it was


def use_up_descriptors(leave: int = 0) -> None:
    """Leave this process ``leave`` descriptors that it may still open."""
    which = resource.RLIMIT_NOFILE
    soft, hard = resource.getrlimit(which)
    top = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(which, (top + leave + 10, hard))
    opened: list[int] = []
    try:
        while True:
            opened.append(os.dup(0))
    except OSError:
        pass
    for _ in range(leave):
        os.close(opened.pop())
    _undo.append((opened, which, soft))


def lower(which: int, soft: int) -> None:
    """Lower a limit; an address space (`RLIMIT_AS`) to ``soft`` bytes more than is in use."""
    before, hard = resource.getrlimit(which)
    if which == resource.RLIMIT_AS:
        with open("/proc/self/statm") as file:
            soft += int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(which, (soft, hard))
    _undo.append(([], which, before))


def undo() -> None:
    """Take back what was done last."""
    opened, which, soft = _undo.pop()
    for fd in opened:
        os.close(fd)
    resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))


@contextmanager
def lowered(which: int, soft: int) -> Iterator[None]:
    """`lower`, for as long as it takes."""
    lower(which, soft)
    try:
        yield
    finally:
        undo()


@functools.cache
def array_of(size: int) -> np.ndarray:
    """An array of so many bytes, the same each time; it takes no memory until it is touched."""
    return np.zeros(size, np.uint8)


def has_array_of(size: int) -> bool:
    """Make it, so that it is there when a limit is lowered."""
    return len(array_of(size)) == size
