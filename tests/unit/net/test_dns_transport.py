"""Tests of dnspython's sockets on a reactor, with events in another order than in a query."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dns_bounds import BYTES, AnswerTooLarge
from s2sgw.net.dns_transport import TwistedBackend
from tests.support.dns import FakeReactor, FakeServer

SERVER = ("127.0.0.1", 53)


class SocketTests(SynchronousTestCase):
    """Tests of reading before, after and instead of an arrival."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.backend = TwistedBackend(self.reactor)
        making = Deferred.fromCoroutine(self.backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM, destination=SERVER))
        self.socket: Any = self.successResultOf(making)
        [self.port] = self.reactor.udp.values()

    def read(self) -> Deferred[tuple[bytes, object]]:
        return Deferred.fromCoroutine(self.socket.recvfrom(65535, None))

    def test_backend(self) -> None:
        """The backend has a name and wants its sockets connected."""
        self.assertEqual(self.backend.name(), "twisted")
        self.assertTrue(self.backend.datagram_connection_required())

    def test_arrives_first(self) -> None:
        """A datagram that arrives before it is read is kept. Their number is bounded: the newest stay."""
        for number in range(20):
            self.port.protocol.datagramReceived(bytes([number]), SERVER)
        self.assertEqual([self.successResultOf(self.read())[0][0] for _ in range(16)], list(range(4, 20)))
        self.assertNoResult(self.read())

    def test_refused_first(self) -> None:
        """A refusal before the read is reported by it, whatever else arrives. A second close has no effect."""
        self.reactor.settle()
        self.port.protocol.connectionRefused()
        self.port.stopListening()
        self.failureResultOf(self.read(), ConnectionRefusedError)
        self.successResultOf(Deferred.fromCoroutine(self.socket.close()))

    def test_scoped(self) -> None:
        """A link-local server is recognised by its address. Datagrams carry no scope."""
        place = ("fe80::1%lo", 53)
        making = Deferred.fromCoroutine(self.backend.make_socket(socket.AF_INET6, socket.SOCK_DGRAM, destination=place))
        self.socket = self.successResultOf(making)
        ours = list(self.reactor.udp.values())[-1]
        self.assertEqual(ours.peer, place)
        ours.protocol.datagramReceived(b"answer", ("fe80::1", 53))
        self.assertEqual(self.successResultOf(self.read())[0], b"answer")

    def test_cancelled(self) -> None:
        """A cancelled reader is not called back."""
        reading = self.read()
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.port.protocol.datagramReceived(b"late", SERVER)
        self.assertEqual(self.successResultOf(self.read())[0], b"late")

    def test_connecting_cancelled(self) -> None:
        """A cancelled connection attempt raises the same exception as any cancelled call, so that time-outs are recognised."""
        FakeServer(self.reactor, ("127.0.0.1", 5300))
        self.reactor.deaf.add(("127.0.0.1", 5300))
        making = Deferred.fromCoroutine(self.backend.make_socket(socket.AF_INET, socket.SOCK_STREAM, destination=("127.0.0.1", 5300)))
        making.cancel()
        self.failureResultOf(making, CancelledError)

    def test_too_large(self) -> None:
        """An answer that takes too long to parse is an error. A datagram with another id is no answer, and is dropped."""
        self.successResultOf(Deferred.fromCoroutine(self.socket.sendto(b"\0\1" + bytes(10), SERVER, None)))
        reading = self.read()
        for id in (b"\0\2", b"\0\1"):
            self.assertNoResult(reading)
            self.port.protocol.datagramReceived(id + bytes(BYTES), SERVER)
        self.failureResultOf(reading, AnswerTooLarge)

    def test_stream(self) -> None:
        """A message on a stream is read as a whole, in any pieces; one that takes too long to parse is not awaited to its end."""
        FakeServer(self.reactor, ("127.0.0.1", 5300))
        for message, too_large in ((bytes(300), False), (bytes(BYTES), False), (bytes(BYTES + 1), True), (bytes(60_000), True)):
            making = Deferred.fromCoroutine(
                self.backend.make_socket(socket.AF_INET, socket.SOCK_STREAM, destination=("127.0.0.1", 5300)),
            )
            self.reactor.settle()
            stream: Any = self.successResultOf(making)
            reading = Deferred.fromCoroutine(stream.recv(2, None))
            data = len(message).to_bytes(2) + message
            for piece in (data[:1], data[1:2], data[2:200], data[200 : BYTES + 3]):
                self.assertNoResult(reading)
                stream._protocol.dataReceived(piece)
            if too_large:
                self.failureResultOf(reading, AnswerTooLarge)
                continue
            self.assertEqual(self.successResultOf(reading), data[:2])
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(stream.recv(99_999, None))), message)
