"""TLS for the edges of a graph, by the certificates that Ray itself was told to use."""

from __future__ import annotations

import os
import socket
import ssl


class Tls:
    """Both sides' contexts. Each side shows its certificate, and takes that of the other if the CA has signed it.

    Names in certificates are not checked, as Ray does not: hosts are reached by address, and whoever has a
    certificate of the CA still has to know the graph's secret.
    """

    def __init__(self, certificate: str, key: str, ca: str) -> None:
        """Contexts from files, each a PEM file's path.

        Raises:
            OSError: a file cannot be read, or is no such file; says which (ssl.SSLError is one).
        """
        self._server = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key, ca)
        self._client = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, ca)

    def wrap(self, connection: socket.socket, *, is_server: bool) -> ssl.SSLSocket:
        """The socket, with TLS; the handshake has not begun."""
        context = self._server if is_server else self._client
        return context.wrap_socket(connection, server_side=is_server, do_handshake_on_connect=False)


def ray_tls() -> Tls | None:
    """TLS as Ray uses it, by the environment of this process; None where Ray does not.

    Raises:
        OSError: a variable that Ray needs for it is missing, or as `Tls`.
    """
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise OSError(f"RAY_USE_TLS is set, and {', '.join(missing)} is not: set it to the path of a PEM file")
    return Tls(*(os.environ[name] for name in names))


def _context(protocol: int, certificate: str, key: str, ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise OSError(f"TLS as Ray's environment says ({certificate}, {key}, {ca}): {error}") from error
    return context
