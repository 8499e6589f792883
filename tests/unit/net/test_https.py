"""Tests of one HTTPS GET: bounded in size and time, redirects returned and not followed, addresses tried in turn, failures with a text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import URI, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from s2sgw.net import https
from s2sgw.net.https import ADDRESSES, HTTPS, TIMEOUT, Fetched, Unfetched
from s2sgw.trust.anchors import Anchors
from tests.support.certificates import shared_root


class Response:
    """The answer of an Agent."""

    def __init__(self, code: int = 200, body: bytes = b"", location: bytes | None = None, why: type[Exception] = ResponseDone) -> None:
        self.code = code
        self.headers = Headers({} if location is None else {b"location": [location]})
        self._body = body
        self._why = why
        self.transport = StringTransport()

    def deliverBody(self, protocol: Protocol) -> None:
        protocol.makeConnection(self.transport)
        if self._body:
            protocol.dataReceived(self._body)
        protocol.connectionLost(Failure(self._why("over")))


class Agent:
    answer: Any = None

    def request(self, method: bytes, url: bytes, headers: Headers) -> Any:
        self.asked = (method, url, headers.getRawHeaders(b"user-agent"))
        return self.answer


class GetTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = MemoryReactorClock()
        self.https = HTTPS(self.clock, lambda host: succeed(["192.0.2.1"]), SimpleNamespace(current=lambda: None), limit=10)
        self.agent = Agent()
        self.patch(self.https, "_agent", self.agent)

    def get(self, answer: Any) -> Deferred[Fetched]:
        self.agent.answer = answer
        return self.https.get("https://a.example/x")

    def failure(self, answer: Any) -> str:
        return str(self.failureResultOf(self.get(answer), Unfetched).value)

    def test_page(self) -> None:
        """A document is fetched completely."""
        self.assertEqual(Fetched(200, None, b"a page"), self.successResultOf(self.get(succeed(Response(body=b"a page")))))
        self.assertEqual((b"GET", b"https://a.example/x", [b"s2sgw"]), self.agent.asked)

    def test_redirect(self) -> None:
        """R23: a redirect is returned and not followed. Its body is not read."""
        response = Response(302, b"elsewhere", b"https://b.example/")
        self.assertEqual(Fetched(302, "https://b.example/", b""), self.successResultOf(self.get(succeed(response))))
        self.assertTrue(response.transport.disconnecting)
        self.assertEqual(Fetched(404, None, b""), self.successResultOf(self.get(succeed(Response(404, why=PotentialDataLoss)))))

    def test_too_long(self) -> None:
        """An answer that is too long is given up. An incomplete answer is a failure."""
        response = Response(body=b"a longer page")
        self.assertIn("longer than 10 bytes", self.failure(succeed(response)))
        self.assertTrue(response.transport.disconnecting)
        self.assertIn("lost during the answer", self.failure(succeed(Response(body=b"a", why=PotentialDataLoss))))

    def test_too_slow(self) -> None:
        """The time is limited."""
        getting = self.get(Deferred())
        self.clock.advance(TIMEOUT)
        self.assertIn("no answer in 5 s", str(self.failureResultOf(getting, Unfetched).value))

    def test_words(self) -> None:
        """Any failure has the text of its first cause."""
        broken = SSL.Error([("SSL routines", "", "certificate verify failed")])
        for error, words in (
            (ResponseFailed([Failure(broken)]), "certificate verify failed"), (ValueError("x"), "ValueError: x"), (ValueError(), "ValueError"),
            (Unfetched("as it is"), "as it is"),
        ):
            self.assertIn(words, self.failure(fail(error)))


class EndpointTests(SynchronousTestCase):
    """Tests of the addresses that are connected to."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.addresses: list[str] = []
        root = trustRootFromCertificates([Certificate.loadPEM(shared_root().pem)])
        self.endpoints = https._Endpoints(self.reactor, lambda host: succeed(self.addresses), SimpleNamespace(current=lambda: root), 1000)
        self.assertEqual(1, len(Anchors.parse(shared_root().pem)))

    def connect(self, url: bytes = b"https://a.example:8443/x") -> Deferred[Any]:
        return self.endpoints.endpointForURI(URI.fromBytes(url)).connect(Factory.forProtocol(Protocol))

    def test_in_turn(self) -> None:
        """The addresses are tried one after the other, a limited number of them, of either family."""
        self.addresses = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3"]
        connecting = self.connect()
        for address in self.addresses[:ADDRESSES]:
            host, port, factory, timeout, _ = self.reactor.tcpClients[-1]
            self.assertEqual((address, 8443, https.CONNECT_TIMEOUT), (host, port, timeout))
            factory.clientConnectionFailed(self.reactor.connectors[-1], Failure(Refused()))
        self.assertEqual("a.example:8443 cannot be connected to", str(self.failureResultOf(connecting, Unfetched).value))
        self.assertEqual(ADDRESSES, len(self.reactor.tcpClients))

    def test_none(self) -> None:
        """Without an address there is no connection. Only HTTPS is supported."""
        self.assertIn("no address that may be asked", str(self.failureResultOf(self.connect(), Unfetched).value))
        self.assertRaises(Unfetched, self.connect, b"http://a.example/x")

    def test_connected(self) -> None:
        """A connection begins TLS with the server's name."""
        self.addresses = ["192.0.2.1"]
        connecting = self.connect()
        protocol: Any = self.reactor.tcpClients[-1][2].buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        self.assertIn(b"a.example", transport.value())
        self.assertIsInstance(self.successResultOf(connecting), Protocol)

    def test_little_at_once(self) -> None:
        """Few bytes are read in one turn of the reactor, below TLS."""
        self.addresses = ["192.0.2.1"]
        self.connect()
        protocol: Any = self.reactor.tcpClients[-1][2].buildProtocol(None)
        transport: Any = StringTransport()
        protocol.makeConnection(transport)
        self.assertEqual(transport.bufferSize, https.READ_BYTES)

    def test_bounded(self) -> None:
        """A server that sends too much is disconnected."""
        inner = Factory.forProtocol(Protocol)
        protocol: Any = https._Bounding(inner, 1000).buildProtocol(None)
        transport = StringTransport()
        heard: list[bytes] = []
        protocol.makeConnection(transport)
        protocol.wrappedProtocol.dataReceived = heard.append
        protocol.dataReceived(b"x")
        protocol.dataReceived(b"x" * 1000)
        self.assertEqual(([b"x"], True), (heard, transport.disconnecting))
