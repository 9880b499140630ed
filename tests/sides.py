"""What a test has of a channel, of whichever kind, whose sides are both in this process."""

from __future__ import annotations

import os
from typing import Any


class Sides:
    """Both sides of a channel.

    Attributes:
        writer: its writing end.
        readers: its reading ends.
        memory: of a ring, a descriptor of its memory file for the test's own use; -1 where there is none.
    """

    writer: Any
    readers: Any
    memory: int

    @property
    def reader(self) -> Any:
        """The only reader."""
        (reader,) = self.readers
        return reader

    def send(self, value: Any) -> None:
        """Write one frame."""
        assert self.writer.may_write()
        self.writer.stage(self.writer.encode(value))
        self.writer.publish()

    def close_memory(self) -> None:
        """Close the descriptor; again is harmless."""
        memory, self.memory = self.memory, -1
        if memory >= 0:
            os.close(memory)
