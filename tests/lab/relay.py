"""A TCP relay between two servers that can reset its connections, or drop their data."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from tests.lab.lab import Lab

#: `SO_LINGER` with a time of 0: closing sends RST.
_AT_ONCE = struct.pack("ii", 1, 0)


class Relay:
    """Listen at `port` and connect each caller to `target`, with two threads for each connection, until `close`."""

    def __init__(self, lab: Lab, target: int) -> None:
        self.port = lab.port()
        self.cuts = 0
        self._target = target
        self._swallows = False
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=16)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), 5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                with self._lock:
                    self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self._swallows:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def swallow(self) -> None:
        """Drop all data from now on. Both ends keep their connection."""
        self._swallows = True

    def cut(self) -> int:
        """Reset every connection at both ends; return how many there were."""
        with self._lock:
            ends, self._open = self._open, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                end.shutdown(socket.SHUT_RD)
            end.close()
        self._swallows = False
        self.cuts += bool(ends)
        return len(ends) // 2

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
