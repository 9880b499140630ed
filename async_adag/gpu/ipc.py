"""Tensors between processes on one GPU: a ring of slots in memory that the readers map.

CUDA forbids to free memory that another process has open, and no allocator keeps to that for memory it has handed
to a user. So the writer's end owns the memory that the readers open: each allocation is opened once, and outlives
that mapping. What lies elsewhere is copied into it, on the device, and used by the readers where it is.

A slot stands for one execution, and each of its turns has a generation. Its words are in a page of host memory
that both processes have mapped (`acks`). The writer's stream (`ipc_sender`) stores the generation as *ready*
behind the copy, and readers (`ipc_receiver`) have their streams wait for it. A reader that is done with a slot has
its stream store the generation as *acked* behind what it has issued, and tells from its host that it did so; from
then on the writer may fill the slot again, on a stream that waits for the ack.

**Why words and not events.** CUDA's events can be shared by processes too, but a stream that waits for the event
of a process that was killed waits for ever, and so does whoever waits for that stream, the end of its process
included. A word can be stored by a host. So when one side has ended, or its device has failed, the other's streams
are let go. What a reader's streams find then is not what was sent, and its execution has failed anyway.

**How many slots.** A reader may keep what it has got, which must not stop the graph. So it leases a limited number
of slots, and copies what comes when those are all in use. Where the frames travel by a ring of N, at most N are
unread and one is being received by each reader; one slot is to be filled next. With L leases at each of R readers,
of different executions in the worst case, N + 2 + R * L slots therefore never run out (`slots_for`).

**How it ends.** Memory is to outlive what others have mapped of it. A reader tells in the page when it has nothing
of the writer's open any more. So a process closes its receivers first, then its senders, which wait for their
readers.
"""

from __future__ import annotations

Place = tuple[int, int]
"""The number of an allocation, and an offset in it."""

Note = tuple[int, int, list[tuple[int, bytes]], list[Place]]
"""Slot, generation, new allocations by number, where each tensor is."""


def slots_for(in_flight: int, readers: int = 1) -> int:
    """How many slots an edge needs whose frames travel by a ring of ``in_flight``: half of them can be leased."""
    unleased = in_flight + 2
    return unleased + readers * -(-unleased // readers)


def leases_for(slots: int, readers: int) -> int:
    """How many slots each reader may lease: half of all together, as readers may keep different ones."""
    return slots // 2 // readers
