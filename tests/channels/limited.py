"""What a channel does under the limits of its process. Run with the name of a scenario."""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from async_adag.channels.doorbell import Doorbell
from async_adag.channels.rendezvous import RendezvousError, receive_fds, send_fds
from async_adag.channels.ring import RingReader, RingSpec, RingWriter, create_ring

MB = 1 << 20
SPEC = RingSpec(4, 1, MB)


@contextmanager
def limited(which: int, soft: int) -> Iterator[None]:
    """A limit, for as long as it takes."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def make_ring() -> tuple[RingWriter, RingReader]:
    fd = create_ring(SPEC)
    return RingWriter(SPEC, fd, [Doorbell.create()]), RingReader(SPEC, os.dup(fd), 0, Doorbell.create())


def array(size: int) -> np.ndarray:
    """An array whose payload, pickle and all, is just under ``size`` bytes."""
    return np.ones(size - 1024, np.uint8)


def pass_on(writer: RingWriter, reader: RingReader, value: object) -> object:
    writer.stage(writer.encode(value))
    writer.publish()
    return reader.read()


def failure(of: type[Exception], call: Callable[..., object], *args: object) -> str:
    """What a call that has to fail says."""
    try:
        call(*args)
    except of as error:
        return str(error)
    raise AssertionError("there was room")


def goes_on(writer: RingWriter, reader: RingReader) -> None:
    assert not reader.may_read()
    for number in range(10):
        assert pass_on(writer, reader, number) == number
        assert np.array_equal(pass_on(writer, reader, array(50_000)), array(50_000))


def file_size() -> None:
    """The memory file may not grow as far as a payload needs."""
    writer, reader = make_ring()
    goes_on(writer, reader)
    with limited(resource.RLIMIT_FSIZE, SPEC.size() + MB):
        for _ in range(3):
            said = failure(OSError, writer.stage, writer.encode(array(4 * MB)))
            assert "RLIMIT_FSIZE" in said, said
            assert writer.backed_bytes() < MB
            goes_on(writer, reader)
    assert np.array_equal(pass_on(writer, reader, array(4 * MB)), array(4 * MB))


def file_size_with_a_larger_block_free() -> None:
    """The memory file may not grow; a block that is larger than a payload would like is free."""
    writer, reader = make_ring()
    with limited(resource.RLIMIT_FSIZE, SPEC.size() + MB):
        pass_on(writer, reader, array(MB))
        assert np.array_equal(pass_on(writer, reader, array(70_000)), array(70_000))


def file_size_at_creation() -> None:
    """The memory file cannot even be made."""
    before = os.listdir("/proc/self/fd")
    with limited(resource.RLIMIT_FSIZE, SPEC.size() - 1):
        said = failure(OSError, create_ring, SPEC)
    assert "RLIMIT_FSIZE" in said, said
    assert os.listdir("/proc/self/fd") == before


def in_use() -> int:
    """Bytes of address space."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def address_space_of_the_writer() -> None:
    """The writer cannot map a block."""
    writer, reader = make_ring()
    goes_on(writer, reader)
    big = array(32 * MB)
    with limited(resource.RLIMIT_AS, in_use() + 16 * MB):
        said = failure(OSError, writer.stage, writer.encode(big))
        assert "cannot map" in said, said
        goes_on(writer, reader)
    assert np.array_equal(pass_on(writer, reader, big), big)


def address_space_of_the_writer_at_its_first_block() -> None:
    """The file has grown for a block that cannot be mapped, and may not shrink for a smaller one."""
    writer, reader = make_ring()
    big = array(32 * MB)
    with limited(resource.RLIMIT_AS, in_use() + 16 * MB):
        for _ in range(2):
            said = failure(OSError, writer.stage, writer.encode(big))
            assert "RLIMIT_AS is" in said, said
            assert "ulimit -v" in said, said
            goes_on(writer, reader)
    assert np.array_equal(pass_on(writer, reader, big), big)


def address_space_of_the_reader() -> None:
    """The reader cannot map a block: the frame is consumed, and the block is the writer's again."""
    writer, reader = make_ring()
    big = array(32 * MB)
    for _ in range(3):
        writer.stage(writer.encode(big))
        writer.publish()
        with limited(resource.RLIMIT_AS, in_use() + 16 * MB):
            said = failure(OSError, reader.read)
            assert "cannot map" in said, said
            goes_on(writer, reader)
    assert writer.backed_bytes() < 40 * MB, writer.backed_bytes()
    assert np.array_equal(pass_on(writer, reader, big), big)


def descriptors() -> None:
    """More descriptors arrive than this process may have."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds = [os.dup(0) for _ in range(50)]
    send_fds(ours, fds)
    highest = max(fds)
    before = sorted(os.listdir("/proc/self/fd"))
    with limited(resource.RLIMIT_NOFILE, highest + 20):
        said = failure(RendezvousError, receive_fds, theirs, len(fds))
    assert "too many open files" in said, said
    assert sorted(os.listdir("/proc/self/fd")) == before


if __name__ == "__main__":
    globals()[sys.argv[1]]()
