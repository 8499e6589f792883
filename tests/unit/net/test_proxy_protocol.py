"""Tests of the PROXY protocol, both versions, receiving and sending."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import Build
from s2sgw.net.proxy_protocol import HEADER_TIMEOUT, MalformedHeader, ProxyFactory, ProxyHeader, announcing, parse, write
from s2sgw.net.tls import ServerTLS
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import HostPort
from tests.support.certificates import leaf_for
from tests.support.wires import LOCAL, CountingTransport, RawTLS, Recorder, Solo, ToyEngine, credential, raw_context

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
PROXY = IPv4Address("TCP", "10.0.0.1", 40000)

V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 5269\r\n"
V1_6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 5269\r\n"


def v2(command: int = 0x21, family: int = 0x11, body: bytes | None = None) -> bytes:
    if body is None:
        body = bytes((192, 0, 2, 7, 198, 51, 100, 1)) + struct.pack("!HH", 51234, 5269)
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


V2_6 = v2(family=0x21, body=ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("2001:db8::1").packed + b"\xc8\x22\x14\x95")

FOUR = (IPv4Address("TCP", "192.0.2.7", 51234), IPv4Address("TCP", "198.51.100.1", 5269))
SIX = (IPv6Address("TCP", "2001:db8::7", 51234), IPv6Address("TCP", "2001:db8::1", 5269))

GOOD: list[tuple[bytes, tuple[Any, ...]]] = [
    (V1, FOUR), (V1_6, SIX), (v2(), FOUR), (V2_6, SIX),
    (v2(body=v2()[16:] + b"\x20\x00\x05extra"), (*FOUR, b"\x20\x00\x05extra")),  # extensions are not parsed
    (b"PROXY UNKNOWN\r\n", ()), (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ()),
    (v2(command=0x20), ()), (v2(command=0x20, family=0, body=b""), ()),  # LOCAL
    (v2(family=0, body=b""), ()), (v2(family=0x31, body=b"/run/x" + bytes(210)), ()), (v2(family=0x12), ()),
]  # fmt: skip

BAD = [
    b"GET / HTTP/1.1\r\n", b"<?xml version='1.0'?>", b"PROXY TCP5 192.0.2.7 198.51.100.1 51234 5269\r\n", b"PROXY \r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 51234\r\n", b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 5269 1\r\n",
    b"PROXY TCP4 192.0.2.7 peer.example 51234 5269\r\n", b"PROXY TCP4 2001:db8::7 2001:db8::1 51234 5269\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 5269\r\n", b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 5269\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 \xb2 5269\r\n", b"PROXY UNKNOWN " + b"x" * 100, b"PROXYTCP4",
    v2(command=0x11), v2(command=0x22), v2(body=b"short"), v2(family=0x21), v2(family=0x41), v2(family=0x13), SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 2049),
]  # fmt: skip


class HeaderTests(SynchronousTestCase):
    """Tests of `parse` and `write`."""

    def test_good(self) -> None:
        """Both versions and families, and headers without addresses, are read. The bytes after them are left."""
        for data, ends in GOOD:
            self.assertEqual(parse(data), ProxyHeader(len(data), *ends))
            self.assertEqual(parse(data + b"<stream>"), ProxyHeader(len(data), *ends))

    def test_in_pieces(self) -> None:
        """An incomplete header waits for more."""
        for data, _ends in GOOD:
            self.assertEqual({parse(data[:size]) for size in range(len(data))}, {None})

    def test_bad(self) -> None:
        """A header that begins differently, is too long or is inconsistent is malformed."""
        for data in BAD:
            self.assertRaises(MalformedHeader, parse, data)

    def test_written(self) -> None:
        """A written header is read back. Two addresses of different families cannot be sent, so the connection is declared as local."""
        for source, destination in (FOUR, SIX):
            data = write(HostPort(source.host, source.port), HostPort(destination.host, destination.port))
            self.assertEqual(parse(data), ProxyHeader(len(data), source, destination))
        self.assertEqual(parse(write(HostPort("192.0.2.7", 1), HostPort("2001:db8::1", 2))), ProxyHeader(16))


class ReceivingTests(SynchronousTestCase):
    """Tests of listening behind a load balancer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.refused: list[tuple[str, Ending]] = []
        self.built: list[IAddress] = []
        self.full = False
        self.solo = Solo()
        server = ServerTLS(lambda name: credential(leaf_for("example.org")))
        self.connection = StreamConnection(
            ToyEngine(), Recorder(), clock=self.solo.clock, role="receiving", tls=lambda order: server.for_domain(LOCAL)
        )

    def factory(self, *trusted: str) -> ProxyFactory:
        test = self

        class Inner(ServerFactory):
            def buildProtocol(self, addr: IAddress | None) -> Any:
                assert addr is not None
                test.built.append(addr)
                return None if test.full else test.connection

        networks = [ipaddress.ip_network(text) for text in trusted or ("10.0.0.0/8", "2001:db8:1::/64")]
        return ProxyFactory(Inner(), networks, self.clock, lambda address, ending: self.refused.append((address, ending)))

    def accept(self) -> IProtocol:
        protocol = self.factory().buildProtocol(PROXY)
        self.transport = CountingTransport(FOUR[1], PROXY)
        protocol.makeConnection(self.transport)
        return protocol  # type: ignore[no-any-return]

    def test_listed_addresses_alone(self) -> None:
        """Only listed addresses may connect. Others could choose their own client address."""
        factory = self.factory()
        for host in ("192.0.2.1", "2001:db8:2::1", "", "unix"):
            self.assertIsNone(factory.buildProtocol(IPv4Address("TCP", host, 1)))
        self.assertEqual([ending.cause for _, ending in self.refused], [Cause.NOT_ALLOWED] * 4)
        self.assertIsNone(factory.buildProtocol(None))
        for host in ("10.1.2.3", "2001:db8:1::9", "::ffff:10.1.2.3"):
            self.assertIsNotNone(factory.buildProtocol(IPv4Address("TCP", host, 1)))

    def test_the_connection_is_the_clients(self) -> None:
        """The connection is built for the client's address. Bytes that came with the header are its first input."""
        protocol = self.accept()
        protocol.dataReceived(V1 + b"one\n")
        self.solo.clock.advance(0)
        self.assertEqual(self.built, [FOUR[0]])
        self.assertEqual((self.connection.peer_address, self.connection.local_address), ("192.0.2.7:51234", "198.51.100.1:5269"))
        self.assertEqual(self.connection.engine.fed, [b"one\n"])  # type: ignore[attr-defined]
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_byte_by_byte(self) -> None:
        """A header may arrive in any pieces."""
        for data, _ends in GOOD:
            self.setUp()
            protocol = self.accept()
            for byte in data:
                protocol.dataReceived(bytes((byte,)))
            self.assertEqual((len(self.built), self.refused), (1, []))

    def test_read_at_once(self) -> None:
        """A header that is there already is read when the connection is accepted. Without one the reactor reports what comes."""
        for sent, built in ((V1, [FOUR[0]]), (b"", [])):
            self.setUp()
            self.full = True
            reactor: Any = MemoryReactorClock()
            port: Any = None
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            self.addCleanup(ours.close)
            self.addCleanup(theirs.close)
            theirs.sendall(sent)
            protocol = self.factory().buildProtocol(PROXY)
            protocol.makeConnection(tcp.Server(ours, protocol, ("10.0.0.1", 40000), port, 0, reactor))
            self.assertEqual(built, self.built)
            self.assertEqual([] if built else [HEADER_TIMEOUT], [call.getTime() for call in self.clock.getDelayedCalls()])

    def test_the_proxys_own(self) -> None:
        """A header without addresses, for example of a health check, means that the connection is the proxy's own."""
        protocol = self.accept()
        protocol.dataReceived(v2(command=0x20))
        self.assertEqual((self.built, self.connection.peer_address), ([PROXY], "10.0.0.1:40000"))

    def test_malformed(self) -> None:
        """A bad header closes the connection and is reported once. Its bytes are not passed on."""
        for data in BAD:
            self.setUp()
            protocol = self.accept()
            protocol.dataReceived(data)
            protocol.dataReceived(V1)
            self.assertTrue(self.transport.disconnected)
            self.assertEqual(([(a, e.cause) for a, e in self.refused], self.built), ([("10.0.0.1", Cause.PROTOCOL_ERROR)], []))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_too_late(self) -> None:
        """A header that does not arrive in time closes the connection."""
        self.accept()
        self.clock.advance(HEADER_TIMEOUT)
        self.assertTrue(self.transport.disconnected)
        self.assertIn("in time", self.refused[0][1].detail)

    def test_lost_before(self) -> None:
        """A connection that ends before its header, for example a port check, leaves nothing and is no refusal."""
        self.accept().connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.clock.getDelayedCalls(), self.refused, self.built), ([], [], []))

    def test_full(self) -> None:
        """If there is no room for a client, its connection is closed."""
        self.full = True
        self.accept().dataReceived(V1)
        self.assertTrue(self.transport.disconnected)

    def test_the_whole_life_of_a_stream(self) -> None:
        """STARTTLS, back-pressure and the end are passed through to the socket's transport."""
        protocol = self.accept()
        protocol.dataReceived(V1)
        self.solo.clock.advance(0)
        self.assertEqual(self.connection.engine.fed, [])  # type: ignore[attr-defined]
        self.solo.transport, self.solo.connection = self.transport, protocol  # type: ignore[assignment]
        self.assertEqual(self.solo.receive(b"STARTTLS\n"), b"PROCEED\n")
        RawTLS(self.solo, raw_context(leaf_for("peer.example"))).run()
        self.assertEqual(self.connection.chain, leaf_for("peer.example").der_chain)
        self.connection.pause("lane")
        self.assertEqual(self.transport.producerState, "paused")
        self.connection.abort(Ending(Cause.SHUTDOWN))
        self.assertTrue(self.transport.disconnected)
        closed = self.connection.when_closed()
        protocol.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(closed)


class AnnouncingTests(SynchronousTestCase):
    """Tests of the header to the backend."""

    def dial(self, address: str, port: int, build: Build) -> Deferred[None]:
        self.assertEqual((address, port), ("127.0.0.1", 15269))
        self.protocol = build()
        return Deferred()

    def test_header_first(self) -> None:
        """The header is sent before anything else of the stream. Then the transport belongs to the stream."""
        solo = Solo()
        connection = StreamConnection(ToyEngine(), Recorder(), clock=solo.clock, role="initiating", tls=lambda order: None)
        announcing(self.dial, V1)("127.0.0.1", 15269, lambda: connection)
        assert self.protocol is not None
        transport = CountingTransport()
        self.protocol.makeConnection(transport)
        connection.write(b"<stream>")
        self.assertEqual(transport.value(), V1 + b"<stream>")
        self.protocol.dataReceived(b"answer\n")
        solo.clock.advance(0)
        self.assertEqual(connection.engine.fed, [b"answer\n"])  # type: ignore[attr-defined]

    def test_no_longer_wanted(self) -> None:
        """A connection that is not needed is not announced."""
        announcing(self.dial, V1)("127.0.0.1", 15269, lambda: None)
        self.assertIsNone(self.protocol)
