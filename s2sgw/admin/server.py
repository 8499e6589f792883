"""The admin socket: HTTP (`admin.http_api`), or one JSON object per line in each direction (docs/admin.md).

    {"verb": "streams", "args": {"peer": "friend.example"}}
    {"ok": true, "result": […]}            or {"ok": false, "error": "…", "kind": "usage" | "failed" | "denied" | "internal"}

The first byte of a connection decides: a request of the line protocol begins with "{", one of HTTP with a letter.
Each verb is a callable in a registry. A response of any size is written row by row, in slices (`net.slices`), so that no request
delays the streams. The response to some verbs is a `Feed`: a line for each event, until the client closes the connection.
"""

from __future__ import annotations

import grp
import json
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from twisted.application.service import Service
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IListeningPort, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, Protocol, ServerFactory
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from s2sgw.admin.event_flow import EventFlow, EventSource
from s2sgw.admin.permissions import Caller, caller_of
from s2sgw.admin.protocol import ANSWER_BYTES, ANSWER_SECONDS, REQUEST_BYTES, ErrorKind
from s2sgw.net.slices import SlicedWork, Slices
from s2sgw.reporting.live_events import TooManyWatchers
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.timer import cancel

#: A verb takes the arguments. It returns a JSON value, `Rows` or a `Feed`, or a Deferred or coroutine of one of these.
Arguments = Mapping[str, Any]
Verb = Callable[[Arguments], Any]
Verbs = Mapping[str, Verb]
#: Whether a user who may change nothing may use a verb with these arguments.
IsReadOnly = Callable[[str, Arguments], bool]

#: Connections at once, those of them that are not an operator's, and requests that may wait on one connection.
CONNECTIONS = 32
MEMBERS_CONNECTIONS = 16
PIPELINED = 16
#: Bytes of a response that are written at once.
CHUNK_BYTES = 16384
#: Seconds that a connection may be without a request.
IDLE_SECONDS = 60
#: The longest path of a socket on Linux (sockaddr_un).
PATH_BYTES = 107


#: The argument with the name of the requesting user. A server sets it; a client cannot.
BY = "by"


class VerbError(Exception):
    """A request has no result. The text says why."""

    def __init__(self, text: str, kind: ErrorKind = "failed") -> None:
        super().__init__(text)
        self.kind = kind


class NothingHere(VerbError):
    """This gateway has nothing of what was asked. Another node of a cluster may have it. `table`: an answer without rows."""

    def __init__(self, text: str, table: dict[str, Any]) -> None:
        super().__init__(text)
        self.table = table


class Feed(NamedTuple):
    """A response with a line for each event of `peer`, or of all peers, until the client closes the connection."""

    live: EventSource
    peer: Domain | None


class Rows:
    """A list whose rows are made while the response is written. None is a step of the work without a row."""

    def __init__(self, rows: Iterator[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        """Return the rows."""
        return (row for row in self._rows if row is not None)

    def steps(self) -> Iterator[Any]:
        """Return the rows, and None for each step without one."""
        return self._rows


def asked_by(arguments: Arguments, default: str = "admin socket") -> str:
    """Return the name of the requesting user, for the audit log; `default`: any user of the socket."""
    return str(arguments.get(BY) or default)


@implementer(IPushProducer)
class AnswerWriter:
    """Writes one answer as JSON to a consumer, which is a transport or an HTTP request.

    Rows are made only as fast as the client reads them.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        #: whether a part of the answer is written
        self.partial = False
        #: fires when the client has read the written part; None: it reads
        self._full: Deferred[None] | None = None

    def write(self, result: object, before: str = "", after: str = "") -> SlicedWork[None]:
        """Return the work of writing `result` between two texts. Raises `VerbError` if it is too large."""
        self._consumer.registerProducer(self, True)
        try:
            chunk, size, total = [before], 0, 0
            for piece in json_pieces(result):
                if piece is not None:
                    chunk.append(piece)
                    size += len(piece)
                    total += len(piece)
                if total > ANSWER_BYTES:
                    raise VerbError("the response is too large; request less (a peer, a limit)")
                if size > CHUNK_BYTES:
                    self.partial = True
                    self._consumer.write("".join(chunk).encode("ascii"))
                    chunk, size = [], 0
                yield self._full
            self._consumer.write(("".join(chunk) + after).encode("ascii"))
        finally:
            self._consumer.unregisterProducer()
            self._full = None

    def pauseProducing(self) -> None:
        """Wait: the client does not read the written part."""
        self._full = self._full or Deferred()

    def resumeProducing(self) -> None:
        """Go on: the client has read it."""
        full, self._full = self._full, None
        if full is not None and not full.called:
            full.callback(None)

    def stopProducing(self) -> None:
        """The connection is closing; `connectionLost` follows."""


def nothing(verb: str, arguments: Arguments) -> bool:
    """Return that a read-only user may not use this."""
    return False


@implementer(IHalfCloseableProtocol)
class AdminProtocol(LineOnlyReceiver, TimeoutMixin):
    """One connection of the line protocol. Requests are answered one at a time, in order; up to `PIPELINED` may wait."""

    delimiter = b"\n"
    MAX_LENGTH = REQUEST_BYTES
    log = Logger()

    def __init__(
        self, verbs: Verbs, clock: IReactorTime, slices: Slices, caller: Caller | None, is_read_only: IsReadOnly,
    ) -> None:
        """Take the services. `caller` is the process at the other end; None: unknown. `is_read_only`: see `AdminFactory`."""
        self._verbs = verbs
        self._is_read_only = is_read_only
        self._clock = clock
        self._slices = slices
        self._caller = caller
        #: the feed that is followed
        self._flow: EventFlow | None = None
        self._writer: AnswerWriter | None = None
        self._answering: Deferred[Any] | None = None
        self._waiting: deque[bytes] = deque()
        #: why the connection ends when the waiting requests are answered; nothing more is read
        self._refusal: VerbError | None = None
        #: whether the client sends nothing more
        self._sent_all = False
        self._over = False

    def callLater(self, period: float, function: Callable[[], None]) -> Any:
        """Return a timed call on our clock (for `TimeoutMixin`)."""
        return self._clock.callLater(period, function)

    def connectionMade(self) -> None:
        self.setTimeout(IDLE_SECONDS)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._over = True
        self.setTimeout(None)
        self._waiting.clear()
        if self._answering is not None:
            self._answering.cancel()
        if self._flow is not None:
            self._flow.stop()

    def dataReceived(self, data: bytes) -> None:
        """Read requests, unless one was refused."""
        if self._refusal is None:
            super().dataReceived(data)

    def readConnectionLost(self) -> None:
        """Close the connection when the waiting requests are answered: the client sends nothing more. A watch ends at once."""
        self._sent_all = True
        self._next()

    def writeConnectionLost(self) -> None:
        """Do nothing: we never close only one direction."""

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(f"a request has at most {REQUEST_BYTES} bytes")

    def _refuse(self, text: str) -> None:
        """Accept no further request: answer those that wait, then say why the connection ends."""
        if self._refusal is None:
            self._refusal = VerbError(text, "usage")
            self._next()

    def lineReceived(self, line: bytes) -> None:
        if self._over or self._refusal is not None:
            return
        if self.follows:
            self._close(VerbError("this connection follows events; send requests on another one", "usage"))
            return
        if len(self._waiting) >= PIPELINED:
            self._refuse(f"at most {PIPELINED} requests may wait for their answers; this one and later ones are not carried out")
            return
        self._waiting.append(line)
        self._next()

    def _next(self) -> None:
        if self._answering is not None or self._over:
            return
        if self._refusal is not None and (self.follows or not self._waiting):
            self._close(self._refusal)
        elif self._sent_all and (self.follows or not self._waiting):
            self._end()
        if not self._waiting or self._over or self.follows:
            return
        self.setTimeout(None)
        asked: Deferred[Any] = Deferred()
        self._answering = asked
        asked.addCallback(self._ask)
        asked.addCallback(self._answer)
        asked.addTimeout(ANSWER_SECONDS, self._clock, _too_slow)
        asked.addErrback(self._failed)
        asked.addBoth(self._done)
        asked.callback(self._waiting.popleft())

    def _done(self, _: object) -> None:
        self._answering = self._writer = None
        if not self._over and not self.follows:
            self.setTimeout(IDLE_SECONDS)
        self._next()

    @property
    def follows(self) -> bool:
        """Whether the connection follows a feed."""
        return self._flow is not None

    def _ask(self, line: bytes) -> Any:
        verb, arguments = parse_request(line)
        answer = self._verbs.get(verb)
        if answer is None:
            raise VerbError(f"there is no verb {verb!r}; there are {', '.join(sorted(self._verbs))}", "usage")
        arguments.pop(BY, None)
        if self._caller is None or not (self._caller.is_operator or self._is_read_only(verb, arguments)):
            raise VerbError("not permitted: members of the group may only look; ask as root or as the gateway's user", "denied")
        return called(answer, arguments)

    # --- answers ---

    def _answer(self, result: object) -> Deferred[None] | None:
        if isinstance(result, Feed):
            self._follow(result)
            return None
        self._writer = AnswerWriter(self._connection)
        return self._slices.run(self._writer.write(result, '{"ok": true, "result": ', "}\n"))

    def _follow(self, feed: Feed) -> None:
        """Send each event of `feed` from now on. Raises `VerbError` if too many watch."""
        flow = EventFlow(feed.live, self._clock, self._send_events, self._gave_way)
        try:
            flow.begin("" if self._caller is None else f"user {self._caller.user}", feed.peer)
        except TooManyWatchers:
            raise VerbError("too many watch already") from None
        self._flow = flow
        self._waiting.clear()
        self._connection.registerProducer(flow, True)
        self._send({"ok": True, "result": {"event": "watching", "peer": None if feed.peer is None else str(feed.peer)}})

    def _send_events(self, events: list[dict[str, Any]], missed: int) -> None:
        if missed:
            self._send({"ok": True, "result": {"event": "events missed", "number": missed}})
        for event in events:
            self._send({"ok": True, "result": event})

    def _gave_way(self) -> None:
        """Close the connection: a newer watcher has its place."""
        self._connection.unregisterProducer()
        self._close(VerbError("a newer watch has taken the place of this one"))

    @property
    def _connection(self) -> Any:
        return self.transport

    def _failed(self, failure: Failure) -> None:
        if self._over:
            return
        refusal = failure.value
        if not isinstance(refusal, VerbError):
            self.log.failure("an admin request failed", failure)
            refusal = VerbError("the gateway could not answer; see its log", "internal")
        if self._writer is not None and self._writer.partial:
            self._connection.abortConnection()  # otherwise half an answer looks like a whole one
            return
        self._send({"ok": False, "error": str(refusal), "kind": refusal.kind})

    def _close(self, refusal: VerbError) -> None:
        self._send({"ok": False, "error": str(refusal), "kind": refusal.kind})
        self._end()

    def _end(self) -> None:
        self._over = True
        self._connection.loseConnection()

    def _send(self, answer: dict[str, Any]) -> None:
        if not self._over and self.transport is not None:
            self.transport.write(json.dumps(answer).encode("ascii") + b"\n")


def called(verb: Verb, arguments: Arguments) -> Any:
    """Return the result of a verb, or a Deferred of it."""
    result = verb(arguments)
    return Deferred.fromCoroutine(result) if isinstance(result, Coroutine) else result


def json_pieces(value: object) -> Iterator[str | None]:
    """Yield the JSON text of `value` in pieces, one for each item of lists and tables. None is a step without text."""
    if isinstance(value, Rows | list):
        separator = "["
        for item in value.steps() if isinstance(value, Rows) else value:
            if item is None and isinstance(value, Rows):
                yield None
            else:
                yield separator + json.dumps(item)
                separator = ", "
        yield "[]" if separator == "[" else "]"
    elif isinstance(value, dict) and value and all(type(key) is str for key in value):
        separator = "{"
        for key, item in value.items():
            yield f"{separator}{json.dumps(key)}: "
            yield from json_pieces(item)
            separator = ", "
        yield "}"
    else:
        yield json.dumps(value)


def _too_slow(_: object, seconds: float) -> Any:
    raise VerbError(f"no answer within {seconds:.0f} seconds", "internal")


def parse_request(line: bytes) -> tuple[str, dict[str, Any]]:
    """Return the verb and its arguments. Raises `VerbError`."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise VerbError("a request is one JSON object on a line", "usage") from None
    verb = request.get("verb") if isinstance(request, dict) else None
    arguments = request.get("args", {}) if isinstance(request, dict) else None
    if not isinstance(verb, str) or not isinstance(arguments, dict):
        raise VerbError('a request is {"verb": "…", "args": {…}}', "usage")
    return verb, arguments


def peer_process(transport: Any) -> Caller | None:
    """Return the process that connected, or None if the kernel does not tell."""
    with suppress(OSError):
        return caller_of(transport.socket)
    return None


def hung_up(transport: Any) -> bool:
    """Return whether the other end of a UNIX socket is closed, and not only for writing."""
    connection = getattr(transport, "socket", None)
    if connection is None:
        return False
    poll = select.poll()
    poll.register(connection, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


@implementer(IHalfCloseableProtocol)
class FirstByte(Protocol):
    """A connection until its first byte, which shows whether it is HTTP or the line protocol.

    `admitted` is called as soon as the caller is known. If it returns False, the connection is closed.
    """

    def __init__(
        self, chosen: Callable[[bytes, Any], Any], clock: IReactorTime, gone: Callable[[FirstByte], None],
        admitted: Callable[[FirstByte], bool] = lambda connection: True,
    ) -> None:
        self._chosen = chosen
        self._admitted = admitted
        self._gone = gone
        self._protocol: Any = None
        self._idle = clock.callLater(IDLE_SECONDS, self._timed_out)

    def connectionMade(self) -> None:
        if not self._admitted(self):
            self._timed_out()

    def dataReceived(self, data: bytes) -> None:
        if self._protocol is None:
            self._stop_waiting()
            self._protocol = self._chosen(data[:1], self.transport)
            self._protocol.makeConnection(self.transport)
        self._protocol.dataReceived(data)

    def readConnectionLost(self) -> None:
        """Answer the requests that came, if the client can still read. Otherwise cut the connection."""
        transport: Any = self.transport
        if self._protocol is not None and not hung_up(transport):
            self._protocol.readConnectionLost()
        else:
            transport.abortConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: we never close only one direction."""

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._stop_waiting()
        if self._protocol is not None:
            self._protocol.connectionLost(reason)
        self._gone(self)

    def _stop_waiting(self) -> None:
        cancel(self._idle)

    def _timed_out(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


class AdminFactory(Factory):
    """Makes the connections, at most `CONNECTIONS` at once. Members of the group leave some of them to operators.

    `http` builds HTTP connections, if there is such a server. `identify` returns the process at the other end of a transport.
    `is_read_only` returns whether members of the group may use a verb.
    """

    noisy = False

    def __init__(
        self, verbs: Verbs, clock: IReactorTime, slices: Slices | None = None, http: ServerFactory[Any] | None = None,
        identify: Callable[[Any], Caller | None] = peer_process, is_read_only: IsReadOnly = nothing,
    ) -> None:
        self.identify = identify
        self._is_read_only = is_read_only
        self._verbs = verbs
        self._clock = clock
        self._slices = slices or Slices(clock)
        self._http = http
        self._open: set[FirstByte] = set()
        self._members: set[FirstByte] = set()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        if len(self._open) >= CONNECTIONS:
            return None
        protocol = FirstByte(self._chosen, self._clock, self._gone, self._admitted)
        protocol.factory = self
        self._open.add(protocol)
        return protocol

    def _admitted(self, connection: FirstByte) -> bool:
        """Return whether there is room for a connection, now that its caller is known."""
        caller = self.identify(connection.transport)
        if caller is not None and caller.is_operator:
            return True
        self._members.add(connection)
        return len(self._members) <= MEMBERS_CONNECTIONS

    def _gone(self, connection: FirstByte) -> None:
        self._open.discard(connection)
        self._members.discard(connection)

    def _chosen(self, first: bytes, transport: Any) -> Any:
        """Return the protocol for a connection with this first byte. Members of the group cannot use HTTP."""
        caller = self.identify(transport)
        if self._http is not None and first.isalpha() and caller is not None and caller.is_operator:
            return self._http.buildProtocol(UNIXAddress(None))
        return AdminProtocol(self._verbs, self._clock, self._slices, caller, self._is_read_only)

    def close(self) -> None:
        """Cut every connection."""
        for protocol in list(self._open):
            if protocol.transport is not None:
                protocol.transport.loseConnection()


class AdminInUse(Exception):
    """Another gateway answers on the socket, or no socket can be made there."""


def _group_of(path: Path) -> int | None:
    """Return the number of the group that a file belongs to; None: there is no file."""
    try:
        return path.stat().st_gid
    except FileNotFoundError:
        return None


class AdminService(Service):
    """Listens on a UNIX socket while it runs.

    Only root, the gateway's user, and the members of `group` can connect. The members may use what `is_read_only` allows.
    """

    def __init__(
        self, reactor: Any, path: Path, verbs: Verbs, slices: Slices | None = None, http: ServerFactory[Any] | None = None,
        group: str | None = None, is_read_only: IsReadOnly = nothing,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._group = group
        self._factory = AdminFactory(verbs, reactor, slices, http, is_read_only=is_read_only)
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Listen. Raises `AdminInUse`."""
        number = None if self._group is None else _group_number(self._group)
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o755)
        claim(self._path)
        self._port = self._reactor.listenUNIX(str(self._path), self._factory, mode=0o600)
        if number is not None:
            self._admit(number)
        super().startService()

    def _admit(self, number: int) -> None:
        """Let the members of a group connect. Raises `AdminInUse`."""
        try:
            if _group_of(self._path) != number:  # the unit that is shipped runs in the group, and forbids chown
                os.chown(self._path, -1, number)
            os.chmod(self._path, 0o660)
        except OSError as error:
            text = f"{self._path}: cannot be given to the group {self._group}: {error.strerror}; the gateway's user must be in it"
            raise AdminInUse(text) from None

    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        self._factory.close()
        port, self._port = self._port, None
        return None if port is None else port.stopListening()


def _group_number(name: str) -> int:
    """Return the number of a group. Raises `AdminInUse`."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise AdminInUse(f"admin.group: there is no group {name}") from None


def claim(path: Path) -> None:
    """Remove a socket that a killed gateway left at `path`. Raises `AdminInUse` if a gateway still answers on it."""
    if len(os.fsencode(path)) > PATH_BYTES:
        raise AdminInUse(f"{path}: the path of a socket has at most {PATH_BYTES} bytes; set admin.socket to a shorter one")
    if not path.exists():
        return
    if not path.is_socket():
        raise AdminInUse(f"{path}: exists and is not a socket; move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fsencode(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise AdminInUse(f"{path}: {error.strerror or error}") from None
    raise AdminInUse(f"{path}: another gateway runs with this state")
