"""The admin socket, `<state>/admin.sock`: HTTP (`admin.http_api`), or one JSON object a line in and one a line out.

    {"verb": "streams", "args": {"peer": "friend.example"}}
    {"ok": true, "result": […]}            or {"ok": false, "error": "…", "kind": "usage" | "failed"}

The first byte of a connection tells the two apart: a request of the line protocol begins with "{", one of HTTP with a letter.
A verb is a plain callable in a registry. An answer of any size is made and written row by row, in slices
(`net.slices`), so that no request holds up the streams.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IListeningPort, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, Protocol, ServerFactory
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from s2sgw.net.slices import SlicedWork, Slices

#: What a verb may be called with, and what it gives back: JSON-able or `Rows`, or a Deferred or coroutine of that.
Arguments = Mapping[str, Any]
Verb = Callable[[Arguments], Any]
Verbs = Mapping[str, Verb]

SOCKET = "admin.sock"
#: Bytes of one request and of one answer, connections at once, requests that wait on one of them, seconds without a
#: request, seconds for an answer.
REQUEST_BYTES = 65536
ANSWER_BYTES = 64 * 1024 * 1024
CONNECTIONS = 32
PIPELINED = 16
#: Bytes of an answer that are written at once.
CHUNK_BYTES = 16384
IDLE_SECONDS = 60
ANSWER_SECONDS = 120
#: sockaddr_un holds no longer path on Linux.
PATH_BYTES = 107


#: The argument with the name of the user who asks. A server sets it; a client cannot.
BY = "by"


class VerbError(Exception):
    """A verb's refusal. `kind`: "usage" if the request was wrong, "failed" if it cannot be answered."""

    def __init__(self, text: str, kind: str = "failed") -> None:
        super().__init__(text)
        self.kind = kind


class Rows:
    """A list of an answer whose rows are made as they are written. None is a step of the work that gave no row."""

    def __init__(self, rows: Iterator[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        """Return the rows."""
        return (row for row in self._rows if row is not None)

    def steps(self) -> Iterator[Any]:
        """Return the rows, and None for each step without one."""
        return self._rows


def asked_by(arguments: Arguments, default: str = "admin socket") -> str:
    """Return the name of the user who asks, for the audit log; `default` for whoever may open the socket."""
    return str(arguments.get(BY) or default)


@implementer(IPushProducer)
class AnswerWriter:
    """Writes one answer as JSON to a consumer, which is a transport or an HTTP request.

    Rows are made only as fast as the client reads them.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        #: a part of the answer is written
        self.partial = False
        #: fires when the client has read what was written; None: it reads
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
                    raise VerbError("the answer is too large; ask for less (a peer, a limit)")
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
        """The client does not read what was written."""
        self._full = self._full or Deferred()

    def resumeProducing(self) -> None:
        """The client has read it."""
        full, self._full = self._full, None
        if full is not None and not full.called:
            full.callback(None)

    def stopProducing(self) -> None:
        """The connection is closing; `connectionLost` follows."""


class AdminProtocol(LineOnlyReceiver, TimeoutMixin):
    """One connection of the line protocol. Requests are answered one at a time, in order; `PIPELINED` may wait."""

    delimiter = b"\n"
    MAX_LENGTH = REQUEST_BYTES
    log = Logger()

    def __init__(self, verbs: Verbs, clock: IReactorTime, slices: Slices) -> None:
        self._verbs = verbs
        self._clock = clock
        self._slices = slices
        self._writer: AnswerWriter | None = None
        self._answering: Deferred[Any] | None = None
        self._waiting: deque[bytes] = deque()
        self._over = False

    def callLater(self, period: float, function: Callable[[], None]) -> Any:
        """`TimeoutMixin` on the clock that was given."""
        return self._clock.callLater(period, function)

    def connectionMade(self) -> None:
        self.setTimeout(IDLE_SECONDS)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._over = True
        self.setTimeout(None)
        self._waiting.clear()
        if self._answering is not None:
            self._answering.cancel()

    def lineLengthExceeded(self, line: bytes) -> None:
        self._close(VerbError(f"a request has at most {REQUEST_BYTES} bytes", "usage"))

    def lineReceived(self, line: bytes) -> None:
        if self._over:
            return
        if len(self._waiting) >= PIPELINED:
            self._close(VerbError(f"at most {PIPELINED} requests may wait for their answers", "usage"))
            return
        self._waiting.append(line)
        self._next()

    def _next(self) -> None:
        if self._answering is not None or not self._waiting or self._over:
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
        if not self._over:
            self.setTimeout(IDLE_SECONDS)
            self._next()

    def _ask(self, line: bytes) -> Any:
        verb, arguments = parse_request(line)
        answer = self._verbs.get(verb)
        if answer is None:
            raise VerbError(f"there is no verb {verb!r}; there are {', '.join(sorted(self._verbs))}", "usage")
        arguments.pop(BY, None)
        return called(answer, arguments)

    # --- answers ---

    def _answer(self, result: object) -> Deferred[None]:
        self._writer = AnswerWriter(self._connection)
        return self._slices.run(self._writer.write(result, '{"ok": true, "result": ', "}\n"))

    @property
    def _connection(self) -> Any:
        return self.transport

    def _failed(self, failure: Failure) -> None:
        if self._over:
            return
        refusal = failure.value
        if not isinstance(refusal, VerbError):
            self.log.failure("an admin request broke", failure)
            refusal = VerbError("the gateway could not answer; its log says why")
        if self._writer is not None and self._writer.partial:
            self._connection.abortConnection()  # nothing else tells half an answer from a whole one
            return
        self._send({"ok": False, "error": str(refusal), "kind": refusal.kind})

    def _close(self, refusal: VerbError) -> None:
        self._send({"ok": False, "error": str(refusal), "kind": refusal.kind})
        self._over = True
        assert self.transport is not None
        self.transport.loseConnection()

    def _send(self, answer: dict[str, Any]) -> None:
        if not self._over and self.transport is not None:
            self.transport.write(json.dumps(answer).encode("ascii") + b"\n")


def called(verb: Verb, arguments: Arguments) -> Any:
    """Return what a verb answers: its result, or a Deferred of it."""
    result = verb(arguments)
    return Deferred.fromCoroutine(result) if isinstance(result, Coroutine) else result


def json_pieces(value: object) -> Iterator[str | None]:
    """Yield the JSON text of `value` in pieces: the items of lists and tables by themselves; None is a step without text."""
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
    raise VerbError(f"no answer within {seconds:.0f} seconds")


def parse_request(line: bytes) -> tuple[str, dict[str, Any]]:
    """The verb and its arguments; raises `VerbError`."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise VerbError("a request is one JSON object on a line", "usage") from None
    verb = request.get("verb") if isinstance(request, dict) else None
    arguments = request.get("args", {}) if isinstance(request, dict) else None
    if not isinstance(verb, str) or not isinstance(arguments, dict):
        raise VerbError('a request is {"verb": "…", "args": {…}}', "usage")
    return verb, arguments


class FirstByte(Protocol):
    """A connection until its first byte, which tells whether it speaks HTTP or the line protocol."""

    def __init__(self, chosen: Callable[[bytes], Any], clock: IReactorTime, gone: Callable[[Protocol], None]) -> None:
        self._chosen = chosen
        self._gone = gone
        self._protocol: Any = None
        self._idle = clock.callLater(IDLE_SECONDS, self._timed_out)

    def dataReceived(self, data: bytes) -> None:
        if self._protocol is None:
            self._stop_waiting()
            self._protocol = self._chosen(data[:1])
            self._protocol.makeConnection(self.transport)
        self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._stop_waiting()
        if self._protocol is not None:
            self._protocol.connectionLost(reason)
        self._gone(self)

    def _stop_waiting(self) -> None:
        if self._idle.active():
            self._idle.cancel()

    def _timed_out(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


class AdminFactory(Factory):
    """Makes the connections, at most `CONNECTIONS` at once. `http` builds those that speak HTTP, where there is such a server."""

    noisy = False

    def __init__(
        self, verbs: Verbs, clock: IReactorTime, slices: Slices | None = None, http: ServerFactory[Any] | None = None,
    ) -> None:
        self._verbs = verbs
        self._clock = clock
        self._slices = slices or Slices(clock)
        self._http = http
        self._open: set[Protocol] = set()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        if len(self._open) >= CONNECTIONS:
            return None
        protocol = FirstByte(self._chosen, self._clock, self._open.discard)
        protocol.factory = self
        self._open.add(protocol)
        return protocol

    def _chosen(self, first: bytes) -> Any:
        """Return what goes on with a connection that began with this byte."""
        if self._http is not None and first.isalpha():
            return self._http.buildProtocol(UNIXAddress(None))
        return AdminProtocol(self._verbs, self._clock, self._slices)

    def close(self) -> None:
        """Drop every connection."""
        for protocol in list(self._open):
            if protocol.transport is not None:
                protocol.transport.loseConnection()


class AdminInUse(Exception):
    """Another gateway answers on the socket, or no socket can be made there."""


class AdminService(Service):
    """Listens on `<state>/admin.sock` (mode 0600, in a directory that is 0700) while it runs."""

    def __init__(
        self, reactor: Any, state: Path, verbs: Verbs, slices: Slices | None = None, http: ServerFactory[Any] | None = None,
    ) -> None:
        self._reactor = reactor
        self._path = state / SOCKET
        self._factory = AdminFactory(verbs, reactor, slices, http)
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Raises `AdminInUse`."""
        claim(self._path)
        self._port = self._reactor.listenUNIX(str(self._path), self._factory, mode=0o600)
        super().startService()

    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        self._factory.close()
        port, self._port = self._port, None
        return None if port is None else port.stopListening()


def claim(path: Path) -> None:
    """Make room for the socket: what a killed gateway left is removed, one that answers raises `AdminInUse`."""
    if len(os.fsencode(path)) > PATH_BYTES:
        raise AdminInUse(f"{path}: a socket's path has at most {PATH_BYTES} bytes; choose a shorter `state`")
    if not path.exists():
        return
    if not path.is_socket():
        raise AdminInUse(f"{path}: is in the way and is no socket; move it")
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
