"""A reader's leases: values that point into its blocks, which go back when the last such value is gone."""

from __future__ import annotations

import os
from functools import partial

from async_adag.channels.memory import Mapping

LEASES = 64  # blocks that one reader may hold through its values; beyond them it copies


class Leases:
    """Makes leases, counts them, and ends them. Outlives the reader, as values do.

    Args:
        words: the shared words of the ring.
    """

    __slots__ = ("_held", "_process", "_words")

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._process = os.getpid()
        self._held: set[int] = set()

    def __len__(self) -> int:
        return len(self._held)

    def lease(self, mapping: Mapping, length: int, word: int, generation: int) -> memoryview:
        """The first bytes of a block, read-only.

        Args:
            mapping: of the block, which stays mapped as long.
            length: how many bytes.
            word: by which the block is given back.
            generation: what is stored there then.
        """
        view = mapping.lease(partial(self._give_back, word, generation))
        self._held.add(word)
        return view[:length]

    def _give_back(self, word: int, generation: int) -> None:
        # Runs wherever the collector runs, on any thread and under any lock: two atomic steps, the block last,
        # since it may be leased again at once. In a forked child it is still its parent's.
        if os.getpid() != self._process:
            return
        self._held.discard(word)
        self._words[word] = generation
