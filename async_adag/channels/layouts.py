"""Layouts that both ends of an edge know by a number, so that frames need no headers for what came before.

The writer gives the numbers. Every reader takes in every frame, so what a published frame has told, all know.
"""

from __future__ import annotations

from async_adag.channels.tensor_headers import Header
from async_adag.channels.tensors import Parcel
from async_adag.protocol.frame import ChannelError

KEPT = 64
"""How many are known at a time; the oldest makes room."""


class Told:
    """The writer's side: what it has told its readers."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Header, ...], int] = {}
        self._headers: list[tuple[Header, ...]] = []
        self._next = 0
        self._new: tuple[Header, ...] | None = None

    def shorten(self, parcel: Parcel) -> Parcel:
        """The parcel of the next frame: without headers if the readers know them, else with a number for them."""
        self._new = None
        if not parcel.headers:
            return parcel
        number = self._numbers.get(parcel.headers)
        if number is not None:
            return parcel._replace(headers=(), layout=number)
        self._new = parcel.headers
        return parcel._replace(layout=self._next)

    def published(self) -> None:
        """The frame has gone out: its readers know its layout."""
        if self._new is None:
            return
        if len(self._headers) == KEPT:
            del self._numbers[self._headers[self._next]]
            self._headers[self._next] = self._new
        else:
            self._headers.append(self._new)
        self._numbers[self._new] = self._next
        self._next = (self._next + 1) % KEPT
        self._new = None

    def withdrawn(self) -> None:
        """The frame does not go out after all."""
        self._new = None


class Known:
    """A reader's side: what it has been told."""

    def __init__(self) -> None:
        self._headers: dict[int, tuple[Header, ...]] = {}

    def complete(self, parcel: Parcel) -> Parcel:
        """The parcel of the next frame, with its headers.

        Raises:
            ChannelError: no frame has told them.
        """
        if parcel.layout < 0:
            return parcel
        if parcel.headers:
            self._headers[parcel.layout] = parcel.headers
            return parcel
        if parcel.layout not in self._headers:
            raise ChannelError(f"a frame refers to layout {parcel.layout}, which no frame has told")
        return parcel._replace(headers=self._headers[parcel.layout])
