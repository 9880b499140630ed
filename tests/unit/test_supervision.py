"""Who watches the actors of a graph: what it owns."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from async_adag.driver.supervision import Supervision


class Full:
    """An epoll that takes only so many descriptors, as where the user's limit is reached."""

    def __init__(self, room):
        self._room = room

    def register(self, fd, events):
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= 1

    def close(self): ...


@pytest.mark.parametrize("room", [0, 1])
def test_what_cannot_be_watched_is_closed_once_with_the_rest(room):
    supervision = Supervision()
    supervision._epoll.close()
    supervision._epoll = Full(room)
    pidfd = os.pidfd_open(os.getpid())
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        with pytest.raises(OSError, match="No space left"):
            supervision.watch(0, pidfd, ours)
        supervision.close()
        assert ours.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(pidfd)
        supervision.close()
