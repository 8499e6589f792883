"""Tests of the door's look-ups, and of the listener for nodes."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any
from unittest.mock import Mock

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.door import HandOn, Placement, ServeHere
from s2sgw.composition.node_listener import (
    BURST,
    CLOSED_PER_TURN,
    CONNECT_SECONDS,
    LOGGED,
    LOGGED_SECONDS,
    REMEMBERED_SECONDS,
    RESET_PER_TURN,
    LegPlacing,
    NodeDoor,
    NodeFactory,
    NodeListener,
    RareWarnings,
)
from s2sgw.net.dialing import DialFailed
from s2sgw.net.listening import SilentConnection
from s2sgw.net.node_header import NodeHeaders
from s2sgw.net.proxy_protocol import ProxyHeader, parse, write
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain

LOCAL, PEER = Domain.parse("example.org"), Domain.parse("peer.example")
FROM_PEER, FROM_SERVER = (Header(*names, None, "1.0") for names in (("example.org", "peer.example"), ("peer.example", "example.org")))
ELSEWHERE = HostPort("192.0.2.2", 5271)
ENDS = (HostPort("203.0.113.7", 40000), HostPort("192.0.2.1", 5269))
KEY = b"the secret of the nodes"


def capture(case: SynchronousTestCase) -> Sequence[Any]:
    """Return the lines of the log from now on."""
    return case.enterContext(capturedLogs())


class Homes:
    """The homes, as the test answers for them."""

    def __init__(self) -> None:
        self.asked: list[Domain] = []
        self.answers: list[Deferred[Placement | Ending]] = []

    async def locate(self, peer: Domain) -> Placement | Ending:
        self.asked.append(peer)
        self.answers.append(Deferred())
        return await self.answers[-1]


class Connection:
    """A connection that is handed on."""

    aborted = 0

    def abort(self) -> None:
        self.aborted += 1


class DoorTests(SynchronousTestCase):
    """The look-ups."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.homes = Homes()
        self.door = NodeDoor(self.clock, self.homes, {LOCAL}, KEY)
        self.federation, self.backend = LegPlacing(self.door, "federation"), LegPlacing(self.door, "backend")

    def place(self, answer: Placement | Ending, header: Header = FROM_PEER, leg: LegPlacing | None = None) -> HostPort | None:
        placing = (leg or self.federation).place(header, "203.0.113.7")
        if not placing.called:
            self.homes.answers[-1].callback(answer)
        found: HostPort | None = self.successResultOf(placing)
        return found

    def test_placed(self) -> None:
        """Streams of both legs go to the home of their peer; if that is here, or unknown in the end, they are served here."""
        elsewhere = HandOn("b", str(ELSEWHERE))
        for answer, expected in ((elsewhere, ELSEWHERE), (ServeHere(), None), (Ending(Cause.NO_NODE), None)):
            for header, leg in ((FROM_PEER, self.federation), (FROM_SERVER, self.backend)):
                self.assertEqual(self.place(answer, header, leg), expected)
                self.clock.advance(REMEMBERED_SECONDS)
        self.assertEqual(self.homes.asked, [PEER] * 6)

    def test_no_look_up(self) -> None:
        """A header without names, or not to us from a peer, or not from us on a server's stream, costs no look-up."""
        for header in (
            Header(None, "peer.example", None, "1.0"), Header("example.org", None, None, "1.0"), Header("example.org", "a b", None, "1.0"),
            Header("other.example", "peer.example", None, "1.0"), Header("..", "peer.example", None, "1.0"),
        ):
            self.assertIsNone(self.successResultOf(self.federation.place(header, "203.0.113.7")), header)
        self.assertIsNone(self.successResultOf(self.backend.place(FROM_PEER, "127.0.0.1")))
        self.assertEqual(self.homes.asked, [])

    def test_remembered(self) -> None:
        """A home is remembered for a moment, unless nothing answers there or the node is dead. Nothing else is."""
        elsewhere = HandOn("b", str(ELSEWHERE))
        self.place(elsewhere)
        self.assertEqual((self.place(ServeHere()), len(self.homes.asked)), (ELSEWHERE, 1))
        self.federation.not_reached(FROM_PEER, ELSEWHERE, "connection-refused")
        self.assertEqual((self.place(elsewhere), len(self.homes.asked)), (ELSEWHERE, 2))
        self.door.node_ended("b")
        self.assertEqual((self.place(Ending(Cause.NO_NODE)), len(self.homes.asked)), (None, 3))
        self.assertEqual((self.place(ServeHere()), len(self.homes.asked)), (None, 4))
        self.assertEqual((self.place(elsewhere), len(self.homes.asked)), (ELSEWHERE, 5))
        self.clock.advance(REMEMBERED_SECONDS)
        self.assertEqual((self.place(ServeHere()), len(self.homes.asked)), (None, 6))

    def test_forgotten_when_a_connection_ends(self) -> None:
        """A home that closes a connection may have given the peer up: the next one is looked up again. Another home is remembered."""
        elsewhere, other = HandOn("b", str(ELSEWHERE)), HandOn("c", "192.0.2.3:5271")
        self.place(elsewhere)
        connections = [Connection(), Connection()]
        for connection in connections:
            self.federation.handed_on(connection, ELSEWHERE, FROM_PEER)
        self.federation.gone(connections[0])
        self.assertEqual((HostPort("192.0.2.3", 5271), 2), (self.place(other), len(self.homes.asked)))
        self.federation.gone(connections[1])
        self.assertEqual((HostPort("192.0.2.3", 5271), 2), (self.place(ServeHere()), len(self.homes.asked)))

    def test_flood_of_names(self) -> None:
        """One address causes a bounded number of look-ups; the connections beyond are served here. Others are not touched."""
        flood = [
            self.federation.place(Header("example.org", f"x{number}.example", None, "1.0"), "203.0.113.66")
            for number in range(2 * int(BURST))
        ]
        self.assertLess(len(self.homes.asked), 20)
        self.assertEqual(sum(each.called for each in flood), BURST)
        placing = self.federation.place(FROM_PEER, "203.0.113.7")
        self.assertEqual(self.homes.asked[-1], PEER)
        for number in range(len(self.homes.answers)):
            self.homes.answers[number].callback(ServeHere())
        self.assertIsNone(self.successResultOf(placing))

    def test_all_streams_of_a_server(self) -> None:
        """A server opens the streams of all peers from one address. All of them are looked up, a few at a time."""
        placings = [
            self.backend.place(Header(f"x{number}.example", "example.org", None, "1.0"), "127.0.0.1")
            for number in range(2 * int(BURST))
        ]
        while len(self.homes.answers) < len(placings):
            self.homes.answers[-1].callback(ServeHere())
            waiting = [each for each in self.homes.answers if not each.called]
            for each in waiting:
                each.callback(ServeHere())
            self.clock.advance(0)
        self.assertEqual(len(set(self.homes.asked)), 2 * int(BURST))

    def test_cancelled(self) -> None:
        """A connection that ends frees its place in the line, and its look-up."""
        for number in range(int(BURST)):
            placing = self.federation.place(Header("example.org", f"x{number}.example", None, "1.0"), "203.0.113.66")
            placing.addErrback(lambda _: None)
            placing.cancel()
        placing = self.federation.place(FROM_PEER, "203.0.113.7")
        self.homes.answers[-1].callback(ServeHere())
        self.assertIsNone(self.successResultOf(placing))

    def test_leaving(self) -> None:
        """A door that stops asks each home once, and waits until its connections are gone."""
        self.successResultOf(self.door.leave())
        dialled: list[tuple[str, int]] = []

        def dial(address: str, port: int, build: Any) -> Deferred[None]:
            dialled.append((address, port))
            transport = StringTransport()
            build().makeConnection(transport)
            header = parse(transport.value())
            assert header is not None
            self.assertEqual((self.door.headers.leg(header), transport.disconnecting), (f"{self.door.name} leave", True))
            return fail(DialFailed(Ending(Cause.CONNECTION_REFUSED)))

        self.door._dialler = dial  # type: ignore[assignment]
        connections = [Connection() for _ in range(3)]
        for connection in connections[:2]:
            self.federation.handed_on(connection, ELSEWHERE, FROM_PEER)
        self.federation.handed_on(connections[2], HostPort("192.0.2.3", 5271), FROM_PEER)
        leaving = self.door.leave()
        self.assertEqual(set(dialled), {("192.0.2.2", 5271), ("192.0.2.3", 5271)})
        self.assertEqual(len(dialled), 2)
        for connection in connections:
            self.assertNoResult(leaving)
            self.federation.gone(connection)
        self.successResultOf(leaving)

    def test_failures_are_logged(self) -> None:
        """A failed handing on is logged with the node, its address and why; the same again only after a minute, with a number."""
        lines = capture(self)
        self.place(HandOn("b", str(ELSEWHERE)))
        for _ in range(3):
            self.federation.not_reached(FROM_PEER, ELSEWHERE, "connection-refused: in words")
            self.federation.not_answered(ELSEWHERE)
        first, second = lines
        self.assertEqual(
            [first[key] for key in ("event", "node", "address", "detail")], ["not handed on", "b", "192.0.2.2:5271", "connection-refused: in words"],
        )
        self.assertIn("closed the connection before it sent anything", second["detail"])
        self.assertIn("cluster.members", second["detail"])
        self.clock.advance(LOGGED_SECONDS)
        self.federation.not_answered(ELSEWHERE)
        self.assertEqual((lines[2]["not_logged"], self.door.failed), (4, 7))

    def test_many_failures(self) -> None:
        """The lines of a minute are bounded."""
        lines = capture(self)
        for number in range(1000):
            self.federation.not_answered(HostPort("192.0.2.2", number))
        self.assertEqual(len(lines), LOGGED)

    def test_dead_node(self) -> None:
        """The connections to a dead node are ended, and no others."""
        self.place(HandOn("b", str(ELSEWHERE)))
        one, other = Connection(), Connection()
        self.federation.handed_on(one, ELSEWHERE, FROM_PEER)
        self.federation.handed_on(other, HostPort("192.0.2.3", 5271), FROM_PEER)
        self.door.node_ended("b")
        self.assertEqual((one.aborted, other.aborted, self.door.open, self.door.number), (1, 0, 2, 2))
        self.federation.gone(one)
        self.door.close()
        self.assertEqual((one.aborted, other.aborted, self.door.open), (1, 1, 1))

    def test_many_connections_of_a_dead_node(self) -> None:
        """They are reset some in each turn of the reactor; those that are gone meanwhile are left alone."""
        self.place(HandOn("b", str(ELSEWHERE)))
        connections = [Connection() for _ in range(RESET_PER_TURN + 2)]
        for each in connections:
            self.federation.handed_on(each, ELSEWHERE, FROM_PEER)
        self.door.node_ended("b")
        self.assertEqual((RESET_PER_TURN, True), (sum(each.aborted for each in connections), self.federation.may_copy()))
        self.federation.gone(connections[-1])
        self.clock.advance(0)
        self.assertEqual(RESET_PER_TURN + 1, sum(each.aborted for each in connections))

    def test_close_of_many(self) -> None:
        """Nothing is copied until all are reset. What is handed on later is not reset."""
        connections = [Connection() for _ in range(RESET_PER_TURN + 2)]
        for each in connections:
            self.federation.handed_on(each, ELSEWHERE, FROM_PEER)
        self.assertTrue(self.federation.may_copy())
        self.door.close()
        later = Connection()
        self.federation.handed_on(later, ELSEWHERE, FROM_PEER)
        self.assertEqual((RESET_PER_TURN, False), (sum(each.aborted for each in connections), self.federation.may_copy()))
        self.federation.gone(connections[-1])
        self.clock.advance(0)
        self.assertEqual((RESET_PER_TURN + 1, 0, True), (sum(each.aborted for each in connections), later.aborted, self.federation.may_copy()))

    def test_copies_with_a_lease(self) -> None:
        """Bytes are copied only with a lease."""
        door = NodeDoor(self.clock, self.homes, {LOCAL}, KEY, lambda: False)
        self.assertFalse(LegPlacing(door, "federation").may_copy())


def header(purpose: str) -> ProxyHeader:
    """Return a header of a node, as it is read."""
    found = parse(NodeHeaders(KEY).write(*ENDS, purpose))
    assert found is not None
    return found


class Served(Protocol):
    """The protocol of a leg."""


class NodeListenerTests(SynchronousTestCase):
    """The listener for nodes."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.legs: list[str] = []
        self.factory = NodeFactory(
            self.leg("federation"), self.backend, [ip_network("192.0.2.0/28")], NodeHeaders(KEY), self.reactor,
        )
        self.lines = capture(self)

    @property
    def refused(self) -> list[str]:
        """The addresses of refused connections, as logged. Each gets another log, so that none is left out."""
        self.factory._warnings = RareWarnings(self.reactor)
        return [f"{line['address']}: {line['detail']}" for line in self.lines if line["event"] == "node refused"]

    def leg(self, name: str) -> ServerFactory:
        factory = ServerFactory()

        def build(address: Any) -> Protocol:
            self.legs.append(f"{name} {address.host}")
            return Served()

        factory.buildProtocol = build  # type: ignore[assignment]
        return factory

    def backend(self, domain: Domain) -> ServerFactory | None:
        return self.leg(f"server of {domain}") if domain == LOCAL else None

    def connect(self, data: bytes, address: str = "192.0.2.2") -> StringTransport | None:
        protocol = self.factory.buildProtocol(IPv4Address("TCP", address, 4000))
        if protocol is None:
            return None
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(data)
        return transport

    def test_legs(self) -> None:
        """A connection of either leg has the address of the peer, or of the server."""
        for leg, header in (("federation", FROM_PEER), ("backend", FROM_SERVER)):
            placing = LegPlacing(NodeDoor(self.reactor, Homes(), {LOCAL}, KEY), leg)  # type: ignore[arg-type]
            self.connect(placing.greeting(header, *ENDS))
        self.assertEqual(self.legs, ["federation 203.0.113.7", "server of example.org 203.0.113.7"])
        self.assertEqual(self.refused, [])

    def test_strangers(self) -> None:
        """Another network, a PROXY header that no node has written, and an unknown leg or domain are refused."""
        good = NodeHeaders(KEY)
        self.assertIsNone(self.connect(good.write(*ENDS, "a federation"), "192.0.2.16"))
        for data in (
            write(*ENDS), NodeHeaders(b"guessed").write(*ENDS, "a federation"), good.write(*ENDS, "a other"), good.write(*ENDS, "federation"),
            good.write(*ENDS, "a backend other.example"), good.write(*ENDS, "a backend a b"), b"<stream:stream>",
        ):
            transport = self.connect(data)
            assert transport is not None
            self.assertTrue(transport.disconnected)
            self.factory._warnings = RareWarnings(self.reactor)
        self.assertEqual((self.legs, len(self.refused)), ([], 8))
        self.assertIn("192.0.2.16: it is not in cluster.members", self.refused[0])
        self.assertIn("must hold the address in cluster.listen", self.refused[0])

    def test_stopping(self) -> None:
        """A node that stops takes no more streams. It still closes the streams of a door that stops, and still listens."""
        NodeListener(self.reactor, "tcp:5271:interface=192.0.2.1", self.factory).refuse()
        for leg, refused in (("federation", 1), ("backend example.org", 2), ("leave", 2)):
            self.connect(NodeHeaders(KEY).write(*ENDS, f"a {leg}"))
            self.assertEqual((self.legs, len(self.refused)), ([], refused))
        self.assertIsNotNone(self.connect(b""))

    def test_door_that_stops(self) -> None:
        """The streams of a door that stops are closed, some in each turn, and those of other doors are not."""
        closed: list[str] = []

        class Stream(SilentConnection):
            def __init__(self, name: str) -> None:
                self.name = name

            def wind_down(self, ending: Ending) -> None:
                closed.append(self.name)

        streams = [Stream("a") for _ in range(CLOSED_PER_TURN + 1)] + [Stream("b")]
        for stream in streams:
            self.factory.built(header(f"{stream.name} federation"), stream)
        self.connect(NodeHeaders(KEY).write(*ENDS, "a leave"))
        self.reactor.advance(0)
        self.assertEqual((closed, self.refused), (["a"] * (CLOSED_PER_TURN + 1), []))
        self.connect(NodeHeaders(KEY).write(*ENDS, "c leave"))
        self.assertEqual(len(closed), CLOSED_PER_TURN + 1)

    def test_gone_doors_are_forgotten(self) -> None:
        """A door whose streams are all gone is forgotten when another one comes."""
        for name in ("a", "b"):
            stream = SilentConnection(Mock(), "", Mock(), Mock())
            self.factory.built(header(f"{name} federation"), stream)
            del stream
            gc.collect()
        self.assertEqual(list(self.factory._handed_on), ["b"])

    def test_open_and_close(self) -> None:
        """It listens where it should, and then no more."""
        listener = NodeListener(self.reactor, "tcp:5271:interface=192.0.2.1", self.factory)
        self.successResultOf(Deferred.fromCoroutine(listener.open()))
        ((port, factory, _, interface),) = self.reactor.tcpServers
        self.assertEqual((port, factory, interface), (5271, self.factory, "192.0.2.1"))
        self.assertEqual(len(listener.ports), 1)
        self.successResultOf(listener.close())
        self.assertEqual(listener.ports, [])

    def test_dialler(self) -> None:
        """A node that does not accept in time is not reached. It is connected to from the address by which it knows this node."""
        door = NodeDoor(self.reactor, Homes(), {LOCAL}, KEY, source="192.0.2.1")
        factory: Any = door.factory("federation", lambda admitted: None, None, lambda address, ending: None)  # type: ignore[arg-type,return-value]
        factory.dialler("192.0.2.2", 5271, Served)
        host, port, _, timeout, bind = self.reactor.tcpClients[0]
        self.assertEqual((host, port, timeout, bind), ("192.0.2.2", 5271, CONNECT_SECONDS, ("192.0.2.1", 0)))
