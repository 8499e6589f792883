"""Tests of connecting through an HTTP proxy by CONNECT; the test acts as the proxy."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dialing import DialFailed
from s2sgw.net.http_connect import CONNECT_TIMEOUT, HEAD_BYTES, HTTPConnectDialler, credentials
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import HostPort
from tests.support.wires import CountingTransport

PROXY = HostPort("127.0.0.1", 3128)
ASKED = b"CONNECT peer.example:5269 HTTP/1.1\r\nHost: peer.example:5269\r\n\r\n"
CONNECTED = b"HTTP/1.1 200 Connection established\r\nVia: proxy\r\n\r\n"


class Recording(Protocol):
    data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class HTTPConnectTests(SynchronousTestCase):
    """Tests of RFC 9110 §9.3.6."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.inner: Recording | None = Recording()

    def dial(self, host: str = "peer.example", user: str = "", password: str = "") -> Deferred[None]:
        dialler = HTTPConnectDialler(self.reactor, PROXY, user=user, password=password)
        result = dialler(host, 5269, lambda: self.inner)
        built = self.reactor.tcpClients[-1][2].buildProtocol(None)
        assert built is not None
        self.protocol = built
        self.transport = CountingTransport(IPv4Address("TCP", "127.0.0.1", 1234), IPv4Address("TCP", *PROXY))
        built.makeConnection(self.transport)
        self.reactor.advance(0)
        return result

    def failure(self, result: Deferred[None]) -> Ending:
        ending: Ending = self.failureResultOf(result, DialFailed).value.ending
        return ending

    def test_a_name(self) -> None:
        """A host name is sent to the proxy unchanged. Bytes after the blank line belong to the stream."""
        result = self.dial()
        self.assertEqual(ASKED, self.transport.value())
        self.protocol.dataReceived(CONNECTED + b"<stream")
        self.assertIsNone(self.successResultOf(result))
        self.protocol.dataReceived(b":stream>")
        assert self.inner is not None
        assert self.inner.transport is not None
        self.assertEqual(b"<stream:stream>", self.inner.data)
        self.assertEqual(("peer.example", 5269), (self.inner.transport.getPeer().host, self.inner.transport.getPeer().port))  # type: ignore[attr-defined]
        self.assertEqual([], [call for call in self.reactor.getDelayedCalls() if call.active()])

    def test_byte_by_byte(self) -> None:
        """The answer may arrive in any pieces. Bare line feeds end lines too."""
        for answer in (CONNECTED, b"HTTP/1.0 200\nx: y\n\n"):
            self.inner = Recording()
            result = self.dial()
            for at in range(len(answer)):
                self.assertNoResult(result)
                self.protocol.dataReceived(answer[at : at + 1])
            self.successResultOf(result)
            self.assertEqual(b"", self.inner.data)

    def test_addresses(self) -> None:
        """An IPv6 address is in brackets. A trailing dot of a name is removed."""
        for host, authority in (("2001:db8::1", b"[2001:db8::1]"), ("192.0.2.1", b"192.0.2.1"), ("xmpp.example.", b"xmpp.example")):
            self.dial(host)
            self.assertTrue(self.transport.value().startswith(b"CONNECT %b:5269 HTTP/1.1\r\n" % authority))

    def test_authentication(self) -> None:
        """RFC 7617: the user and the password are sent as Basic authentication."""
        self.dial(user="Aladdin", password="open sesame")
        self.assertIn(b"Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n", self.transport.value())
        for user, password in (("a:b", ""), ("a", "b\r\nX: y")):
            self.assertRaises(ValueError, credentials, user, password)

    def test_refused(self) -> None:
        """Each status that is not a success ends the attempt with a text, and closes the connection."""
        for answer, cause, words in (
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Cause.UNREACHABLE, "it rejects the user and password"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", Cause.UNREACHABLE, "its rules do not allow this connection (status 403)"),
            (b"HTTP/1.1 504 \r\n\r\n", Cause.CONNECTION_TIMEOUT, "it got no answer in time (status 504)"),
            (b"HTTP/1.1 302 Found\r\n\r\n", Cause.UNREACHABLE, "it answers with status 302"),
            (b"SSH-2.0-OpenSSH\r\n\r\n", Cause.UNREACHABLE, "its answer is not HTTP"),
        ):
            result = self.dial()
            self.protocol.dataReceived(answer)
            ending = self.failure(result)
            self.assertEqual((cause, "network"), (ending.cause, ending.by))
            self.assertIn(f"peer.example:5269 by way of the HTTP proxy: {words}", ending.detail)
            self.assertTrue(self.transport.disconnecting)

    def test_endless_head(self) -> None:
        """The size of the head is bounded."""
        result = self.dial()
        self.protocol.dataReceived(b"HTTP/1.1 200 OK\r\nx: " + b"y" * HEAD_BYTES)
        self.assertIn("more than 8192 bytes", self.failure(result).detail)

    def test_silence(self) -> None:
        """A proxy that does not answer is given up."""
        result = self.dial()
        self.reactor.advance(CONNECT_TIMEOUT)
        self.assertEqual(Cause.CONNECTION_TIMEOUT, self.failure(result).cause)

    def test_cancelled(self) -> None:
        """A cancelled attempt closes the connection. Later input is ignored."""
        result = self.dial()
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.protocol.dataReceived(CONNECTED)
        assert self.inner is not None
        self.assertIsNone(self.inner.transport)

    def test_no_longer_wanted(self) -> None:
        """If another attempt has won, the connection closes."""
        self.inner = None
        result = self.dial()
        self.protocol.dataReceived(CONNECTED)
        self.assertEqual(Cause.CLOSED, self.failure(result).cause)
