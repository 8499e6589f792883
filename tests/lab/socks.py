"""A small SOCKS5 proxy on loopback that has some names and records its requests."""

from __future__ import annotations

import contextlib
import socket
import threading

_GRANTED = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
_NO_SUCH_HOST = b"\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"
_ADDRESS_BYTES = {1: 4, 4: 16}


class SocksProxy:
    """Listen at `port`. `names` maps host names to ports on 127.0.0.1; `asked` is every requested (host, port)."""

    def __init__(self, port: int, names: dict[str, int]) -> None:
        self.port = port
        self.names = names
        self.asked: list[tuple[str, int]] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=16)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            _exactly(client, _exactly(client, 2)[1])
            client.sendall(b"\x05\x00")
            host, port = self._request(client)
            self.asked.append((host, port))
            if host not in self.names:
                client.sendall(_NO_SUCH_HOST)
                return
            with socket.create_connection(("127.0.0.1", self.names[host])) as server:
                client.sendall(_GRANTED)
                threading.Thread(target=pump, args=(server, client), daemon=True).start()
                pump(client, server)

    def _request(self, client: socket.socket) -> tuple[str, int]:
        kind = _exactly(client, 4)[3]
        if kind == 3:
            host = _exactly(client, _exactly(client, 1)[0]).decode()
        else:
            host = _exactly(client, _ADDRESS_BYTES[kind]).hex()
        return host, int.from_bytes(_exactly(client, 2), "big")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise OSError("closed")
        data += piece
    return data


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes in one direction until that side closes."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
