"""Collective operations: allreduce, allgather, reducescatter; see `binding` for how to use them.

Ours need no communicator of their own: the contributions travel through the graph's channels, each written once
into shared memory and read there by all the other actors, and every actor computes its own result.
"""

from async_adag.collectives.binding import allgather, allreduce, reducescatter

__all__ = ["allgather", "allreduce", "reducescatter"]
