"""Tests of the HTTP interface: verbs, errors, limits, events, health."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin import http_api, server
from s2sgw.admin.event_flow import FLUSH_SECONDS
from s2sgw.admin.event_watch import EventWatch
from s2sgw.admin.http_api import APIServices, APIUser, Folder, NotAuthorised, add_resources, everybody
from s2sgw.admin.server import AdminFactory, Arguments, Feed, Rows, VerbError
from s2sgw.admin.verb_table import TABLE
from s2sgw.net.http_server import BoundedRequest, BoundedSite
from s2sgw.net.slices import Slices
from s2sgw.reporting.live_events import WAITING, LiveEvents
from s2sgw.reporting.metrics import MetricsPage
from tests.support.admin import operator
from tests.support.http import Client, Transport, parse


def producer(transport: Transport) -> Any:
    """Return the producer registered with a transport."""
    return transport.producer


class APITestCase(SynchronousTestCase):
    """A site with verbs that answer with their arguments."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.live = LiveEvents()
        self.watch = EventWatch(self.live).watch
        self.later: Deferred[Any] = Deferred()
        self.reasons: list[str] = []
        self.user: APIUser | NotAuthorised = APIUser()
        self.verbs: dict[str, Any] = {
            "streams": dict, "queue show": dict, "queue hold": dict, "pins approve": dict, "explain": dict, "replay": dict,
            "status": lambda _: self.later, "certs": lambda _: 1 / 0, "drain": self.no, "unknown": dict,
            "peers": lambda _: Rows(iter([{"number": number, "text": "x" * 1000} for number in range(100)])),
            "refusals": lambda _: Rows(self.breaking()),
        }
        self.client = self.made()

    def made(self) -> Client:
        services = APIServices(
            self.clock, Slices(self.clock), self.verbs, self.watch, MetricsPage(None), lambda: self.reasons,  # type: ignore[arg-type]
        )
        root = Folder()
        add_resources(root, services, self.authenticate)
        self.site = BoundedSite(root, self.clock)
        return Client(self.site, self.clock)

    def authenticate(self, request: BoundedRequest, *, changes: bool) -> Deferred[APIUser]:
        return fail(self.user) if isinstance(self.user, NotAuthorised) else succeed(self.user)

    def no(self, _: object) -> None:
        raise VerbError("not now")

    def breaking(self) -> Any:
        yield "x" * server.CHUNK_BYTES
        yield None
        raise ValueError("broken")


class VerbTests(APITestCase):
    def test_get(self) -> None:
        """A verb that changes nothing is called by GET. Its arguments are in the query, each of its type."""
        self.assertEqual({"peer": "a.example", "limit": 5, "by": ""}, self.client.get("/api/v1/streams?peer=a.example&limit=5").json)
        found = self.client.get("/api/v1/queue/show?target=a.example&target=example.org&target=3").json
        self.assertEqual(["a.example", "example.org", "3"], found["target"])
        response = self.client.get("/api/v1/explain?peer=a.example&look_up=false")
        self.assertIs(False, response.json["look_up"])
        self.assertEqual(("application/json", "no-store"), (response.headers["content-type"], response.headers["cache-control"]))

    def test_post(self) -> None:
        """A verb that changes something is called by POST, with a JSON body or none."""
        self.assertEqual({"target": ["a.example"], "by": ""}, self.client.post("/api/v1/queue/hold", {"target": ["a.example"]}).json)
        self.assertEqual({"by": ""}, self.client.post("/api/v1/queue/hold").json)

    def test_below_another(self) -> None:
        """A verb whose name begins with another verb's has its own path, whichever of the two is added first."""
        for names in (("deny", "deny list"), ("deny list", "deny")):
            self.verbs = dict.fromkeys(names, dict)
            self.client = self.made()
            self.assertEqual({"by": ""}, self.client.get("/api/v1/deny/list").json)
            self.assertEqual({"peer": "a.example", "by": ""}, self.client.post("/api/v1/deny", {"peer": "a.example"}).json)
            self.assertEqual({"by": ""}, self.client.post("/api/v1/deny/").json)
            for path in ("deny/none", "deny/list/none", "deny/none/none"):
                self.assertEqual(404, self.client.get(f"/api/v1/{path}").status, path)

    def test_every_verb(self) -> None:
        """Each verb of the table answers at the path that the OpenAPI document gives it."""
        self.verbs = {name: lambda _, name=name: name for name in TABLE}
        self.client = self.made()
        for name, row in TABLE.items():
            path = f"/api/v1/{row.path}"
            self.assertEqual(name, (self.client.post(path) if row.changes else self.client.get(path)).json, path)

    def test_head(self) -> None:
        """The answer to HEAD has no body."""
        response = self.client.ask("HEAD", "/api/v1/streams")
        self.assertEqual((200, b""), (response.status, response.body))

    def test_methods(self) -> None:
        """Each verb has its HTTP method."""
        self.assertEqual((405, "POST"), self.status_and(self.client.get("/api/v1/queue/hold"), "allow"))
        self.assertEqual((405, "GET, HEAD"), self.status_and(self.client.post("/api/v1/streams"), "allow"))

    def status_and(self, response: Any, header: str) -> tuple[int, str]:
        return response.status, response.headers[header]

    def test_nothing_there(self) -> None:
        """Other paths are 404, and so is a verb that is not in the table."""
        for path in (
            "/api/v1/nonsense", "/api/v1/nonsense/more", "/api/v1/unknown", "/api/v1/streams/x", "/api/v1", "/", "/api/v1/queue",
            "/api/v1/queue/nonsense", "/api/nonsense", "/nonsense", "/nonsense/more",
        ):
            for response in (self.client.get(path), self.client.post(path)):
                self.assertEqual((404, "usage"), (response.status, response.json["kind"]), path)
        self.assertIn("/openapi.json", self.client.get("/api/v1/nonsense").json["error"])

    def test_watch(self) -> None:
        """The verb `watch` has a page of its own over HTTP. Its path among the verbs refers to it."""
        response = self.client.get("/api/v1/watch")
        self.assertEqual((404, "over HTTP, events are at /events"), (response.status, response.json["error"]))

    def test_methods_of_pages(self) -> None:
        """A page that is only read answers other methods in JSON."""
        for path in ("/events", "/openapi.json", "/metrics", "/healthz", "/readyz"):
            for method in ("POST", "PUT", "NONSENSE"):
                response = self.client.ask(method, path)
                self.assertEqual((405, "GET, HEAD", "use GET"), (*self.status_and(response, "allow"), response.json["error"]), path)

    def test_bad_arguments(self) -> None:
        """An error in the arguments is explained."""
        for path, words in (
            ("streams?limit=x", "limit must be a whole number"), ("streams?nonsense=1", "takes peer, limit"),
            ("streams?peer=a&peer=b", "peer is given twice"), ("explain?look_up=1", "true or false"), ("streams?peer=%ff", "UTF-8"),
        ):
            response = self.client.get(f"/api/v1/{path}")
            self.assertEqual((400, "usage"), (response.status, response.json["kind"]), path)
            self.assertIn(words, response.json["error"])

    def test_bad_bodies(self) -> None:
        """A body is a JSON object of known arguments, with the content type JSON: a page of another site cannot send that."""
        path = "/api/v1/queue/hold"
        for body, kind, words in (
            (b"{", "application/json", "JSON object"), (b"[]", "application/json", "JSON object"), (b"[" * 9000, "application/json", "JSON object"),
            (b'{"target": ["a.example"]}', "text/plain", "Content-Type"), (b"target=a.example", "application/x-www-form-urlencoded", "Content-Type"),
            (b'{"x": 1}', "application/json", "no argument 'x'"), (b'{"by": "root"}', "application/json", "no argument 'by'"),
        ):  # fmt: skip
            response = self.client.ask("POST", path, body, Content_Type=kind)
            self.assertEqual(400, response.status, body[:10])
            self.assertIn(words, response.json["error"])
        self.assertEqual(400, self.client.post(path + "?target=a.example").status)

    def test_refusals(self) -> None:
        """A verb's refusal, an internal error, and an answer that takes too long each have their status."""
        self.assertEqual((409, {"error": "not now", "kind": "failed"}), self.told(self.client.post("/api/v1/drain")))
        self.assertEqual(409, self.client.get("/api/v1/certs").status)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        _, transport = self.client.send("GET", "/api/v1/status")
        self.clock.advance(http_api.ANSWER_SECONDS)
        self.assertEqual(503, parse(transport.value()).status)

    def told(self, response: Any) -> tuple[int, Any]:
        return response.status, response.json

    def test_rows(self) -> None:
        """A long answer is written row by row."""
        self.assertEqual(list(range(100)), [row["number"] for row in self.client.get("/api/v1/peers").json])

    def test_breaks_late(self) -> None:
        """If an answer fails halfway, the connection is cut, so that the half is not taken for the whole."""
        _, transport = self.client.send("GET", "/api/v1/refusals")
        for _ in range(10):
            self.clock.advance(0)
        self.assertTrue(transport.aborted)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_client_goes(self) -> None:
        """A request is cancelled when its client disconnects."""
        cancelled: list[object] = []
        self.later = Deferred(cancelled.append)
        protocol, _ = self.client.send("GET", "/api/v1/status")
        protocol.connectionLost()
        self.assertEqual(1, len(cancelled))

    def test_openapi(self) -> None:
        """The document is served. It is not made again for each request, because every user may ask for it."""
        self.patch(http_api, "_json_body", lambda value: self.fail("the document is made again"))
        self.assertIn("/api/v1/queue/hold", self.client.get("/openapi.json").json["paths"])


class RoleTests(APITestCase):
    """Tests of the roles and their verbs."""

    def test_nobody(self) -> None:
        """Without a user no request is answered."""
        self.user = NotAuthorised(401, "log in")
        for path in ("/api/v1/streams", "/events"):
            self.assertEqual((401, "log in"), (self.client.get(path).status, self.client.get(path).json["error"]))

    def test_read_only(self) -> None:
        """A read-only user cannot change anything or read the text of a stanza."""
        self.user = APIUser("bob", operator=False, local=False)
        self.assertEqual(200, self.client.get("/api/v1/streams").status)
        self.assertEqual(200, self.client.get("/api/v1/queue/show?target=a.example").status)
        self.assertEqual(403, self.client.get("/api/v1/queue/show?target=a.example&target=b.example&target=7").status)
        self.assertEqual(403, self.client.post("/api/v1/queue/hold", {"target": ["a.example"]}).status)

    def test_files(self) -> None:
        """Files of this machine are read only for the admin socket."""
        for user, status in ((APIUser("alice", local=False), 403), (APIUser(), 200)):
            self.user = user
            for path in ("replay?with=/etc/passwd", "explain?peer=a.example&with=/etc/passwd"):
                self.assertEqual(status, self.client.get(f"/api/v1/{path}").status, path)

    def test_name(self) -> None:
        """The verb is told the user's name. The client cannot set it."""
        self.user = APIUser("alice", local=False)
        self.assertEqual("alice", self.client.post("/api/v1/pins/approve", {"peer": "a.example"}).json["by"])


class EventTests(APITestCase):
    """Tests of server-sent events."""

    def watched(self, path: str = "/events") -> tuple[Any, Transport]:
        return self.client.send("GET", path)

    def tell(self, peer: str) -> None:
        self.live.tell(5.0, LogLevel.warn, peer, {"event": "refused", "peer": peer, "detail": "a\nb\u2028é"})

    def events(self, transport: Transport) -> list[dict[str, Any]]:
        self.clock.advance(FLUSH_SECONDS)
        lines = parse(transport.value()).text.split("\n")
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]

    def test_all_nodes(self) -> None:
        """The events are those of the verb `watch`: of all nodes of a cluster, or with `here` of this one."""
        asked: list[Any] = []

        def watch(arguments: Arguments) -> Feed:
            asked.append(arguments)
            return Feed(self.live, None)

        self.watch = watch
        self.client = self.made()
        self.watched("/events")
        self.watched("/events?here=true&peer=a.example")
        self.assertEqual([{}, {"peer": "a.example", "here": True}], asked)

    def test_events(self) -> None:
        """Each event is one JSON text on one line. `peer` selects events."""
        _, everything = self.watched()
        _, one = self.watched("/events?peer=A.example")
        self.tell("a.example")
        self.tell("b.example")
        self.assertEqual("text/event-stream", parse(everything.value()).headers["content-type"])
        self.assertEqual(["a.example", "b.example"], [event["peer"] for event in self.events(everything)])
        (event,) = self.events(one)
        self.assertEqual((5.0, "refused", "a.example", "a\nb\u2028é"), tuple(event[key] for key in ("at", "event", "peer", "detail")))

    def test_bad_peer(self) -> None:
        """A peer that is not a domain is refused."""
        self.assertEqual(400, self.client.get("/events?peer=a%20b").status)

    def test_client_does_not_read(self) -> None:
        """A client that does not read costs no more than a bounded number of waiting events, and is told how many it missed."""
        protocol, transport = self.watched()
        producer(transport).pauseProducing()
        for _ in range(WAITING + 7):
            self.tell("a.example")
        self.assertEqual([], self.events(transport))
        producer(transport).resumeProducing()
        self.assertEqual({"events": 7}, self.events(transport)[0])
        self.assertEqual(1 + WAITING, len(self.events(transport)))
        protocol.connectionLost()

    def test_gone(self) -> None:
        """When a client has disconnected its watch ends, and no timer is left."""
        protocol, _ = self.watched()
        self.tell("a.example")
        protocol.connectionLost()
        self.assertEqual((0, []), (len(self.live), self.clock.getDelayedCalls()))

    def test_sign_of_life(self) -> None:
        """While no event occurs a comment shows that the connection is alive, for any time."""
        _, transport = self.watched()
        for _ in range(30):
            self.clock.advance(http_api.ALIVE_SECONDS)
        self.assertEqual((30, False), (transport.value().count(b": alive"), transport.aborted))

    def test_session_ends(self) -> None:
        """The stream ends when the session ends."""
        _, transport = self.watched()
        _, stuck = self.watched()
        producer(stuck).pauseProducing()
        self.user = NotAuthorised(401, "log in")
        self.clock.advance(http_api.ALIVE_SECONDS)
        self.assertIn(b"event: end", transport.value())
        self.assertEqual((True, 0), (stuck.aborted, len(self.live)))

    def test_too_many(self) -> None:
        """The oldest watch of a user gives way. A new one is refused if there is no room to which it is entitled."""
        opened = [self.watched()[1] for _ in range(5)]
        self.assertEqual([True, False, False, False, False], [b"event: end" in transport.value() for transport in opened])
        self.assertTrue(opened[0].value().endswith(b"0\r\n\r\n"))
        for number in range(16):
            self.user = APIUser(f"user {number}")
            self.watched()
        self.user = APIUser("another")
        self.assertEqual(503, self.client.get("/events").status)


class HealthTests(APITestCase):
    """Tests of the pages for load balancers and containers."""

    def test_health(self) -> None:
        """/healthz answers while the process runs. /readyz says why it is not ready. Neither needs a login."""
        self.user = NotAuthorised(401, "log in")
        self.assertEqual((200, "ok\n"), (self.client.get("/healthz").status, self.client.get("/readyz").text))
        self.reasons = ["it is starting", "another reason"]
        self.assertEqual((503, "it is starting\nanother reason\n"), (self.client.get("/readyz").status, self.client.get("/readyz").text))
        self.assertEqual(200, self.client.get("/healthz").status)


class SocketTests(APITestCase):
    """Tests of both protocols on the admin socket."""

    def connect(self) -> tuple[Any, Transport]:
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        transport = Transport()
        protocol.makeConnection(transport)
        return protocol, transport

    def setUp(self) -> None:
        super().setUp()
        self.factory = AdminFactory(self.verbs, self.clock, http=self.site, identify=operator)

    def test_first_byte(self) -> None:
        """The first byte tells HTTP from the line protocol, also if it arrives alone."""
        protocol, transport = self.connect()
        for byte in b"GET /api/v1/streams HTTP/1.1\r\nHost: s2sgw\r\n\r\n":
            protocol.dataReceived(bytes([byte]))
        for _ in range(5):
            self.clock.advance(0)
        self.assertEqual({"by": ""}, parse(transport.value()).json)
        protocol, transport = self.connect()
        protocol.dataReceived(b'{"verb": "streams", "args": {"by": "root"}}\n')
        for _ in range(5):
            self.clock.advance(0)
        self.assertEqual({"ok": True, "result": {}}, json.loads(transport.value()))

    def test_half_closed(self) -> None:
        """A client that closes its sending side, as `nc -N` does, gets its whole answer. Then the connection closes."""
        protocol, transport = self.connect()
        protocol.dataReceived(b"GET /api/v1/status HTTP/1.1\r\nHost: s2sgw\r\n\r\n")
        protocol.readConnectionLost()
        self.clock.advance(0)
        self.assertFalse(transport.disconnecting)
        self.later.callback({"text": "late"})
        for _ in range(5):
            self.clock.advance(0)
        self.assertEqual(({"text": "late"}, True), (parse(transport.value()).json, transport.disconnecting))

    def test_half_closed_events(self) -> None:
        """Events end when their client closes its sending side: its disconnection could not be seen."""
        protocol, transport = self.connect()
        protocol.dataReceived(b"GET /events HTTP/1.1\r\nHost: s2sgw\r\n\r\n")
        self.assertFalse(transport.disconnecting)
        protocol.readConnectionLost()
        self.assertTrue(transport.disconnecting)

    def test_silent(self) -> None:
        """A silent connection is closed after a while."""
        protocol, transport = self.connect()
        self.clock.advance(server.IDLE_SECONDS)
        self.assertTrue(transport.disconnecting)
        protocol.connectionLost()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_bound(self) -> None:
        """Both protocols share the limit of connections."""
        opened = [self.connect()[0] for _ in range(server.CONNECTIONS)]
        opened[0].dataReceived(b"GET")
        self.assertIsNone(self.factory.buildProtocol(None))
        opened[0].connectionLost()
        self.assertIsNotNone(self.factory.buildProtocol(None))

    def test_everybody(self) -> None:
        """On the admin socket every user is an operator, recorded in the audit log as "admin socket"."""
        user = self.successResultOf(everybody(None, changes=True))  # type: ignore[arg-type]
        self.assertEqual(("admin socket", True), (server.asked_by({"by": user.name}), user.operator))
