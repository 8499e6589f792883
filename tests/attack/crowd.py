"""Crowds of attackers: thousands of connections, from many addresses, that send little."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterable, Iterator

#: Connections that are being opened at once.
UNDER_WAY = 200


def addresses(prefix: str, number: int) -> list[str]:
    """Return `number` addresses with this beginning: of one /24 ("127.3.0."), of a /16 ("127.3."), of as many /24s ("127.")."""
    return [
        {3: f"{prefix}{at % 254 + 1}", 2: f"{prefix}{at // 254 % 254}.{at % 254 + 1}", 1: f"{prefix}{at // 254 % 254}.{at % 254}.9"}
        [prefix.count(".")] for at in range(number)
    ]


class Crowd:
    """Connections that are open or being opened."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.open: dict[int, socket.socket] = {}
        self._poll = select.epoll()

    def connect(self, source: str, say: bytes = b"") -> bool:
        """Open another connection from `source`, and send this much on it. Return False if the system has no port for it."""
        made = socket.socket()
        try:
            made.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: a separate port for each destination
            made.bind((source, 0))
            made.settimeout(5)
            made.connect(("127.0.0.1", self._port))
            if say:
                made.send(say)
        except OSError:
            made.close()
            return False
        made.setblocking(False)
        self.open[made.fileno()] = made
        self._poll.register(made.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        return True

    def reap(self, seconds: float = 0.0) -> int:
        """Remove the connections that the other side has closed; return their number."""
        gone = 0
        for descriptor, events in self._poll.poll(seconds, 1000):
            held = self.open[descriptor]
            closed = bool(events & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP))
            with contextlib.suppress(BlockingIOError, OSError):
                closed = closed or not held.recv(65536)
            if closed:
                self.close(descriptor)
                gone += 1
        return gone

    def close(self, descriptor: int) -> None:
        held = self.open.pop(descriptor)
        self._poll.unregister(descriptor)
        held.close()

    def close_all(self) -> None:
        """Close all connections at once."""
        for descriptor in list(self.open):
            self.close(descriptor)


def keep_open(
    port: int, sources: Iterable[str], number: int, seconds: float, say: bytes = b"", per_second: float = 1e9,
    proxied: bool = False,
) -> None:
    """Hold `number` connections open, and replace each one that is closed, up to a number a second.

    `proxied`: they come through a load balancer, which sends `sources` by the PROXY protocol.
    """
    crowd, turn = Crowd(port), _round(list(sources))
    end = time.monotonic() + seconds
    due = time.monotonic()
    while time.monotonic() < end:
        crowd.reap()
        while len(crowd.open) < number and time.monotonic() < end:
            source = next(turn)
            crowd.connect("127.0.0.1" if proxied else source, proxy_header(source) + say if proxied else say)
            due = max(due + 1 / per_second, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))
            if len(crowd.open) % 50 == 0:
                crowd.reap()
        crowd.reap(0.05)


def proxy_header(source: str) -> bytes:
    """Return the header of a load balancer for a connection from `source` (PROXY protocol, version 1)."""
    family, ours = ("TCP6", "2001:db8:ffff::1") if ":" in source else ("TCP4", "192.0.2.1")
    return f"PROXY {family} {source} {ours} 40000 5269\r\n".encode()


def _round(items: list[str]) -> Iterator[str]:
    while True:
        yield from items
