"""A TCP relay between two servers that can delay, drop or reset what it carries."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

from tests.lab.lab import Lab

#: `SO_LINGER` with a time of 0: closing sends RST.
_AT_ONCE = struct.pack("ii", 1, 0)


class Relay:
    """Listen at `port` and connect each caller to `target`, with two threads for each connection, until `close`.

    The end of one side of a connection, or its reset, is passed on to the other side.
    """

    def __init__(self, lab: Lab, target: int) -> None:
        self.port = lab.port()
        self.cuts = 0
        #: seconds by which each piece of data is late, in both directions
        self.delay = 0.0
        self._target = target
        self._swallows = False
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.listen()

    def listen(self) -> None:
        """Accept connections, also again after `refuse`."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=16)
            threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse connections from now on, as a port without a process does. Those that are open stay."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), 5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                with self._lock:
                    self._open += [near, far]
                ended: list[socket.socket] = []
                for source, sink in ((near, far), (far, near)):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._carry, args=(source, sink, ended), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, ended: list[socket.socket]) -> None:
        """Carry one direction. `ended`: the sources of the connection that have ended in order."""
        try:
            while data := source.recv(65536):
                if self.delay:
                    time.sleep(self.delay)
                if not self._swallows:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
            ended.append(source)
            if len(ended) == 2:
                self._forget(ended)
                for end in ended:
                    end.close()
        except OSError:
            self._forget([source, sink])
            _reset([source, sink])

    def _forget(self, ends: list[socket.socket]) -> None:
        with self._lock:
            self._open = [each for each in self._open if each not in ends]

    def swallow(self) -> None:
        """Drop all data from now on. Both ends keep their connection."""
        self._swallows = True

    def cut(self) -> int:
        """Reset every connection at both ends; return how many there were."""
        with self._lock:
            ends, self._open = self._open, []
        _reset(ends)
        self._swallows = False
        self.cuts += bool(ends)
        return len(ends) // 2

    def close(self) -> None:
        """Refuse connections, and reset those that are open."""
        self.refuse()
        self.cut()


def _reset(ends: list[socket.socket]) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            end.shutdown(socket.SHUT_RD)
        end.close()
