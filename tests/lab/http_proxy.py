"""A small HTTP proxy on loopback. It supports only CONNECT, requires Basic authentication, and records its requests."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading

from tests.lab.socks import pump

_CONNECTED = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 lab\r\n\r\n"
_UNAUTHORIZED = b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="lab"\r\nContent-Length: 0\r\n\r\n'
_FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
#: Bytes of a request that are read.
_HEAD_BYTES = 8192


class HTTPProxy:
    """Listen at `port` and connect to `hosts`, which are other names of 127.0.0.1.

    `asked` is every requested "host:port" with the right user and password. `refused` counts the other requests.
    """

    def __init__(self, port: int, user: str, password: str, hosts: tuple[str, ...] = ("localhost",)) -> None:
        self.port = port
        self.hosts = hosts
        self.asked: list[str] = []
        self.refused = 0
        self._authorization = b"Basic " + base64.b64encode(f"{user}:{password}".encode())
        self._listener = socket.create_server(("127.0.0.1", port), backlog=16)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            first, *fields = _head(client).split(b"\r\n")
            method, place, _version = first.split(b" ")
            given = [field.partition(b":")[2].strip() for field in fields if field.lower().startswith(b"proxy-authorization:")]
            if given != [self._authorization]:
                self.refused += 1
                client.sendall(_UNAUTHORIZED)
                return
            self.asked.append(place.decode())
            host, _, port = place.decode().rpartition(":")
            if method != b"CONNECT" or host not in self.hosts:
                client.sendall(_FORBIDDEN)
                return
            with socket.create_connection(("127.0.0.1", int(port))) as server:
                client.sendall(_CONNECTED)
                threading.Thread(target=pump, args=(server, client), daemon=True).start()
                pump(client, server)

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _head(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _HEAD_BYTES:
        piece = connection.recv(1)
        if not piece:
            raise OSError("closed")
        data += piece
    return data
