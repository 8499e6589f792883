"""A reactor of real sockets on a `Clock`: it turns only when told to, and never waits."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.support.certificates import leaf_for
from tests.support.wires import raw_context

#: Turns after which a test fails.
TURNS = 5000


@implementer(IReactorFDSet)
class SocketReactor(Clock):
    """Serve the sockets that are ready, as Twisted's poll reactor does. `waits` counts registrations for writing."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: dict[int, Any] = {}
        self._writers: dict[int, Any] = {}
        self.waits = 0

    def addReader(self, reader: Any) -> None:
        self._readers[reader.fileno()] = reader

    def addWriter(self, writer: Any) -> None:
        self.waits += 1
        self._writers[writer.fileno()] = writer

    def removeReader(self, reader: Any) -> None:
        self._remove(self._readers, reader)

    def removeWriter(self, writer: Any) -> None:
        self._remove(self._writers, writer)

    def _remove(self, registered: dict[int, Any], selectable: Any) -> None:
        descriptor = selectable.fileno()
        if descriptor == -1:
            descriptor = next((number for number, each in registered.items() if each is selectable), -1)
        registered.pop(descriptor, None)

    def removeAll(self) -> list[Any]:
        return []

    def getReaders(self) -> list[Any]:
        return list(self._readers.values())

    def getWriters(self) -> list[Any]:
        return list(self._writers.values())

    def turn(self) -> bool:
        """Call everything due and serve everything ready; return whether there was anything."""
        due = any(call.getTime() <= self.seconds() for call in self.getDelayedCalls())
        self.advance(0)
        poller = select.poll()
        for descriptor in {*self._readers, *self._writers}:
            mask = (select.POLLIN if descriptor in self._readers else 0) | (select.POLLOUT if descriptor in self._writers else 0)
            poller.register(descriptor, mask)
        ready = poller.poll(0)
        for descriptor, mask in ready:
            reader: Any = self._readers.get(descriptor)
            if mask & (select.POLLIN | select.POLLHUP | select.POLLERR) and reader is not None:
                self._serve(reader, reader.doRead)
            if mask & select.POLLOUT and descriptor in self._writers:
                writer = self._writers[descriptor]
                self._serve(writer, writer.doWrite)
        return due or bool(ready)

    def _serve(self, selectable: Any, call: Any) -> None:
        why = call()
        if why is not None:
            self.removeReader(selectable)
            self.removeWriter(selectable)
            selectable.connectionLost(Failure(why))

    def settle(self) -> None:
        """Turn until nothing is left to do at this time."""
        for _ in range(TURNS):
            if not self.turn():
                return
        raise AssertionError("it does not come to rest")

    def close(self) -> None:
        """Close all open connections."""
        for selectable in {*self._readers.values(), *self._writers.values()}:
            with suppress(Exception):
                selectable.connectionLost(Failure(ConnectionError("the test is over")))


def connected() -> Iterator[socket.socket]:
    """Yield both ends of a TCP connection on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # do not wait for an acknowledgement
    yield from (near, far)


def serve(reactor: SocketReactor, end: socket.socket, protocol: Any) -> Any:
    """Give `protocol` the end of a connection, as Twisted does when it accepts one; return Twisted's transport."""
    end.setblocking(False)
    port: Any = SimpleNamespace(_realPortNumber=1)
    transport = tcp.Server(end, protocol, end.getpeername(), port, 1, reactor)
    protocol.makeConnection(transport)
    return transport


def client_handshake(reactor: SocketReactor, near: socket.socket) -> SSL.Connection:
    """Do the client's part of a TLS handshake on `near`, with the certificate of peer.example."""
    tls = SSL.Connection(raw_context(leaf_for("peer.example")), near)
    tls.set_connect_state()
    for _ in range(6):
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            reactor.settle()
    return tls
