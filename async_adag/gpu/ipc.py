"""Tensors between processes on one GPU: a ring of slots in memory that the readers map.

CUDA forbids to free memory that another process has open, and no allocator keeps to that for memory it has handed
to a user. So the writer's end owns the memory that the readers open: each allocation is opened once, and outlives
that mapping. What lies elsewhere is copied into it, on the device, and used by the readers where it is.

A slot stands for one execution and has two events for each of its turns. The writer (`ipc_sender`) records the
slot's ready event behind the copy, and readers (`ipc_receiver`) have their streams wait for it. A reader that is
done with a slot records its ack event behind what it has issued, and tells so in the page of acks (`acks`); the
writer has its stream wait for that before it fills the slot again. Neither event is recorded again before the
other side has issued its wait for it: that is what the frame tells one way, and the page the other.

**How many slots.** A reader may keep what it has got, which must not stop the graph. So it leases a limited number
of slots, and copies what comes when those are all in use. Where the frames travel by a ring of N, at most N are
unread and one is being received by each reader; one slot is to be filled next. With L leases at each of R readers,
of different executions in the worst case, N + 2 + R * L slots therefore never run out (`slots_for`).

**How it ends.** Memory and events are to outlive what others have opened of them. Each end tells in the page when
it uses nothing of the other any more. So a process closes its receivers first, then its senders, which wait for
their readers, and then its receivers again, which by then need not keep their events any longer.
"""

from __future__ import annotations

Place = tuple[int, int]
"""The number of an allocation, and an offset in it."""

Note = tuple[int, int, bytes, list[tuple[int, bytes]], list[Place]]
"""Slot, generation, handle of its ready event (empty: known), new allocations by number, where each tensor is."""


def slots_for(in_flight: int, readers: int = 1) -> int:
    """How many slots an edge needs whose frames travel by a ring of ``in_flight``: half of them can be leased."""
    unleased = in_flight + 2
    return unleased + readers * -(-unleased // readers)


def leases_for(slots: int, readers: int) -> int:
    """How many slots each reader may lease: half of all together, as readers may keep different ones."""
    return slots // 2 // readers
