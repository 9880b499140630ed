"""The handshake: how two processes that meet over TCP show each other that they are of one graph.

Both know the graph's secret, which was handed to them by other ways. Neither says it: each gives a random number,
and shows that it could compute a MAC (HMAC-SHA256) over both numbers and what the connection is for.

    caller                                                  callee
    HELLO      magic, purpose, nonce of the caller    ->
                                                      <-    CHALLENGE  magic, nonce of the callee, MAC "callee"
    PROOF      MAC "caller"                           ->
                                                      <-    WELCOME    MAC "welcome"

The three MACs have labels of their own, so that none can be sent back for another, and nonces are used once, so
that none can be used again. All messages are of fixed size; nothing in them is interpreted before its size is
right, and but for magic and purpose nothing is interpreted at all. After WELCOME both sides may send what they
like. (Nothing encrypts or authenticates that: where the network is not trusted, the connection is TLS, and this
runs inside it.)
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
import sys
from typing import NamedTuple

from async_adag.protocol.frame import ChannelError

SECRET_BYTES = 32
NONCE_BYTES = 32
_MAC_BYTES = 32
VERSION = 1
MAGIC = b"ADAG-TCP" + bytes([VERSION, 0 if sys.byteorder == "little" else 1])
"""The protocol, its version, and the order of bytes, which payloads are not translated from."""

_ROLES = ("control", "edge")
_HELLO = struct.Struct(f"<{len(MAGIC)}sBI{NONCE_BYTES}s")
_CHALLENGE = struct.Struct(f"<{len(MAGIC)}s{NONCE_BYTES}s{_MAC_BYTES}s")


class HandshakeError(ChannelError):
    """The other side is not of this graph, or does not speak this protocol."""


class Purpose(NamedTuple):
    """What a connection is for: ``role`` is "control" or "edge", ``number`` the actor's or the channel's."""

    role: str
    number: int


class _Side:
    """What both sides have in common: messages of fixed size, in turn."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
        self._secret = secret
        self._got = b""
        self._transcript = b""
        self._size = 0
        self._broken = False

    @property
    def wanted(self) -> int:
        """Bytes to be fed next; 0 when the handshake is done. What lies behind them is not the handshake's."""
        return self._size - len(self._got)

    def feed(self, data: bytes) -> bytes:
        """Take in at most `wanted` bytes; gives what is to be sent now.

        Raises:
            HandshakeError: the handshake has failed, for good.
        """
        if self._broken or len(data) > self.wanted:
            self._broken = True
            raise HandshakeError("bytes where none were expected")
        self._got += data
        if self.wanted or not data:
            return b""
        message, self._got = self._got, b""
        self._broken = True  # until it has turned out well
        answer = self._take(message)
        self._broken = False
        return answer

    def _take(self, message: bytes) -> bytes:
        raise NotImplementedError

    def _mac(self, label: bytes) -> bytes:
        return hmac.digest(self._secret, label + b"\0" + self._transcript, hashlib.sha256)

    def _check(self, label: bytes, mac: bytes) -> None:
        if not hmac.compare_digest(self._mac(label), mac):
            raise HandshakeError("the other side does not know the graph's secret")


class Caller(_Side):
    """Who has connected. Sends `hello` first."""

    def __init__(self, secret: bytes, purpose: Purpose, nonce: bytes | None = None) -> None:
        super().__init__(secret)
        self.purpose = purpose
        nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self.hello = self._transcript = _HELLO.pack(MAGIC, _ROLES.index(purpose.role), purpose.number, nonce)
        self._size = _CHALLENGE.size

    def _take(self, message: bytes) -> bytes:
        if self._size == _MAC_BYTES:
            self._check(b"welcome", message)
            self._size = 0
            return b""
        magic, nonce, mac = _CHALLENGE.unpack(message)
        _check_magic(magic)
        self._transcript += nonce
        self._check(b"callee", mac)
        self._size = _MAC_BYTES
        return self._mac(b"caller")


class Callee(_Side):
    """Who was connected to.

    Attributes:
        purpose: what the connection is for; None until the caller has proved that it may say so.
    """

    def __init__(self, secret: bytes, nonce: bytes | None = None) -> None:
        super().__init__(secret)
        self.purpose: Purpose | None = None
        self._nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._claimed: Purpose | None = None
        self._size = _HELLO.size

    def _take(self, message: bytes) -> bytes:
        if self._claimed is not None:
            self._check(b"caller", message)
            self.purpose = self._claimed
            self._size = 0
            return self._mac(b"welcome")
        magic, role, number, _ = _HELLO.unpack(message)
        _check_magic(magic)
        if role >= len(_ROLES):
            raise HandshakeError(f"unknown role {role}")
        self._claimed = Purpose(_ROLES[role], number)
        self._transcript = message + self._nonce
        self._size = _MAC_BYTES
        return _CHALLENGE.pack(MAGIC, self._nonce, self._mac(b"callee"))


def _check_magic(magic: bytes) -> None:
    if magic == MAGIC:
        return
    if magic[:-2] != MAGIC[:-2]:
        raise HandshakeError("the other side does not speak this protocol")
    if magic[-2] != MAGIC[-2]:
        raise HandshakeError(f"the other side speaks version {magic[-2]} of the protocol, this one {VERSION}")
    raise HandshakeError("the other side's machine has another order of bytes")
