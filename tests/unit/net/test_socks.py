"""Tests of connecting through a SOCKS5 proxy; the test acts as the proxy."""

from __future__ import annotations

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dialing import DialFailed
from s2sgw.net.socks import SOCKS_TIMEOUT, SocksDialler
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import HostPort
from tests.support.wires import CountingTransport

PROXY = HostPort("127.0.0.1", 9050)
CONNECTED = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


class Recording(Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.lost = 0

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost += 1


class SocksTests(SynchronousTestCase):
    """Tests of RFC 1928."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.inner: Recording | None = Recording()
        self.built = 0

    def build(self) -> Recording | None:
        self.built += 1
        return self.inner

    def dial(self, host: str = "peer.onion", user: str = "", password: str = "") -> Deferred[None]:
        return SocksDialler(self.reactor, PROXY, user=user, password=password)(host, 5269, self.build)

    def connect(self) -> None:
        """Let the proxy accept the connection."""
        built = self.reactor.tcpClients[0][2].buildProtocol(None)
        assert built is not None
        self.protocol = built
        self.transport = CountingTransport(IPv4Address("TCP", "127.0.0.1", 1234), IPv4Address("TCP", *PROXY))
        built.makeConnection(self.transport)
        self.reactor.advance(0)

    def said(self) -> bytes:
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def answer(self, data: bytes) -> bytes:
        self.protocol.dataReceived(data)
        return self.said()

    def ending(self, result: Deferred[None]) -> Ending:
        failure = self.failureResultOf(result, DialFailed)
        self.assertEqual((self.built, self.reactor.getDelayedCalls()), (0, []))
        ending: Ending = failure.value.ending
        self.assertIn("peer.onion:5269 by way of the SOCKS proxy", ending.detail)
        return ending

    def test_by_name(self) -> None:
        """The host name is sent to the proxy unchanged. Only the proxy's own address is connected to or resolved."""
        result = self.dial()
        self.assertEqual([(client[0], client[1]) for client in self.reactor.tcpClients], [PROXY])
        self.connect()
        self.assertEqual(self.said(), b"\x05\x01\x00")
        self.assertEqual(self.answer(b"\x05\x00"), b"\x05\x01\x00\x03\x0apeer.onion\x14\x95")
        self.assertNoResult(result)
        self.answer(CONNECTED + b"<early/>")
        self.assertIsNone(self.successResultOf(result))
        assert self.inner is not None
        self.assertEqual((self.inner.data, self.reactor.getDelayedCalls()), (b"<early/>", []))

    def test_by_address(self) -> None:
        """Addresses are sent as bytes. A trailing dot of a name is removed."""
        for host, target in (
            ("192.0.2.1", b"\x01\xc0\x00\x02\x01"), ("2001:db8::1", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
            ("host.example.", b"\x03\x0chost.example"),
        ):
            self.setUp()
            self.dial(host)
            self.connect()
            self.said()
            self.assertEqual(self.answer(b"\x05\x00"), b"\x05\x01\x00" + target + b"\x14\x95")

    def test_login(self) -> None:
        """RFC 1929: user and password are sent if they are configured."""
        result = self.dial(user="üser", password="secret")
        self.connect()
        self.assertEqual(self.said(), b"\x05\x01\x02")
        self.assertEqual(self.answer(b"\x05\x02"), b"\x01\x05\xc3\xbcser\x06secret")
        self.assertEqual(self.answer(b"\x01\x00")[:4], b"\x05\x01\x00\x03")
        self.answer(CONNECTED)
        self.successResultOf(result)

    def test_byte_by_byte(self) -> None:
        """The proxy's answers may arrive in any pieces, with any form of bound address."""
        for bound in (b"\x01" + bytes(4), b"\x04" + bytes(16), b"\x03\x03abc"):
            self.setUp()
            result = self.dial(user="u", password="p")
            self.connect()
            for byte in b"\x05\x02\x01\x00\x05\x00\x00" + bound + b"\x00\x00":
                self.assertNoResult(result)
                self.protocol.dataReceived(bytes((byte,)))
            self.successResultOf(result)
            assert self.inner is not None
            self.assertEqual(self.inner.data, b"")

    def test_all_at_once(self) -> None:
        """All answers of a proxy may arrive in one read."""
        result = self.dial(user="u", password="p")
        self.connect()
        self.answer(b"\x05\x02\x01\x00" + CONNECTED)
        self.successResultOf(result)

    def test_the_connection_is_the_streams(self) -> None:
        """Afterwards the transport belongs to the stream, and its remote end is the requested one, not the proxy."""
        self.dial()
        self.connect()
        self.answer(b"\x05\x00")
        self.answer(CONNECTED)
        inner = self.inner
        assert inner is not None
        assert inner.transport is not None
        peer = inner.transport.getPeer()
        self.assertEqual((peer.host, peer.port), ("peer.onion", 5269))  # type: ignore[attr-defined]
        self.said()
        inner.transport.write(b"<stream>")
        self.assertEqual(self.answer(b"answer"), b"<stream>")
        self.protocol.connectionLost(Failure(error.ConnectionDone()))
        self.assertEqual((inner.data, inner.lost), (b"answer", 1))

    def test_refusals(self) -> None:
        """Each refusal of the proxy has its cause."""
        for code, cause in (
            (1, Cause.UNREACHABLE), (4, Cause.UNREACHABLE), (5, Cause.CONNECTION_REFUSED), (6, Cause.CONNECTION_TIMEOUT),
            (0xF0, Cause.UNREACHABLE),
        ):
            self.setUp()
            result = self.dial()
            self.connect()
            self.answer(b"\x05\x00")
            self.answer(bytes((5, code)) + CONNECTED[2:])
            self.assertEqual(self.ending(result).cause, cause)
            self.assertTrue(self.transport.disconnected)
            self.protocol.dataReceived(CONNECTED)  # later input changes nothing
            self.assertEqual(self.built, 0)

    def test_what_is_no_proxy(self) -> None:
        """Other versions, methods that were not offered, malformed answers and a refused login end the attempt."""
        for user, answers in (
            ("", [b"HTTP/1.1"]), ("", [b"\x05\xff"]), ("", [b"\x04\x00"]), ("", [b"\x05\x02"]), ("u", [b"\x05\x00"]), ("u", [b"\x05\x02", b"\x01\x01"]),
            ("", [b"\x05\x00", b"\x04\x00\x00\x01\x00"]), ("", [b"\x05\x00", b"\x05\x00\x00\x09\x00"]),
        ):
            self.setUp()
            result = self.dial(user=user, password="p")
            self.connect()
            for data in answers:
                self.answer(data)
            self.assertEqual(self.ending(result).cause, Cause.UNREACHABLE)

    def test_proxy_that_is_not_there(self) -> None:
        """A proxy that cannot be reached is reported as such."""
        result = self.dial()
        self.reactor.tcpClients[0][2].clientConnectionFailed(self.reactor.connectors[0], Failure(error.ConnectionRefusedError()))
        self.assertIn("cannot be reached at 127.0.0.1:9050", self.ending(result).detail)

    def test_proxy_that_goes(self) -> None:
        """A proxy that closes before it has connected us ends the attempt."""
        result = self.dial()
        self.connect()
        self.protocol.connectionLost(Failure(error.ConnectionDone()))
        self.assertIn("closed", self.ending(result).detail)

    def test_too_late(self) -> None:
        """The whole attempt is bounded in time, whether the proxy answers or not."""
        for there in (True, False):
            self.setUp()
            result = self.dial()
            if there:
                self.connect()
            self.reactor.advance(SOCKS_TIMEOUT)
            self.assertEqual(self.ending(result).cause, Cause.CONNECTION_TIMEOUT)
            self.assertTrue(self.transport.disconnected if there else self.reactor.connectors[0]._disconnected)
            if there:
                self.answer(b"\x05\x00" + CONNECTED)
                self.assertEqual(self.built, 0)

    def test_cancelled(self) -> None:
        """Cancelling ends the attempt in every state."""
        for there in (True, False):
            self.setUp()
            result = self.dial()
            if there:
                self.connect()
            result.cancel()
            self.failureResultOf(result, CancelledError)
            self.assertTrue(self.transport.disconnected if there else self.reactor.connectors[0]._disconnected)
            self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_no_longer_wanted(self) -> None:
        """A connection that opens when it is no longer needed is closed."""
        self.inner = None
        result = self.dial()
        self.connect()
        self.answer(b"\x05\x00")
        self.answer(CONNECTED)
        self.failureResultOf(result, DialFailed)
        self.assertEqual((self.transport.disconnected, self.reactor.getDelayedCalls()), (True, []))

    def test_bounds(self) -> None:
        """Names, users and passwords that the protocol cannot carry are refused, and so is a proxy without an address."""
        for host in ("", "x" * 256):
            self.assertRaises(ValueError, self.dial, host)
        self.assertRaises(ValueError, self.dial, user="x" * 256, password="p")
        self.assertRaises(ValueError, self.dial, user="u")
        self.assertRaises(ValueError, SocksDialler, self.reactor, HostPort("proxy.example", 9050))
        self.assertEqual(self.reactor.tcpClients, [])
