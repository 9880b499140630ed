"""Pidfds: descriptors that become readable when a process ends, whoever still holds its sockets."""

from __future__ import annotations

import os
import select
import socket
import struct

_SO_PEERPIDFD = 77  # Linux 6.5; no name in the socket module
_UCRED = struct.Struct("3i")


def peer_credentials(connection: socket.socket) -> tuple[int, int]:
    """The pid and uid of the process at the other end of a Unix socket, as the kernel knows them."""
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def peer_pidfd(connection: socket.socket) -> int:
    """A pidfd of the process at the other end of a Unix socket.

    Raises:
        OSError: the process is gone, lives where its pid means nothing, or no descriptor is left.
    """
    try:
        # Atomic where the kernel has it: no pid, so none that could have been reused.
        fd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        os.set_inheritable(fd, False)
        return fd
    except OSError:
        return os.pidfd_open(peer_credentials(connection)[0])


def has_ended(pidfd: int, timeout: float) -> bool:
    """Whether the process has ended, or does within ``timeout`` seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
