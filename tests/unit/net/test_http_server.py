"""Tests of the HTTP server: limits of requests, times and connections."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from s2sgw.net import http_server
from s2sgw.net.http_server import BODY_BYTES, BoundedRequest, BoundedSite
from tests.support.http import Client, Response, parse
from tests.support.turn_clock import TurnClock


class Echo(Resource):
    """A resource that answers with the body, or never."""

    isLeaf = True
    asked = 0

    def render(self, request: Request) -> bytes | int:
        assert isinstance(request, BoundedRequest)
        self.asked += 1
        if request.path == b"/never":
            return NOT_DONE_YET
        assert request.content is not None
        return request.host_name.encode() + b"|" + bytes(request.content.read())


class SiteTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.echo = Echo()
        self.site = BoundedSite(self.echo, self.clock)
        self.client = Client(self.site, self.clock)


class HalfClosedTests(SiteTestCase):
    """Tests of a client that has closed its sending side, on a connection that can be closed in one direction."""

    def test_pipelined(self) -> None:
        """All requests that arrived are answered, in their turns. Then the connection closes."""
        clock = self.clock = TurnClock()
        self.site = BoundedSite(self.echo, clock)
        protocol, transport = Client(self.site, clock).connect()
        protocol.dataReceived(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\n\r\nGET /3 HTTP/1.1\r\nHost: c\r\n\r\n")
        protocol.readConnectionLost()
        self.assertFalse(transport.disconnecting)
        for _ in range(5):
            clock.advance(0)
        self.assertEqual((3, True), (transport.value().count(b"HTTP/1.1 200"), transport.disconnecting))
        self.assertIn(b"c|", transport.value())

    def test_not_whole(self) -> None:
        """An incomplete request cannot be completed, and without a request there is no answer: the connection closes at once."""
        for sent in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"):
            protocol, transport = self.client.connect()
            protocol.dataReceived(sent)
            protocol.readConnectionLost()
            self.assertEqual((b"", True), (transport.value(), transport.disconnecting), sent)
        protocol, transport = self.client.connect()
        protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertFalse(transport.disconnecting)
        protocol.readConnectionLost()
        self.assertEqual((1, True), (transport.value().count(b"200"), transport.disconnecting))

    def test_last_answer_is_late(self) -> None:
        """A late answer is waited for, within its time limit. A second report of the client's close has no effect."""
        protocol, transport = self.client.connect()
        protocol.dataReceived(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
        protocol.readConnectionLost()
        protocol.readConnectionLost()
        self.assertFalse(transport.disconnecting)
        self.clock.advance(http_server.ANSWER_SECONDS)
        self.assertTrue(transport.disconnecting)


class BodyTests(SiteTestCase):
    """Tests of the size of a body."""

    def test_allowed(self) -> None:
        """A body of the maximum size is processed."""
        self.assertEqual(len("localhost|") + BODY_BYTES, len(self.client.ask("POST", "/", b"x" * BODY_BYTES).body))

    def test_announced(self) -> None:
        """A body that is announced too large is refused before it arrives."""
        protocol, transport = self.client.connect()
        protocol.dataReceived(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n")
        self.assertEqual(413, parse(transport.value()).status)
        self.assertTrue(transport.disconnecting)

    def test_not_announced(self) -> None:
        """A chunked body is refused without decoding: a chunk may have one byte, and costs as much as a large one."""
        self.patch(http_server.BoundedRequest, "handleContentChunk", lambda *args: self.fail("the body is decoded"))
        protocol, transport = self.client.connect()
        protocol.dataReceived(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10000)
        protocol.dataReceived(b"0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual((411, 0, True), (parse(transport.value()).status, self.echo.asked, transport.disconnecting))
        self.assertEqual(1, transport.value().count(b"HTTP/1.1"))

    def test_refused_under_tls(self) -> None:
        """TLS closes a connection only when no producer is registered: a refused one is closed at once, not when its time is up."""
        protocol, transport = self.client.connect()
        protocol.dataReceived(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n")
        self.assertIsNone(transport.producer)

    def refusal(self, target: str = "/", body: bytes = b"", **headers: str) -> int:
        """Return the status of a request that must not reach the resource, or 200 if it did."""
        self.echo.asked = 0
        protocol, transport = self.client.send("POST", target, body, **headers)
        protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        status = parse(transport.value()).status
        self.assertEqual(2 if status == 200 else 0, self.echo.asked)
        return status

    def test_costly_forms(self) -> None:
        """Forms with many parts or fields take long to parse: they are refused unparsed. So are a query, a long path and a long type."""
        form = "application/x-www-form-urlencoded"
        nested = b"".join(b"--x\r\nContent-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(900))
        for kind in ("multipart/form-data; boundary=x", "Multipart/Form-Data", " multipart/form-data", form + "; multipart/form-data"):
            self.assertEqual(415, self.refusal("/", nested, Content_Type=kind), kind)
        for kind in (form, form.upper(), " " + form, "a b", ""):
            self.assertEqual(400, self.refusal("/", b"a&" * 32768, Content_Type=kind), kind)
        self.assertEqual(400, self.refusal("/", b"a", Content_Type=form + "; a=" * 100))
        self.assertEqual(400, self.refusal("/?" + "a&" * 100))
        self.assertEqual(400, self.refusal("/" * 101))
        self.assertEqual(400, self.refusal("/?" + "a&" * 50, b"a&" * 50, Content_Type=form))
        self.assertEqual(200, self.refusal("/" * 100 + "?" + "a&" * 49, b"a&" * 50, Content_Type=form))
        self.assertEqual(200, self.refusal("/", b'"' + b"&" * 5000 + b'"', Content_Type="application/json"))

    def test_headers_that_are_no_text(self) -> None:
        """Headers that are not UTF-8 are refused at once without a log line, because a stranger may send them at any rate."""
        for name in (b"Host", b"Authorization", b"Origin", b"Accept", b"Content-Type", b"X"):
            protocol, transport = self.client.connect()
            protocol.dataReceived(b"GET / HTTP/1.1\r\n" + name + b": \xc3\r\nY: \xa9\r\n\r\n")
            self.assertEqual((400, 0), (parse(transport.value()).status, self.echo.asked))
        self.assertEqual(200, self.refusal("/", b"", X="ü"))

    def refused(self, request: bytes) -> Response:
        """Return the answer to a request that must not reach the resource."""
        self.echo.asked = 0
        _, transport = self.sent(request)
        response = parse(transport.value())
        self.assertEqual((0, True, 1), (self.echo.asked, transport.disconnecting, transport.value().count(b"HTTP/1.1 ")))
        self.assertEqual(("application/json", "close"), (response.headers["content-type"], response.headers["connection"]))
        return response

    def sent(self, request: bytes) -> tuple[Any, Any]:
        protocol, transport = self.client.connect()
        protocol.dataReceived(request)
        return protocol, transport

    def test_refusals_in_words(self) -> None:
        """Each refusal is a JSON object with the reason."""
        for head, status, words in (
            (b"POST / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413, "a body has at most 65536 bytes"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411, "the body must have a Content-Length"),
            (b"POST / HTTP/1.1\r\nContent-Type: multipart/form-data\r\n\r\n", 415, "multipart forms are not accepted"),
            (b"GET /?" + b"a&" * 100 + b" HTTP/1.1\r\n\r\n", 400, "at most 100 fields in its query"),
            (b"GET " + b"/" * 101 + b" HTTP/1.1\r\n\r\n", 400, "at most 100 slashes"),
            (b"GET / HTTP/1.1\r\nContent-Type: " + b"a" * 257 + b"\r\n\r\n", 400, "at most 256 bytes"),
            (b"GET / HTTP/1.1\r\nX: \xff\r\n\r\n", 400, "the headers must be UTF-8"),
            (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400, "the request is not valid HTTP"),
            (b"nonsense\r\n", 400, "the request is not valid HTTP"),
            (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "the request is not valid HTTP"),
            (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 400, "a request has at most 100 header fields"),
            (b"GET / HTTP/1.1\r\nX: " + b"y" * 16380 + b"\r\n\r\n", 400, "the head of a request has at most 16384 bytes"),
        ):  # fmt: skip
            response = self.refused(head)
            self.assertEqual((status, "usage"), (response.status, response.json["kind"]), head[:40])
            self.assertIn(words, response.json["error"])

    def test_most_header_fields(self) -> None:
        """A request with the maximum number of header fields is processed."""
        _, transport = self.sent(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 99 + b"\r\n")
        self.assertEqual(200, parse(transport.value()).status)

    def test_refused_head(self) -> None:
        """The answer to a refused HEAD request has no body."""
        response = self.refused(b"HEAD / HTTP/1.1\r\nX: \xff\r\n\r\n")
        self.assertEqual((400, b""), (response.status, response.body))

    def test_refused_behind_another(self) -> None:
        """A refused request is answered after the request before it."""
        _, transport = self.sent(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n")
        for _ in range(3):
            self.clock.advance(0)
        first, second = transport.value().split(b"HTTP/1.1 ")[1:]
        self.assertEqual((b"200", b"400", True), (first[:3], second[:3], transport.disconnecting))

    def test_words_of_a_status(self) -> None:
        """A status has the standard's reason phrase, also if Twisted does not have it."""
        for status, words in ((421, b"Misdirected Request"), (429, b"Too Many Requests"), (404, b"Not Found")):
            request = BoundedRequest(Mock())
            request.setResponseCode(status)
            self.assertEqual((status, words), (request.code, request.code_message))

    def test_host_names(self) -> None:
        """The host name is the one in the only Host header."""
        for host, name in (("Name.Example:8269", "name.example"), ("[::1]:8269", "::1"), ("127.0.0.1", "127.0.0.1"), ("", "")):
            self.client.host = host
            self.assertEqual(f"{name}|", self.client.get("/").text)
        protocol, transport = self.client.connect()
        protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        self.assertEqual("|", parse(transport.value()).text)


class TimeTests(SiteTestCase):
    """Tests of the time for requests and answers."""

    def test_slow_request(self) -> None:
        """A client that sends single bytes slowly is disconnected all the same."""
        protocol, transport = self.client.connect()
        for byte in b"GET / HTTP/1.1\r\n":
            protocol.dataReceived(bytes([byte]))
            self.clock.advance(1)
        self.assertTrue(transport.aborted)

    def test_slow_second_request(self) -> None:
        """The time of a further request on the connection starts with its first byte."""
        protocol, transport = self.client.send("GET", "/")
        self.clock.advance(50)
        self.assertFalse(transport.aborted)
        protocol.dataReceived(b"G")
        self.clock.advance(http_server.REQUEST_SECONDS)
        self.assertTrue(transport.aborted)

    def test_idle(self) -> None:
        """A connection without a request is closed after its time."""
        _, transport = self.client.send("GET", "/")
        self.clock.advance(http_server.IDLE_SECONDS)
        self.assertTrue(transport.aborted)

    def test_answer_that_is_not_read(self) -> None:
        """The time for reading an answer is limited too."""
        _, transport = self.client.send("GET", "/never")
        self.clock.advance(http_server.ANSWER_SECONDS - 1)
        self.assertFalse(transport.aborted)
        self.clock.advance(1)
        self.assertTrue(transport.aborted)

    def test_stream_of_events(self) -> None:
        """An answer without an end may take any time."""
        protocol, transport = self.client.send("GET", "/never")
        protocol.answer_without_end()
        self.clock.advance(10_000)
        self.assertFalse(transport.aborted)

    def test_last_answer_that_is_not_read(self) -> None:
        """The time of the last answer before the close is limited too, also if the answer had no limit before it ended."""
        for without_end in (False, True):
            protocol, transport = self.client.send("GET", "/never", Connection="close")
            if without_end:
                protocol.answer_without_end()
            protocol.requests[0].finish()
            self.assertTrue(transport.disconnecting)
            self.clock.advance(http_server.ANSWER_SECONDS)
            self.assertTrue(transport.aborted)

    def test_closed(self) -> None:
        """A closed connection leaves no timer."""
        protocol, _ = self.client.send("GET", "/never")
        protocol.connectionLost()
        self.assertEqual(([], 0), (self.clock.getDelayedCalls(), len(self.site)))


class PipelineTests(SiteTestCase):
    """Tests of requests that arrive together."""

    def setUp(self) -> None:
        super().setUp()
        self.clock: TurnClock = TurnClock()
        self.site = BoundedSite(self.echo, self.clock)
        self.client = Client(self.site, self.clock)
        self.protocol, self.transport = self.client.connect()

    def send(self, number: int) -> None:
        self.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * number)

    def test_one_in_a_turn(self) -> None:
        """Each turn of the reactor answers one of them. Finally all are answered."""
        self.send(500)
        for number in range(1, 501):
            self.assertEqual((number, number), (self.echo.asked, self.transport.value().count(b"HTTP/1.1 200")))
            self.clock.turn()
        self.assertEqual(500, self.echo.asked)
        self.send(1)
        self.assertEqual(501, self.echo.asked)

    def test_bodies(self) -> None:
        """The same holds for requests with a body."""
        self.protocol.dataReceived(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy" * 3)
        self.assertEqual(1, self.echo.asked)
        for _ in range(2):
            self.clock.advance(0)
        self.assertEqual((3, 3), (self.echo.asked, self.transport.value().count(b"a|xy")))

    def test_client_does_not_read(self) -> None:
        """While the client does not read its answers no further one is made, and its time runs."""
        self.protocol.pauseProducing()
        self.send(3)
        self.clock.advance(1)
        self.assertEqual(1, self.echo.asked)
        self.protocol.resumeProducing()
        for _ in range(5):
            self.clock.advance(0)
        self.assertEqual(3, self.echo.asked)
        self.protocol.pauseProducing()
        self.send(2)
        self.clock.advance(http_server.ANSWER_SECONDS)
        self.assertEqual((4, True), (self.echo.asked, self.transport.aborted))

    def test_gone(self) -> None:
        """If a client disconnects, no further request is answered, and no timer is left."""
        for paused in (False, True):
            self.protocol, self.transport = self.client.connect()
            if paused:
                self.protocol.pauseProducing()
            self.echo.asked = 0
            self.send(3)
            self.protocol.connectionLost()
            self.protocol.resumeProducing()
            self.clock.advance(0)
            self.assertEqual((1, 1), (self.echo.asked, len(self.site)))


class ConnectionTests(SiteTestCase):
    """Tests of the number of connections in total and of one site."""

    def test_one_site(self) -> None:
        """The connections of a site are limited: its oldest gives way."""
        opened = [self.client.connect() for _ in range(http_server.CONNECTIONS_PER_SITE + 1)]
        self.assertEqual([True] + [False] * http_server.CONNECTIONS_PER_SITE, [transport.aborted for _, transport in opened])

    def test_many_sites(self) -> None:
        """If there is no room, the site with the most connections gives way."""
        self.patch(http_server, "CONNECTIONS", 6)
        other = Client(self.site, self.clock, "192.0.2.1").connect()
        crowd = [self.client.connect() for _ in range(5)]
        newcomer = Client(self.site, self.clock, "192.0.2.2").connect()
        self.assertFalse(other[1].aborted or newcomer[1].aborted)
        self.assertEqual([True, False, False, False, False], [transport.aborted for _, transport in crowd])
        self.assertEqual(6, len(self.site))

    def test_many_narrow_sites(self) -> None:
        """The narrow sites of a wide one count together: its owner does not push out others with an address of its own each."""
        self.patch(http_server, "CONNECTIONS", 6)
        other = Client(self.site, self.clock, "2001:db8:2::1").connect()
        crowd = [Client(self.site, self.clock, f"2001:db8:1:{number:x}::1").connect() for number in range(0, 20 * 256, 256)]
        self.assertEqual((other[1].aborted, [transport.aborted for _, transport in crowd]), (False, [True] * 15 + [False] * 5))
        more = [Client(self.site, self.clock, "2001:db8:1:900::2").connect() for _ in range(3)]  # then within the most crowded /56
        last = [transport.aborted for _, transport in (*crowd[15:], *more)]
        self.assertEqual((other[1].aborted, last), (False, [True, True, False, False, False, True, False, False]))

    def test_users_keep_their_place(self) -> None:
        """A crowd of strangers does not disconnect a logged-in user. One of the crowd gives way for a user."""
        self.patch(http_server, "CONNECTIONS", 4)
        protocol, user = self.client.connect()
        protocol.trusted = True
        crowd = [Client(self.site, self.clock, f"192.0.2.{number}").connect() for number in range(20)]
        self.assertFalse(user.aborted)
        self.assertEqual(3, sum(not transport.aborted for _, transport in crowd))

    def test_full_of_users(self) -> None:
        """If all connections are logged in, a new one is refused."""
        self.patch(http_server, "CONNECTIONS", 2)
        for _ in range(2):
            self.client.connect()[0].trusted = True
        self.assertIsNone(self.client.connect()[0])

    def test_close(self) -> None:
        """At the end all connections are closed."""
        opened = [self.client.connect() for _ in range(3)]
        self.site.close()
        self.assertTrue(all(transport.aborted for _, transport in opened))
