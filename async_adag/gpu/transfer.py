"""What a GPU edge asks of whatever moves its tensors: a sender at the writer, a receiver at each reader.

For each execution the writer announces the tensors, publishes a frame that carries the note, and sends; a reader
takes the frame and receives what the note tells of. Neither waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from async_adag.gpu.interface import Span, Stream


class Arrived(Protocol):
    """Memory that has been received, or is about to be. As long as somebody refers to this object, it stays.

    Attributes:
        span: where it is; no longer than what was sent.
    """

    @property
    def span(self) -> Span: ...


class Marks(Protocol):
    """Is told where on a stream a transfer begins and ends, while somebody wants to know how long they take."""

    def begin(self, stream: Stream) -> None:
        """It is issued to ``stream`` from here on."""

    def end(self, stream: Stream) -> None:
        """It has been issued."""


class Sender(Protocol):
    """The writer's end of one edge, for all its readers.

    Attributes:
        marks: told of each transfer, if any.
    """

    marks: Marks | None

    def announce(self, spans: Sequence[Span], owners: Sequence[Any], stream: Stream) -> Any:
        """Before the frame is published.

        Args:
            spans: the tensors: each contiguous and not empty.
            owners: what keeps the memory of each; referred to until the device has read it for the last time.
            stream: where the last writes of them were issued.

        Returns:
            The note: what the frame has to tell the readers; small, and made of plain values.

        Raises:
            DeviceError: the edge cannot go on.
        """

    def check(self) -> None:
        """Ask the device whether it goes on; it does not wait.

        Raises:
            DeviceError: it has failed, so that what was sent before may never be there.
        """

    def withdraw(self) -> None:
        """The frame of the last note is not published after all."""

    def send(self) -> None:
        """After the frame was published: issue what is left to be done for the last note.

        Raises:
            DeviceError: the edge cannot go on.
        """

    def close(self) -> None:
        """Let go of everything, once the device is done with it, within a bounded time; again is harmless."""


class Receiver(Protocol):
    """One reader's end of one edge.

    Attributes:
        marks: told of each transfer, if any; where tensors stay where they are, of the waiting for them.
    """

    marks: Marks | None

    def receive(
        self, note: Any, sizes: Sequence[int], stream: Stream, others: Sequence[Stream] = ()
    ) -> list[Arrived]:
        """What a note tells of, in the order in which it was announced.

        Args:
            note: what came in the frame.
            sizes: of each tensor, in bytes.
            stream: where it will be used: what is issued there from now on finds it whole.
            others: where it will be used too, if several libraries have part of it.

        Raises:
            DeviceError: the edge cannot go on.
        """

    def close(self) -> None:
        """Let go of everything but what somebody still refers to; again is harmless."""
