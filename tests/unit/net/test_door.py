"""Tests of the door: what it reads, where connections go, and what it costs, on real sockets."""

from __future__ import annotations

import socket
import struct
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.admission import Admission, AdmittedConnection, ConnectionLimits
from s2sgw.net.connection import ConnectionOptions, StreamConnection
from s2sgw.net.dialing import Build, DialFailed
from s2sgw.net.door import AGAIN_SECONDS, HEADER_BYTES, PROVEN_AFTER, DoorFactory, HandedOn
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.host_port import HostPort
from tests.support.socket_reactor import SocketReactor, connected, serve
from tests.support.wires import Recorder, ToyEngine

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' "
    b"from='peer.example' to='example.org' version='1.0'>"
)
ELSEWHERE = HostPort("192.0.2.2", 5271)
GREETING = b"PROXY "
LIMITS = ConnectionLimits(total=10, per_address=0, unproven=3, unproven_per_site=0)


class Places:
    """The places, as the test gives them; what they were asked and told."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.answers: list[Deferred[HostPort | None]] = []
        self.open: list[HandedOn] = []
        self.forgotten = 0
        self.whys: list[tuple[HostPort, str]] = []
        self.unanswered: list[HostPort] = []
        self.greets = GREETING

    def place(self, header: Header, address: str) -> Deferred[HostPort | None]:
        self.asked.append(header.from_)
        self.answers.append(Deferred())
        return self.answers[-1]

    def greeting(self, header: Header, source: HostPort, destination: HostPort) -> bytes:
        return self.greets

    def not_reached(self, header: Header, place: HostPort, why: str) -> None:
        self.forgotten += 1
        self.whys.append((place, why))

    def not_answered(self, place: HostPort) -> None:
        self.unanswered.append(place)

    def may_copy(self) -> bool:
        return True

    def handed_on(self, connection: HandedOn, place: HostPort, header: Header) -> None:
        self.open.append(connection)

    def gone(self, connection: HandedOn) -> None:
        self.open.remove(connection)


class DoorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = SocketReactor()
        self.addCleanup(self.reactor.close)
        self.admission = Admission(LIMITS, self.reactor)
        self.refused: list[Cause] = []
        self.engines: list[ToyEngine] = []
        self.places = Places()
        self.homes: list[socket.socket] = []
        self.reachable = True
        self.factory = DoorFactory(
            self.build, self.admission, lambda address, ending: self.refused.append(ending.cause), self.places, self.dial, self.reactor,
        )

    def build(self, admitted: AdmittedConnection) -> StreamConnection:
        self.engines.append(ToyEngine())
        return StreamConnection(
            self.engines[-1], Recorder(), clock=self.reactor, role="receiving", tls=lambda order: None,
            options=ConnectionOptions(negotiation_timeout=None),
        )

    def dial(self, address: str, port: int, build: Build) -> Deferred[None]:
        self.assertEqual((address, port), ELSEWHERE)
        if not self.reachable:
            return fail(DialFailed(Ending(Cause.CONNECTION_REFUSED, "in words")))
        protocol = build()
        if protocol is None:
            return fail(DialFailed(Ending(Cause.CLOSED)))
        near, far = connected()
        serve(self.reactor, near, protocol)
        self.homes.append(self.plain(far))
        return succeed(None)

    def plain(self, end: socket.socket) -> socket.socket:
        end.setblocking(False)
        self.addCleanup(end.close)
        return end

    def connect(self, data: bytes = HEADER) -> socket.socket:
        """Return the socket of a client that has sent `data`."""
        client, accepted = connected()
        serve(self.reactor, accepted, self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.9", 4000)))
        client.send(data)
        self.reactor.settle()
        return self.plain(client)

    def answer(self, place: HostPort | None) -> None:
        self.places.answers[-1].callback(place)
        self.reactor.settle()

    def fed(self) -> bytes:
        return b"".join(self.engines[-1].fed)

    # --- served here ---

    def test_served_here(self) -> None:
        """A stream whose place is here gets every byte that was read, and those after."""
        client = self.connect(HEADER + b"more\n")
        self.assertEqual((self.places.asked, self.engines), (["peer.example"], []))
        client.send(b"later\n")
        self.reactor.settle()
        self.answer(None)
        self.assertEqual(self.fed(), HEADER + b"more\nlater\n")
        self.assertEqual(self.admission.unproven, 1)

    def test_not_read_before_the_answer(self) -> None:
        """Nothing more is read while the place is looked up: memory is bounded."""
        client = self.connect()
        self.assertEqual(self.reactor.getReaders(), [])
        client.send(b"later\n")
        self.reactor.settle()
        self.answer(None)
        self.assertEqual((len(self.reactor.getReaders()), self.fed()), (1, HEADER + b"later\n"))

    def test_in_pieces(self) -> None:
        """A header that comes byte by byte is read."""
        client = self.connect(HEADER[:1])
        for at in range(1, len(HEADER)):
            self.assertEqual(self.places.asked, [])
            client.send(HEADER[at : at + 1])
            self.reactor.settle()
        self.assertEqual(self.places.asked, ["peer.example"])

    def test_no_header(self) -> None:
        """Input that is no stream header, or has none in the first bytes, is served here and costs no look-up."""
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"<a>", HEADER.replace(b"jabber:server", b"x"), b"<!-- " + b"x" * HEADER_BYTES):
            client = self.connect(data)
            self.assertEqual((self.fed(), self.places.asked), (data, []))
            client.close()
            self.reactor.settle()

    def test_long_header(self) -> None:
        """A header that is longer than the bound is served here, whole."""
        data = HEADER[:-1] + b" x='" + b"y" * HEADER_BYTES + b"'>"
        client = self.connect(data[:3000])
        client.send(data[3000:])
        self.reactor.settle()
        self.assertEqual((self.fed(), self.places.asked), (data, []))

    def test_no_greeting(self) -> None:
        """A connection whose addresses cannot be named to the other node is served here."""
        self.places.greets = b""
        self.connect()
        self.answer(ELSEWHERE)
        self.assertEqual((self.fed(), self.homes), (HEADER, []))

    # --- handed on ---

    def test_handed_on(self) -> None:
        """The other node gets the greeting, then every byte. Its answers come back. No stream is built here."""
        client = self.connect(HEADER + b"more")
        self.answer(ELSEWHERE)
        (home,) = self.homes
        client.send(b" later")
        home.send(b"answer")
        self.reactor.settle()
        self.assertEqual((home.recv(9999), client.recv(9999)), (GREETING + HEADER + b"more later", b"answer"))
        self.assertEqual((self.engines, len(self.places.open)), ([], 1))
        client.close()
        self.reactor.settle()
        self.assertEqual(home.recv(99), b"")
        home.close()
        self.reactor.settle()
        self.assertEqual((self.places.open, self.admission.total, self.reactor.getDelayedCalls()), ([], 0, []))

    def test_not_ended_for_its_age(self) -> None:
        """The other node ends the negotiation. A connection that it keeps counts as proven afterwards."""
        self.connect()
        self.answer(ELSEWHERE)
        self.reactor.advance(LIMITS.negotiation + 1)
        self.reactor.settle()
        self.assertEqual((self.admission.unproven, self.admission.proven, len(self.places.open)), (1, 0, 1))
        self.reactor.advance(PROVEN_AFTER)
        self.assertEqual((self.admission.unproven, self.admission.proven, self.refused), (0, 1, []))

    def test_closed_by_the_other_node(self) -> None:
        """A connection that the other node has closed never counts as proven, although its peer keeps it open."""
        client = self.connect()
        self.answer(ELSEWHERE)
        self.homes[0].recv(9999)
        self.homes[0].send(b"answer")
        self.homes[0].close()
        self.reactor.settle()
        self.assertEqual((client.recv(99), client.recv(99), self.admission.unproven), (b"answer", b"", 1))
        self.reactor.advance(LIMITS.negotiation + PROVEN_AFTER)
        self.reactor.settle()
        self.assertEqual((self.admission.total, self.places.open, self.reactor.getDelayedCalls()), (0, [], []))

    def test_not_answered(self) -> None:
        """A node that closes or breaks a connection before it sends anything is told of. An answer, and a peer's end, are not."""
        def answered(client: socket.socket, home: socket.socket) -> None:
            home.send(b"answer")
            self.reactor.settle()
            home.close()

        def reset_by_peer(client: socket.socket, home: socket.socket) -> None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()

        def closed_by_peer(client: socket.socket, home: socket.socket) -> None:
            client.shutdown(socket.SHUT_WR)
            self.reactor.settle()
            home.recv(9999)
            home.close()

        def closed(client: socket.socket, home: socket.socket) -> None:
            home.recv(9999)
            home.close()

        def reset(client: socket.socket, home: socket.socket) -> None:
            home.close()  # with unread bytes: a reset

        for end, told in ((answered, 0), (reset_by_peer, 0), (closed_by_peer, 0), (closed, 1), (reset, 1)):
            client = self.connect()
            self.answer(ELSEWHERE)
            end(client, self.homes[-1])
            self.reactor.settle()
            self.assertEqual(len(self.places.unanswered), told, end)  # at once
            client.close()
            self.reactor.settle()
            self.assertEqual((self.places.unanswered, self.places.open), ([ELSEWHERE] * told, []), end)
            self.places.unanswered.clear()

    def test_gives_way(self) -> None:
        """Until then it gives way to newcomers like any unproven connection. Both sides of it end."""
        self.connect()
        self.answer(ELSEWHERE)
        for _ in range(LIMITS.unproven):
            self.connect(b"")
        self.reactor.settle()
        self.assertEqual((self.refused, self.places.open, self.admission.unproven), ([Cause.TOO_MANY_CONNECTIONS], [], 3))
        self.assertEqual(self.homes[0].recv(9999), GREETING + HEADER)
        self.assertRaises(ConnectionResetError, self.homes[0].recv, 9999)

    def test_not_reached(self) -> None:
        """If the other node does not answer, the place is asked for again, until the time of the negotiation is over."""
        self.reachable = False
        self.connect()
        self.answer(ELSEWHERE)
        self.assertEqual((self.places.forgotten, self.places.whys), (1, [(ELSEWHERE, "connection-refused: in words")]))
        self.reactor.advance(AGAIN_SECONDS)
        self.assertEqual(self.places.asked, ["peer.example"] * 2)
        self.reachable = True
        self.answer(ELSEWHERE)
        self.assertEqual(len(self.places.open), 1)

    def test_no_place_in_time(self) -> None:
        """A connection whose place is not found in the time of a negotiation is ended, and its look-up too."""
        client = self.connect()
        self.reactor.advance(LIMITS.negotiation + 1)
        self.reactor.settle()
        self.assertEqual((self.refused, self.admission.total), ([Cause.NEGOTIATION_TIMEOUT], 0))
        self.assertTrue(self.places.answers[0].called)
        self.assertRaises(ConnectionResetError, client.recv, 99)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_ended_while_it_connects(self) -> None:
        """A connection that gives way while it is handed on leaves nothing open."""
        self.connect()
        dial = self.factory.dialler
        waiting: list[tuple[Any, ...]] = []

        def slow(*arguments: Any) -> Deferred[None]:
            waiting.append(arguments)
            return Deferred()

        self.factory.dialler = slow
        self.answer(ELSEWHERE)
        self.admission.close()
        self.reactor.settle()
        self.failureResultOf(dial(*waiting[0]), DialFailed)
        self.assertEqual((self.homes, self.places.open, self.admission.total), ([], [], 0))

    def test_place_that_fails(self) -> None:
        """A fault of the look-up ends the connection, and is logged."""
        self.connect()
        self.places.answers[0].errback(RuntimeError("a mistake"))
        self.reactor.settle()
        self.assertEqual((len(self.flushLoggedErrors(RuntimeError)), self.admission.total), (1, 0))

    def test_abort(self) -> None:
        """A connection can be ended from here, when the other node is dead."""
        client = self.connect()
        self.answer(ELSEWHERE)
        self.places.open[0].abort()
        self.reactor.settle()
        self.assertEqual((self.places.open, self.admission.total), ([], 0))
        self.assertRaises(ConnectionResetError, client.recv, 99)
