"""The rendezvous: how file descriptors get from the driver to the actors.

The driver listens on a Unix socket in the abstract namespace, which leaves nothing in a file system. An actor
connects and shows the graph's token, which it was given through Ray; both ends check that the other runs as the
same user. Then the descriptors travel (``SCM_RIGHTS``), and the connection stays: the actor says goodbye on it.

Anybody may knock, as the names of abstract sockets are no secret. Who is of another user is turned away at once,
who says anything but the hello as soon as it is said, and who says nothing when the graph is compiled, or when
many others knock: silence does not use up the driver's descriptors. Each is logged, with pid and user. An actor
that is turned away before it was heard knocks again.
"""

from __future__ import annotations

import array
import errno
import hmac
import logging
import os
import secrets
import socket
import struct
import time
from dataclasses import dataclass, field

from async_adag.channels.limits import advice
from async_adag.channels.processes import peer_credentials

logger = logging.getLogger("async_adag")

TOKEN_BYTES = 32
FDS_PER_MESSAGE = 200  # the kernel takes 253
_HELLO = struct.Struct(f"={TOKEN_BYTES}sI")
_CHUNK = struct.Struct("=II")  # descriptors in this message, and still to come after it
_MESSAGE_LIMIT = 64 * 1024
_BACKLOG = 512
LONGEST = 1e6  # seconds: sockets take no time-out of more than 24 days
KNOCKS = 10  # times that an actor knocks where it is turned away each time
_KNOCK_AGAIN = 0.01  # seconds until it does


class RendezvousError(Exception):
    """The other side is not who it should be, or did not keep to the protocol."""


class HungUp(RendezvousError):
    """Nobody is there any more."""


class NobodyThere(HungUp):
    """Nobody listens there, as far as this process can see: another network namespace has names of its own."""


class TurnedAway(HungUp):
    """Somebody was there, and hung up: for good, or because this process was taken for one that says nothing."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to meet, and the token to show there. Secret: it travels through Ray's own calls only."""

    name: str
    token: bytes = field(repr=False)


def new_address() -> Address:
    """An address that nobody has used."""
    return Address(f"\0async-adag-{secrets.token_hex(16)}", secrets.token_bytes(TOKEN_BYTES))


class Listener:
    """The side that is knocked at."""

    def __init__(self, address: Address | None = None) -> None:
        self.address = new_address() if address is None else address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.socket.bind(self.address.name)
            self.socket.listen(_BACKLOG)
            self.socket.setblocking(False)
        except BaseException:
            self.socket.close()
            raise

    def accept(self) -> socket.socket | None:
        """A new connection of this user's, or None. Whoever connects still has to be `identify`-ed.

        Raises:
            OSError: no descriptor is left for it.
        """
        try:
            connection, _ = self.socket.accept()
        except (BlockingIOError, ConnectionError):
            return None
        connection.setblocking(False)
        _, uid = peer_credentials(connection)
        if uid != os.geteuid():
            self.refuse(connection, f"the graph is of user {os.geteuid()}")
            return None
        return connection

    def identify(self, connection: socket.socket) -> int | None:
        """The number of the actor that has connected, once its hello is there; None for a stranger, who has been
        refused. Descriptors that come with a hello are not taken: the kernel closes them.
        """
        try:
            hello = connection.recv(_HELLO.size + 1)
        except OSError:
            hello = b""
        if len(hello) == _HELLO.size:
            token, number = _HELLO.unpack(hello)
            if hmac.compare_digest(token, self.address.token):
                return int(number)
        self.refuse(connection, "it did not show the graph's token" if hello else "it said nothing")
        return None

    def refuse(self, connection: socket.socket, why: str) -> None:
        """Hang up on somebody, and log who it was."""
        pid, uid = peer_credentials(connection)
        logger.warning("refused a connection to a graph, of process %d of user %d: %s", pid, uid, why)
        connection.close()

    def close(self) -> None:
        """Take no more connections."""
        self.socket.close()


def meet(address: Address, number: int, expected: int, timeout: float) -> tuple[socket.socket, list[int]]:
    """The actor's side: connect as actor ``number``, and receive the ``expected`` descriptors.

    Raises as `connect` and `receive_fds`.
    """
    deadline = time.monotonic() + timeout
    for knock in range(1, KNOCKS + 1):
        try:
            connection = connect(address, number, max(0.0, deadline - time.monotonic()))
            try:
                return connection, receive_fds(connection, expected)
            except BaseException:
                connection.close()
                raise
        except TurnedAway:
            if knock == KNOCKS:
                raise
            time.sleep(_KNOCK_AGAIN)
    raise AssertionError


def connect(address: Address, number: int, timeout: float) -> socket.socket:
    """Connect and say hello as actor ``number``; the connection has this timeout from here on.

    Raises:
        TurnedAway: before the hello was said.
        NobodyThere: nobody listens there, or no longer.
        HungUp: nobody has let this process in within ``timeout`` seconds.
        RendezvousError: somebody of another user listens there.
        OSError: no descriptor is left.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(min(timeout, LONGEST))
        _knock(connection, address.name, time.monotonic() + timeout)
        _, uid = peer_credentials(connection)
        if uid != os.geteuid():
            raise RendezvousError(f"the graph's socket belongs to user {uid}")
        try:
            connection.send(_HELLO.pack(address.token, number))
        except ConnectionError as error:
            raise TurnedAway(f"the graph's driver hung up: {error}") from error
        return connection
    except OSError as error:
        connection.close()
        kind = NobodyThere if isinstance(error, ConnectionRefusedError) else HungUp
        raise kind(f"the graph's driver cannot be reached: {error}") from error
    except BaseException:
        connection.close()
        raise


def _knock(connection: socket.socket, name: str, deadline: float) -> None:
    while True:
        try:
            connection.connect(name)
            return
        except BlockingIOError:  # the kernel's queue of those who knock is full
            if time.monotonic() >= deadline:
                raise
            time.sleep(_KNOCK_AGAIN)


def send_fds(connection: socket.socket, fds: list[int], timeout: float | None = None) -> None:
    """Send descriptors, in order, in as many messages as it takes; each within ``timeout`` seconds.

    Raises:
        OSError: the other side is gone, or does not take them.
    """
    chunks = [fds[i : i + FDS_PER_MESSAGE] for i in range(0, len(fds), FDS_PER_MESSAGE)] or [[]]
    left = len(fds)
    connection.settimeout(None if timeout is None else min(timeout, LONGEST))
    for chunk in chunks:
        left -= len(chunk)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", chunk))] if chunk else []
        connection.sendmsg([_CHUNK.pack(len(chunk), left)], rights)
    connection.setblocking(False)


def receive_fds(connection: socket.socket, expected: int) -> list[int]:
    """Receive ``expected`` descriptors, all within the timeout of ``connection``; they are closed on exec.

    Raises:
        TurnedAway: the other side has hung up.
        RendezvousError: the message was no message of ours, or descriptors were lost.
    """
    received: list[int] = []
    timeout = connection.gettimeout()
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        while True:
            fds, left = _receive_chunk(connection, received)
            # Whoever announces too many is refused before they have used up what this process may open.
            if len(received) + left != expected:
                raise RendezvousError(f"{len(received) + left} descriptors came where {expected} were expected")
            if left == 0:
                break
            if fds == 0:
                raise RendezvousError("descriptors announced did not come")
            if deadline is not None:
                rest = deadline - time.monotonic()
                if rest <= 0:
                    raise RendezvousError(f"not all descriptors came within {timeout:g} s")
                connection.settimeout(rest)
    except BaseException:
        for fd in received:
            os.close(fd)
        raise
    return received


def _receive_chunk(connection: socket.socket, received: list[int]) -> tuple[int, int]:
    room = socket.CMSG_SPACE(FDS_PER_MESSAGE * 4)
    try:
        data, ancillary, flags, _ = connection.recvmsg(_CHUNK.size + 1, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError as error:
        raise TurnedAway(f"the graph's driver hung up: {error}") from error
    except OSError as error:
        raise HungUp(f"the graph's driver sent nothing: {error}") from error
    before = len(received)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds = array.array("i")
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
            received.extend(fds)
    if not data and not ancillary:
        raise TurnedAway("the graph's driver hung up")
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) or len(data) != _CHUNK.size:
        raise RendezvousError(f"descriptors were lost on the way (too many open files? {advice(errno.EMFILE)})")
    count, left = _CHUNK.unpack(data)
    if count != len(received) - before:
        raise RendezvousError(f"{len(received) - before} descriptors came where {count} were announced")
    return count, left


def send_text(connection: socket.socket, text: str) -> None:
    """Say something to the other side; harmless when it is gone."""
    try:
        connection.send(text.encode(errors="backslashreplace")[: _MESSAGE_LIMIT // 2])
    except OSError:
        pass


def receive_text(connection: socket.socket) -> str | None:
    """What the other side said; "" when it hung up, None when nothing is there."""
    try:
        return connection.recv(_MESSAGE_LIMIT).decode(errors="replace")
    except BlockingIOError:
        return None
    except OSError:
        return ""
