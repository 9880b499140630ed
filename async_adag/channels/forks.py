"""Forked children: a process that was forked from one with a graph shares its memory, doorbells and sockets.

What it did with them, its parent would feel: frames it never wrote, wake-ups that went elsewhere. So whatever
holds an end of a graph is told in a child, where it lets go of its own copies and is of no use from then on.
Closing a descriptor takes nothing from the parent; to take one off an epoll that both share would.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol


class Holder(Protocol):
    """Something that holds what a child must not share."""

    def leave_to_parent(self) -> None:
        """This is a child that was just forked: let go, and touch nothing that is shared.

        No other thread is here, and any lock may be locked for good by one that is not.
        """


_holders: weakref.WeakSet[Any] = weakref.WeakSet()
_kept: list[object] = []


def watch(holder: Holder) -> None:
    """Have ``holder`` told in every child that is forked from now on, for as long as it lives."""
    _holders.add(holder)


def forget(holder: Holder) -> None:
    """Take back `watch`: it holds nothing any more."""
    _holders.discard(holder)


def keep(thing: object) -> None:
    """In a child: never destroy ``thing``, since that would reach for what is the parent's."""
    _kept.append(thing)


def _tell() -> None:
    for holder in list(_holders):
        holder.leave_to_parent()


if hasattr(os, "register_at_fork"):  # elsewhere nothing forks
    os.register_at_fork(after_in_child=_tell)
