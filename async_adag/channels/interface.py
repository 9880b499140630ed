"""What every channel offers, whatever it moves its frames through.

Waiting is not a channel's business: an endpoint says whether it can go on, and can be *armed*, which promises
that its process's doorbell rings when that changes. Actors and the driver wait in their own ways. A process may
have several who wait by one end: whoever arms and does not sleep takes nothing from those who do.
"""

from __future__ import annotations

from typing import Any, Protocol

from async_adag.channels.codec import STOP, Encoded, Failure, Stop

__all__ = ["STOP", "Encoded", "Failure", "Reader", "Stop", "Writer"]


class Writer(Protocol):
    """The writing end of a channel; one process, one thread at a time."""

    @property
    def bytes(self) -> int:
        """Bytes of payload, written so far."""

    def encode(self, value: Any) -> Encoded:
        """Prepare ``value``; may raise whatever pickling raises. Nothing is sent. A `Failure` or `STOP` may be
        given in place of a value.
        """

    def may_write(self) -> bool:
        """Whether `stage` may be called now.

        Raises:
            FrameError: the shared memory is spoiled; the channel cannot go on. So for `stage` and `arm`.
        """

    def stage(self, encoded: Encoded) -> None:
        """Put what `encode` prepared where the next frame goes. Nothing is sent yet.

        Raises:
            OSError: no memory for it; nothing is staged, and the channel goes on.
        """

    def unstage(self) -> None:
        """Take back what was staged; harmless when nothing was."""

    def call_up(self) -> None:
        """Wake readers that sleep on another CPU: a frame is about to be published, and waking them takes longer
        than that. No promise: `publish` wakes whoever still sleeps.
        """

    def publish(self) -> None:
        """Send what was staged, as the next execution's frame.

        A `Failure` rings for all readers, armed or not: one who waits for several channels may sleep by another.

        Raises:
            ChannelError: the channel cannot go on. No channel of its own raises it, only one whose tensors
                something else carries.
        """

    def arm(self) -> bool:
        """Ask for a ring of this process's doorbell when `may_write` becomes true; True if it already is."""

    def close(self) -> None:
        """Let go of memory. Frames that were sent can still be read."""

    def leave_to_parent(self) -> None:
        """Let go in a forked child, and touch nothing that it shares: see `forks.Holder`."""


class Reader(Protocol):
    """One reading end of a channel; one process, one thread at a time."""

    @property
    def bytes(self) -> int:
        """Bytes of payload, read so far."""

    def may_read(self) -> bool:
        """Whether `read` may be called now."""

    def read(self) -> Any:
        """The next execution's value, or a `Failure`, or `STOP`. Its slot is given back before this returns.

        Raises:
            ChannelError: the channel cannot go on; a FrameError where what lies there is no frame.
            Exception: whatever unpickling the value raised; the frame is consumed and the channel goes on.
        """

    def taken(self) -> int:
        """How many frames were consumed."""

    def discard(self) -> None:
        """Consume the next frame unread."""

    def arm(self) -> bool:
        """Ask for a ring of this process's doorbell when `may_read` becomes true; True if it already is."""

    def close(self) -> None:
        """Let go of memory, but for what values that were read still use."""

    def leave_to_parent(self) -> None:
        """Let go in a forked child, and touch nothing that it shares: see `forks.Holder`."""
