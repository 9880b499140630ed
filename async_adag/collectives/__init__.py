"""Collective operations: allreduce, allgather, reducescatter; see `binding` for how to use them.

Where every actor has a GPU of its own, they go over NCCL (`over_nccl`), unless shared memory was asked for.
Otherwise they need no communicator: the contributions travel through the graph's channels, each written once
into shared memory and read there by all the other actors, and every actor computes its own result.
"""

from async_adag.collectives.binding import allgather, allreduce, reducescatter

__all__ = ["allgather", "allreduce", "reducescatter"]
