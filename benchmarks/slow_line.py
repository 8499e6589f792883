"""A TCP relay on loopback that delays its data, as a line with a long round trip does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from queue import SimpleQueue

from tests.lab.lab import Lab


class SlowLine:
    """Listen at `port` and connect each caller to `target`. A round trip takes `seconds`, also that of the TCP handshake.

    The kernel of this machine answers a caller's SYN at once, so the caller's first data is delayed by another round trip.
    """

    def __init__(self, lab: Lab, target: int, seconds: float) -> None:
        self.port = lab.port()
        self._target = target
        self._seconds = seconds
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                opened = time.monotonic() + self._seconds
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), 5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                for source, sink in ((near, far), (far, near)):
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    queue: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                    reading = source, queue, opened if source is near else 0.0
                    threading.Thread(target=self._read, args=reading, daemon=True).start()
                    threading.Thread(target=_write, args=(sink, queue), daemon=True).start()

    def _read(self, source: socket.socket, queue: SimpleQueue[tuple[float, bytes]], opened: float) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            queue.put((max(time.monotonic(), opened) + self._seconds / 2, data))

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _write(sink: socket.socket, queue: SimpleQueue[tuple[float, bytes]]) -> None:
    """Write due data, in order, until there is no more."""
    with contextlib.suppress(OSError):
        while True:
            due, data = queue.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)
