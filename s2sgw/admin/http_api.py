"""The verbs over HTTP: `GET /api/v1/streams?peer=friend.example`, `POST /api/v1/queue/hold`; live events; health (docs/admin.md).

The same resources are on the admin socket, without authentication, and on the console's port.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from s2sgw.admin.event_flow import EventFlow
from s2sgw.admin.openapi import document
from s2sgw.admin.server import BY, AnswerWriter, Arguments, Feed, Verb, VerbError, called
from s2sgw.admin.verb_table import TABLE, VerbRow, from_query
from s2sgw.net.http_server import BODY_BYTES, BoundedChannel, BoundedRequest
from s2sgw.net.slices import Slices
from s2sgw.reporting.live_events import TooManyWatchers
from s2sgw.reporting.metrics import MetricsPage
from s2sgw.xmpp.timer import cancel

#: Seconds for an answer, and seconds between two signs of life without events.
ANSWER_SECONDS = 120
ALIVE_SECONDS = 20
#: The methods that change nothing.
READS = (b"GET", b"HEAD")
NO_VERB = "there is no such verb; /openapi.json lists them"
_STATUS = {"usage": 400, "failed": 409}


@dataclass(frozen=True, slots=True)
class APIUser:
    """The user of a request. `name` is for the audit log; "": any user of the admin socket. `local`: on that socket."""

    name: str = ""
    operator: bool = True
    local: bool = True


class NotAuthorised(Exception):
    """The user may not do this. `status` is 401 (no user is logged in), 403 or 429."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Authenticate(Protocol):
    """Finds the user of a request. `changes`: the request changes something."""

    def __call__(self, request: BoundedRequest, *, changes: bool) -> Deferred[APIUser]:
        """Return a Deferred of the user, which fails with `NotAuthorised`."""


def everybody(request: BoundedRequest, *, changes: bool) -> Deferred[APIUser]:
    """Allow everything: the rights of the socket's file have decided already."""
    answered: Deferred[APIUser] = Deferred()
    answered.callback(APIUser())
    return answered


@dataclass(frozen=True, slots=True)
class APIServices:
    """The services of the resources. `unready` returns why the gateway takes no connections; nothing if it does.

    `watch` is the verb of this name: in a cluster it has the events of all nodes.
    """

    clock: IReactorTime
    slices: Slices
    verbs: Mapping[str, Verb]
    watch: Callable[[Arguments], Feed]
    metrics: MetricsPage
    unready: Callable[[], list[str]]


class Absent(Resource):
    """The resource of an unknown path: 404 and a text."""

    isLeaf = True

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def render(self, request: Request) -> int:
        """Answer that there is nothing here."""
        return answer_json(request, 404, _error(self._text))


class Folder(Resource):
    """A path with others below it. `absent` is the text for all other paths."""

    def __init__(self, absent: str = "there is nothing here") -> None:
        super().__init__()
        self._absent = Absent(absent)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return the resource for an unknown path below the folder."""
        return self._absent

    def render(self, request: Request) -> int:
        """Answer that there is nothing here."""
        return self._absent.render(request)


class ReadOnly(Resource):
    """A page for GET or HEAD."""

    isLeaf = True

    def __init__(self, page: Resource) -> None:
        super().__init__()
        self._page = page

    def render(self, request: Request) -> Any:
        """Return the answer of the page."""
        if request.method not in READS:
            return answer_not_allowed(request, READS)
        return self._page.render(request)


class VerbResource(Resource):
    """One verb. Others may be below it: `deny list` below `deny`."""

    log = Logger("s2sgw")

    def __init__(self, row: VerbRow, verb: Verb, services: APIServices, authenticate: Authenticate) -> None:
        super().__init__()
        self._row = row
        self._verb = verb
        self._services = services
        self._authenticate = authenticate

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return the resource for an unknown path below the verb."""
        return self if path == b"" else Absent(NO_VERB)

    def render(self, request: BoundedRequest) -> int:
        """Answer with the result of the verb as JSON."""
        allowed = (b"POST",) if self._row.changes else READS
        if request.method not in allowed:
            return answer_not_allowed(request, allowed)
        writer = AnswerWriter(request)
        asked = self._authenticate(request, changes=self._row.changes)
        asked.addCallback(self._ask, request)
        asked.addCallback(self._answer, writer, request)
        asked.addTimeout(ANSWER_SECONDS, self._services.clock, _too_slow)
        request.notifyFinish().addErrback(lambda _: asked.cancel())
        asked.addErrback(self._failed, writer, request)
        return NOT_DONE_YET

    def _ask(self, user: APIUser, request: BoundedRequest) -> Any:
        row = self._row
        if row.local and not user.local:
            raise NotAuthorised(403, "this is answered on the admin socket only")
        if row.for_operators and not user.operator:
            raise NotAuthorised(403, "your role does not allow this")
        arguments = _body(request) if row.changes else from_query(row, _query(request))
        unknown = [name for name in arguments if name not in {each.name for each in row.parameters}]
        if unknown:
            raise VerbError(f"there is no argument {unknown[0]!r}", "usage")
        if not user.local and any(each.kind == "path" and each.name in arguments for each in row.parameters):
            raise NotAuthorised(403, "files of this machine are read on the admin socket only")
        if not user.operator and not row.is_read_only(arguments):
            raise NotAuthorised(403, "your role does not allow this")
        return called(self._verb, {**arguments, BY: user.name})

    def _answer(self, result: object, writer: AnswerWriter, request: BoundedRequest) -> Deferred[None] | None:
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        if request.method == b"HEAD":
            request.finish()
            return None
        return self._services.slices.run(writer.write(result, "", "\n")).addCallback(self._finish, request)

    def _finish(self, _: None, request: BoundedRequest) -> None:
        request.finish()

    def _failed(self, failure: Failure, writer: AnswerWriter, request: BoundedRequest) -> None:
        if request._disconnected:
            if not failure.check(CancelledError):
                self.log.failure("a request whose client is gone failed", failure)
            return
        error = failure.value
        if isinstance(error, NotAuthorised):
            answer_json(request, error.status, _error(str(error)))
            return
        if not isinstance(error, VerbError):
            self.log.failure("a request of the HTTP interface failed", failure)
            error = VerbError("the gateway could not answer; its log says why")
        if writer.partial:
            channel_of(request).abort()  # otherwise half an answer looks like a whole one
            return
        answer_json(request, _STATUS.get(error.kind, 503), _error(str(error), "usage" if error.kind == "usage" else "failed"))


class EventsResource(Resource):
    """`/events`: the events as server-sent events; `?peer=` for one peer, `?here=true` for one node of a cluster."""

    isLeaf = True

    def __init__(self, services: APIServices, authenticate: Authenticate) -> None:
        super().__init__()
        self._services = services
        self._authenticate = authenticate

    def render_GET(self, request: BoundedRequest) -> int:
        """Begin the stream of events."""
        asked = self._authenticate(request, changes=False)
        request.notifyFinish().addErrback(lambda _: asked.cancel())
        asked.addCallback(self._begin, request)
        asked.addErrback(self._failed, request)
        return NOT_DONE_YET

    def _begin(self, user: APIUser, request: BoundedRequest) -> None:
        query = _query(request)
        text, here = query.get("peer", [""])[0], query.get("here", [""])[0] == "true"
        feed = self._services.watch({**({"peer": text} if text else {}), **({"here": True} if here else {})})
        again = partial(self._authenticate, request, changes=False)
        EventStream(request, feed, self._services.clock, again).begin(user)

    def _failed(self, failure: Failure, request: BoundedRequest) -> None:
        if request._disconnected and failure.check(CancelledError):
            return
        failure.trap(NotAuthorised, VerbError, TooManyWatchers)
        status = getattr(failure.value, "status", 400 if failure.check(VerbError) else 503)
        answer_json(request, status, _error(failure.getErrorMessage() or "too many watch already"))


class EventStream:
    """One client that watches. `again` checks the user from time to time, so that the end of a session ends the stream."""

    def __init__(
        self, request: BoundedRequest, feed: Feed, clock: IReactorTime, again: Callable[[], Deferred[APIUser]],
    ) -> None:
        self._request = request
        self._peer = feed.peer
        self._clock = clock
        self._flow = EventFlow(feed.live, clock, self._write, self._end)
        self._again = again
        self._alive: Any = None
        self._over = False

    def begin(self, user: APIUser) -> None:
        """Register with the events, and write the head. Raises `TooManyWatchers`."""
        self._flow.begin(user.name, self._peer)
        request = self._request
        request.notifyFinish().addBoth(self._stop)
        channel_of(request).answer_without_end()
        request.setHeader(b"content-type", b"text/event-stream")
        request.setHeader(b"cache-control", b"no-store")
        request.registerProducer(self._flow, True)
        request.write(b": s2sgw\n\n")
        self._alive = self._clock.callLater(ALIVE_SECONDS, self._sign_of_life)

    def _write(self, events: list[dict[str, Any]], missed: int) -> None:
        pieces = [f'event: missed\ndata: {{"events": {missed}}}\n\n'] if missed else []
        pieces += [f"event: event\ndata: {json.dumps(event)}\n\n" for event in events]
        self._request.write("".join(pieces).encode("ascii"))

    def _sign_of_life(self) -> None:
        self._alive = self._clock.callLater(ALIVE_SECONDS, self._sign_of_life)
        if not self._flow.paused:
            self._request.write(b": alive\n\n")
        self._again().addErrback(self._end)

    def _end(self, _: object = None) -> None:
        """End the stream. Browsers do not open it again: a newer one takes its place, or the session is over."""
        if self._over:
            return
        self._stop()
        if self._flow.paused:
            channel_of(self._request).abort()
            return
        self._request.write(b"event: end\ndata: {}\n\n")
        self._request.unregisterProducer()
        self._request.finish()

    def _stop(self, _: object = None) -> None:
        self._over = True
        self._flow.stop()
        cancel(self._alive)


class OpenAPIResource(Resource):
    """`/openapi.json`."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._body = _json_body(document())

    def render_GET(self, request: Request) -> int:
        """Answer with the document."""
        return _answer_body(request, 200, self._body)


class HealthResource(Resource):
    """`/healthz` and `/readyz`: 200 with "ok", or 503 with one reason on each line."""

    isLeaf = True

    def __init__(self, reasons: Callable[[], list[str]]) -> None:
        super().__init__()
        self._reasons = reasons

    def render_GET(self, request: Request) -> bytes:
        """Answer in plain text."""
        reasons = self._reasons()
        request.setResponseCode(503 if reasons else 200)
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        request.setHeader(b"cache-control", b"no-store")
        return "".join(f"{reason}\n" for reason in reasons or ["ok"]).encode()


def add_resources(root: Resource, services: APIServices, authenticate: Authenticate) -> None:
    """Put the HTTP interface below `root`."""
    api, version = Folder(), Folder(NO_VERB)
    root.putChild(b"api", api)
    api.putChild(b"v1", version)
    for name, verb in services.verbs.items():
        row = TABLE.get(name)
        if row is not None:
            _put(version, row.path.encode("ascii").split(b"/"), VerbResource(row, verb, services, authenticate))
    version.putChild(b"watch", Absent("over HTTP, events are at /events"))
    root.putChild(b"openapi.json", ReadOnly(OpenAPIResource()))
    root.putChild(b"events", ReadOnly(EventsResource(services, authenticate)))
    root.putChild(b"metrics", ReadOnly(services.metrics))
    root.putChild(b"healthz", ReadOnly(HealthResource(list)))
    root.putChild(b"readyz", ReadOnly(HealthResource(services.unready)))


def _put(parent: Resource, path: list[bytes], leaf: Resource) -> None:
    *folders, name = path
    for folder in folders:
        if folder not in parent.children:
            parent.putChild(folder, Folder(NO_VERB))
        parent = cast(Resource, parent.children[folder])
    leaf.children.update(parent.children[name].children if name in parent.children else {})
    parent.putChild(name, leaf)


def answer_not_allowed(request: Request, allowed: Sequence[bytes]) -> int:
    """Answer that a request must have one of the `allowed` methods."""
    request.setHeader(b"allow", b", ".join(allowed))
    return answer_json(request, 405, _error(f"use {allowed[0].decode('ascii')}"))


def answer_json(request: Request, status: int, value: object) -> int:
    """Answer a request with a small JSON text."""
    return _answer_body(request, status, _json_body(value))


def _json_body(value: object) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


def _answer_body(request: Request, status: int, body: bytes) -> int:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"cache-control", b"no-store")
    request.setHeader(b"content-length", b"%d" % len(body))
    if request.method != b"HEAD":
        request.write(body)
    request.finish()
    return NOT_DONE_YET


def channel_of(request: Request) -> BoundedChannel:
    """Return the connection that a request came on."""
    return cast(BoundedChannel, request.channel)


def _error(text: str, kind: str = "usage") -> dict[str, str]:
    return {"error": text, "kind": kind}


def _too_slow(_: object, seconds: float) -> Any:
    raise VerbError(f"no answer within {seconds:.0f} seconds", "slow")


def _query(request: Request) -> dict[str, list[str]]:
    """Return the arguments in the URL. Raises `VerbError`."""
    try:
        return {name.decode(): [value.decode() for value in values] for name, values in request.args.items()}
    except UnicodeDecodeError:
        raise VerbError("the query must be UTF-8", "usage") from None


def _body(request: Request) -> dict[str, Any]:
    """Return the arguments in the body. Raises `VerbError`."""
    if request.uri.partition(b"?")[2]:
        raise VerbError("arguments belong into the body", "usage")
    body = request.content.read(BODY_BYTES) if request.content else b""
    if not body:
        return {}
    kind = (request.getHeader("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise VerbError("the body must be JSON, with Content-Type: application/json", "usage")
    try:
        arguments = json.loads(body)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise VerbError("the body must be a JSON object", "usage")
    return arguments
