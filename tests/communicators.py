"""A user's communicator that moves tensors between processes, and writes down what it was asked to do."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from ray.experimental.channel.communicator import Communicator
from ray.experimental.util.types import ReduceOp


class ByPipes(Communicator):
    """One named pipe for each transfer, so that each end waits for the other.

    Args:
        actors: the handles, by rank.
        folder: for the pipes and the log.
        name: what Ray is told that it is: "accelerator" or "cpu".
    """

    def __init__(self, actors, folder, name="accelerator"):
        self.actors = actors
        self.folder = str(folder)
        self.name = name
        self.rank = None
        self.transfers = Counter()
        self.waiting = None
        self.destroyed = False

    def note(self, *words):
        with (Path(self.folder) / "log").open("a") as log:
            log.write(" ".join(map(str, words)) + "\n")

    def initialize(self, rank):
        assert self.rank is None, "initialized twice"
        self.rank = rank
        self.note("initialize", rank)

    def destroy(self):
        self.destroyed = True
        self.note("destroy", self.rank)
        path = self.waiting
        if path is not None:
            # Whoever waits at either end goes on, and whoever comes later finds a file: in one step, as the other
            # end would make a new pipe otherwise, and wait there.
            end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            ended = Path(f"{path}-ended-{self.rank}")
            ended.touch()
            ended.replace(path)
            os.close(end)

    def pipe(self, writer, reader):
        number = self.transfers[writer, reader]
        self.transfers[writer, reader] += 1
        path = Path(self.folder) / f"{writer}-{reader}-{number}"
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path)
        self.waiting = str(path)
        if self.destroyed:
            raise OSError("it was destroyed")
        return path

    def send(self, value, peer_rank):
        array = value.numpy() if type(value).__module__ == "torch" else value  # which is never of another type
        assert array.flags.c_contiguous
        assert array.size
        self.note("send", self.rank, peer_rank, array.nbytes)  # first: behind it, the result may be there
        self.pipe(self.rank, peer_rank).write_bytes(array.tobytes())
        self.waiting = None

    def recv(self, shape, dtype, peer_rank, allocator=None):
        path = self.pipe(peer_rank, self.rank)
        data = path.read_bytes()
        self.waiting = None
        path.unlink()
        tensor = allocator(shape, dtype)
        if type(tensor).__module__ == "torch":
            tensor.copy_(sys.modules["torch"].frombuffer(bytearray(data), dtype=dtype).reshape(shape))
        else:
            tensor[...] = np.frombuffer(data, dtype).reshape(shape)
        self.note("recv", peer_rank, self.rank, len(data))
        return tensor

    def allreduce(self, send_buf, recv_buf, op):
        assert op is ReduceOp.SUM
        recv_buf[...] = send_buf

        def allocate(shape, dtype):
            return sys.modules[type(send_buf).__module__].empty(shape, dtype=dtype)

        others = [rank for rank in range(len(self.actors)) if rank != self.rank]
        for other in others:  # rank by rank, so that nobody waits in a circle
            for first in (True, False):
                if first == (self.rank < other):
                    self.send(send_buf, other)
                else:
                    recv_buf[...] += self.recv(send_buf.shape, send_buf.dtype, other, allocate)

    def get_actor_handles(self):
        return self.actors

    def get_rank(self, actor):
        return [handle._actor_id for handle in self.actors].index(actor._actor_id)

    def get_self_rank(self):
        return self.rank

    def get_world_size(self):
        return len(self.actors)

    def get_transport_name(self):
        return self.name

    def allgather(self, *_):
        raise NotImplementedError

    reducescatter = recv_stream = send_stream = allgather

    @classmethod
    def generate_communicator_id(cls):
        return "pipes"


def log_of(folder, *kinds):
    """What was asked for, of these kinds, in order: each line as its words, numbers as numbers."""
    lines = (line.split() for line in (Path(folder) / "log").read_text().splitlines())
    return [(word, *map(int, numbers)) for word, *numbers in lines if word in kinds]
