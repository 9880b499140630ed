"""Collective operations: allreduce, allgather, reducescatter.

    with InputNode() as x:
        gradients = [worker.gradient.bind(x) for worker in workers]
        sums = allreduce.bind(gradients)
        dag = MultiOutputNode([worker.step.bind(total) for worker, total in zip(workers, sums)])

Where every actor has a GPU of its own, they go over NCCL, unless shared memory was asked for.
Otherwise they need no communicator: the contributions travel through the graph's channels, each written once
into shared memory and read there by all the other actors, and every actor computes its own result.
"""

from async_adag.collectives.binding import allgather, allreduce, reducescatter

__all__ = ["allgather", "allreduce", "reducescatter"]
