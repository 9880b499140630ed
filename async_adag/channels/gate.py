"""The gate: where the TCP connections of a graph come in and go out, while it is compiled.

Anybody who can reach the port may knock. Whoever does not show within seconds to know the graph's secret (see
`protocol/handshake.py`) is turned away and logged; when many knock at once, those make room that have waited
longest without a word. After compiling the gate is closed, and nobody is listened to any more.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import ssl
import time
from collections.abc import Callable

from async_adag.channels.limits import EXHAUSTED, explain
from async_adag.channels.stream import Stream, TlsStream, prepare
from async_adag.channels.tls import Tls
from async_adag.protocol.handshake import Callee, Caller, HandshakeError, Purpose

logger = logging.getLogger("async_adag")

PENDING = 128  # who has connected and not yet shown that he may
PATIENCE = 5.0  # seconds that one of them has
AGAIN = 0.05  # seconds until somebody who did not answer is dialled again; twice as long each time, at most
AGAIN_AT_MOST = 0.5
_BACKLOG = 512
_ACCEPTS = 64  # connections that are accepted in one go
_BOTH = select.EPOLLIN | select.EPOLLOUT


class Gate:
    """See the module.

    Attributes:
        address: where it listens: host and port.
        failures: those dialled connections that failed for good, with the reason in words.
        refused: the last one that was turned away, from where and why, in words; "" where none was.
    """

    def __init__(
        self,
        host: str,
        ports: tuple[int, int] | None,
        secret: bytes,
        heartbeat: float,
        tls: Tls | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen.

        Args:
            host: the address to listen at, of this machine; no other is.
            ports: the first and the last of those that may be used; None for any that is free.
            secret: the graph's, of `protocol.handshake.SECRET_BYTES`.
            heartbeat: seconds of silence after which the other side of a connection is given up.
            tls: where connections are to be encrypted.
            clock: tells the time, in seconds.

        Raises:
            OSError: no port is free there, or the address is not of this machine; says which.
        """
        self._secret = secret
        self._heartbeat = heartbeat
        self._tls = tls
        self._clock = clock
        self._knocks: dict[int, _Knock] = {}  # by descriptor
        self._again: list[tuple[float, tuple[str, int], Purpose]] = []  # when to dial again
        self._trying: dict[Purpose, str] = {}
        self._pauses: dict[Purpose, float] = {}
        self._through: list[tuple[Purpose, Stream]] = []
        self.failures: list[tuple[Purpose, str]] = []
        self.refused = ""
        self._closed = False
        self._listener = _listen(host, ports)
        try:
            self.address: tuple[str, int] = self._listener.getsockname()[:2]
            self._epoll = select.epoll()
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        except BaseException:
            self._listener.close()
            raise

    def fileno(self) -> int:
        """An epoll, readable when somebody has said something. `step` also has to be called every tenth of a
        second or so, since time passes without that.
        """
        return self._epoll.fileno()

    def dial(self, address: tuple[str, int], purpose: Purpose) -> None:
        """Connect to another gate. It is tried again where nobody answers, until this one is closed."""
        self._trying[purpose] = "not tried yet"
        self._dial(address, purpose)

    def trying(self) -> dict[Purpose, str]:
        """The dialled connections that are not through yet, and how the last try of each went, in words."""
        return dict(self._trying)

    def step(self, timeout: float = 0) -> list[tuple[Purpose, Stream]]:
        """Go on with all of them; those connections, of both directions, that are through now.

        One that is lost as it comes through is dialled again: of several for one purpose, the last counts.

        Args:
            timeout: seconds to wait, at most, until there is something to do.
        """
        if not self._through:
            for fd, _ in self._epoll.poll(self._wait(timeout)):
                if fd == self._listener.fileno():
                    self._accept()
                elif fd in self._knocks:
                    self._go_on(self._knocks[fd])
        self._look_at_times()
        through, self._through = self._through, []
        return through

    def close(self) -> None:
        """Stop listening, and close whatever was not handed out; again is harmless."""
        if self._closed:
            return
        self._closed = True
        self._listener.close()
        for knock in self._knocks.values():
            knock.socket.close()
        for _, stream in self._through:
            stream.close()
        self._knocks.clear()
        self._through.clear()
        self._again.clear()
        self._epoll.close()

    def leave_to_parent(self) -> None:
        """See `forks.Holder`."""
        self.close()  # closing sockets that were not shut down takes nothing from the parent

    # -- coming in

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._make_room()
                    return
                continue  # it was gone before it was let in
            if len(self._knocks) >= PENDING:
                self._make_room()
            try:
                prepare(connection, self._heartbeat)
                machine = Callee(self._secret)
                knock = _Knock(connection, machine, None, self._clock() + PATIENCE)
                knock.peer = f"{address[0]}:{address[1]}"
                if self._tls is not None:
                    knock.socket = self._tls.wrap(connection, is_server=True)
                    knock.shaking = True
                self._admit(knock)
            except OSError:
                connection.close()
                continue

    def _make_room(self) -> None:
        """Turn away whoever has waited longest: of those who said nothing, if there is one."""
        strangers = [knock for knock in self._knocks.values() if knock.address is None]
        silent = [knock for knock in strangers if not knock.heard]
        for knock in (silent or strangers)[:1]:
            self._refuse(knock, "it said nothing" if silent else "it did not finish its handshake")

    def _admit(self, knock: _Knock) -> None:
        fd = knock.socket.fileno()
        self._epoll.register(fd, _BOTH if knock.connecting else select.EPOLLIN)
        self._knocks[fd] = knock
        if not knock.connecting:
            self._go_on(knock)

    # -- going out

    def _dial(self, address: tuple[str, int], purpose: Purpose) -> None:
        connection = None
        try:
            family, kind, proto, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
            connection = socket.socket(family, kind, proto)
            prepare(connection, self._heartbeat)
            knock = _Knock(connection, Caller(self._secret, purpose), address, self._clock() + PATIENCE)
            code = connection.connect_ex(where)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
            knock.connecting = True
            self._admit(knock)
        except OSError as error:
            if connection is not None:
                connection.close()
            self._dial_again(address, purpose, explain(error))

    def _dial_again(self, address: tuple[str, int], purpose: Purpose, words: str) -> None:
        self._trying[purpose] = words
        pause = self._pauses.get(purpose, AGAIN)
        self._pauses[purpose] = min(2 * pause, AGAIN_AT_MOST)
        self._again.append((self._clock() + pause, address, purpose))

    def _connected(self, knock: _Knock) -> None:
        code = knock.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        knock.connecting = False
        if self._tls is not None:
            self._epoll.unregister(knock.socket.fileno())
            fd = knock.socket.fileno()
            knock.socket = self._tls.wrap(knock.socket, is_server=False)
            assert knock.socket.fileno() == fd
            knock.shaking = True
            self._epoll.register(fd, _BOTH)
        else:
            self._epoll.modify(knock.socket.fileno(), select.EPOLLIN)
        assert isinstance(knock.machine, Caller)
        knock.to_send = knock.machine.hello

    # -- both

    def _go_on(self, knock: _Knock) -> None:
        try:
            if knock.connecting:
                self._connected(knock)
            if knock.shaking:
                self._shake(knock)
            self._talk(knock)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            writes = isinstance(error, ssl.SSLWantWriteError) or (bool(knock.to_send) and not knock.shaking)
            self._epoll.modify(knock.socket.fileno(), select.EPOLLOUT if writes else select.EPOLLIN)
        except HandshakeError as error:
            self._lose(knock, str(error), again=False)
        except ssl.SSLCertVerificationError as error:
            self._lose(knock, f"TLS: {error.verify_message}", again=False)
        except ssl.SSLEOFError:
            self._lose(knock, "the other side has hung up", again=True)
        except ssl.SSLError as error:
            self._lose(knock, f"TLS: {error.reason or error}", again=False)
        except OSError as error:
            self._lose(knock, explain(error), again=True)

    def _shake(self, knock: _Knock) -> None:
        assert isinstance(knock.socket, ssl.SSLSocket)
        knock.socket.do_handshake()
        knock.shaking = False

    def _talk(self, knock: _Knock) -> None:
        machine = knock.machine
        while True:
            while knock.to_send:
                knock.to_send = knock.to_send[knock.socket.send(knock.to_send) :]
            if not machine.wanted:
                break
            got = knock.socket.recv(machine.wanted)
            if not got:
                raise OSError(errno.ECONNRESET, "the other side has hung up")
            knock.heard = True
            knock.to_send = machine.feed(got)
        self._forget(knock)
        purpose = machine.purpose
        assert purpose is not None
        if knock.address is not None:
            self._trying.pop(purpose, None)
        connection = knock.socket
        stream = TlsStream(connection) if isinstance(connection, ssl.SSLSocket) else Stream(connection)
        self._through.append((purpose, stream))

    def _lose(self, knock: _Knock, words: str, *, again: bool) -> None:
        """It has come to nothing: whoever was dialled is dialled ``again``, or has failed for good."""
        if knock.address is None:
            self._refuse(knock, words)
            return
        self._forget(knock)
        knock.socket.close()
        purpose = knock.machine.purpose
        assert purpose is not None
        if again:
            self._dial_again(knock.address, purpose, words)
        else:
            self._trying.pop(purpose, None)
            self.failures.append((purpose, words))

    def _refuse(self, knock: _Knock, why: str) -> None:
        self._forget(knock)
        self.refused = f"from {knock.peer}: {why}"
        logger.warning("refused a connection to a graph, %s", self.refused)
        knock.socket.close()

    def _forget(self, knock: _Knock) -> None:
        fd = knock.socket.fileno()
        if self._knocks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # -- time

    def _wait(self, timeout: float) -> float:
        times = [knock.deadline for knock in self._knocks.values()] + [at for at, _, _ in self._again]
        if not times:
            return timeout
        return max(0.0, min(timeout, min(times) - self._clock()))

    def _look_at_times(self) -> None:
        now = self._clock()
        for knock in [knock for knock in self._knocks.values() if knock.deadline <= now]:
            self._lose(
                knock, f"no answer within {PATIENCE:g} s" if knock.address else "it said nothing", again=True
            )
        due = [entry for entry in self._again if entry[0] <= now]
        self._again = [entry for entry in self._again if entry[0] > now]
        for _, address, purpose in due:
            self._dial(address, purpose)


class _Knock:
    """A connection whose handshake is not done. ``address`` is where it was dialled to; None for one that came."""

    __slots__ = ("address", "connecting", "deadline", "heard", "machine", "peer", "shaking", "socket", "to_send")

    def __init__(
        self,
        connection: socket.socket,
        machine: Caller | Callee,
        address: tuple[str, int] | None,
        deadline: float,
    ) -> None:
        self.socket = connection
        self.machine = machine
        self.address = address
        self.deadline = deadline
        self.connecting = False
        self.shaking = False
        self.heard = False
        self.to_send = b""
        self.peer = ""


def _listen(host: str, ports: tuple[int, int] | None) -> socket.socket:
    first, last = ports if ports is not None else (0, 0)
    error: OSError | None = None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(first, last + 1):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            return listener
        except OSError as failed:
            listener.close()
            error = failed
            if failed.errno not in (errno.EADDRINUSE, errno.EACCES):
                break
    assert error is not None
    if error.errno in (errno.EADDRINUSE, errno.EACCES) and ports is not None:
        raise OSError(error.errno, f"no port from {first} to {last} is free at {host}: {error.strerror}") from None
    raise OSError(error.errno, f"cannot listen at {host}: {explain(error)}") from None
