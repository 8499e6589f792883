"""The admin socket, `<state>/admin.sock`: one JSON object a line in, one JSON object a line out (docs/admin.md).

    {"verb": "streams", "args": {"peer": "friend.example"}}
    {"ok": true, "result": […]}            or {"ok": false, "error": "…", "kind": "usage" | "failed"}

What each verb answers is a plain callable in a registry, so that pages and other doors can share it.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

#: What a verb may be called with, and what it gives back: JSON-able, or a Deferred or coroutine of that.
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
IDLE_SECONDS = 60
ANSWER_SECONDS = 120
#: sockaddr_un holds no longer path on Linux.
PATH_BYTES = 107


class VerbError(Exception):
    """A verb's own no: `kind` "usage" where the question was wrong, "failed" where the answer cannot be given."""

    def __init__(self, text: str, kind: str = "failed") -> None:
        super().__init__(text)
        self.kind = kind


class AdminProtocol(LineOnlyReceiver, TimeoutMixin):
    """One connection: requests are answered one at a time, in order; `PIPELINED` may wait for their turn."""

    delimiter = b"\n"
    MAX_LENGTH = REQUEST_BYTES
    log = Logger()

    def __init__(self, verbs: Verbs, clock: IReactorTime, gone: Callable[[AdminProtocol], None]) -> None:
        self._verbs = verbs
        self._clock = clock
        self._gone = gone
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
        self._gone(self)

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
        asked.addTimeout(ANSWER_SECONDS, self._clock, _too_slow)
        asked.addCallback(self._answer)
        asked.addErrback(self._failed)
        asked.addBoth(self._done)
        asked.callback(self._waiting.popleft())

    def _done(self, _: object) -> None:
        self._answering = None
        if not self._over:
            self.setTimeout(IDLE_SECONDS)
            self._next()

    def _ask(self, line: bytes) -> Any:
        verb, arguments = parse_request(line)
        answer = self._verbs.get(verb)
        if answer is None:
            raise VerbError(f"there is no verb {verb!r}; there are {', '.join(sorted(self._verbs))}", "usage")
        result = answer(arguments)
        return Deferred.fromCoroutine(result) if isinstance(result, Coroutine) else result

    def _answer(self, result: object) -> None:
        self._send({"ok": True, "result": result})

    def _failed(self, failure: Failure) -> None:
        if self._over:
            return
        refusal = failure.value
        if not isinstance(refusal, VerbError):
            self.log.failure("an admin request broke", failure)
            refusal = VerbError("the gateway could not answer; its log says why")
        self._send({"ok": False, "error": str(refusal), "kind": refusal.kind})

    def _close(self, refusal: VerbError) -> None:
        self._send({"ok": False, "error": str(refusal), "kind": refusal.kind})
        self._over = True
        assert self.transport is not None
        self.transport.loseConnection()

    def _send(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode("ascii")
        if len(data) > ANSWER_BYTES:
            raise VerbError("the answer is too large; ask for less (a peer, a limit)")
        if not self._over and self.transport is not None:
            self.transport.write(data + b"\n")


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


class AdminFactory(Factory):
    """Makes the connections, at most `CONNECTIONS` at once."""

    noisy = False

    def __init__(self, verbs: Verbs, clock: IReactorTime) -> None:
        self._verbs = verbs
        self._clock = clock
        self._open: set[AdminProtocol] = set()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        if len(self._open) >= CONNECTIONS:
            return None
        protocol = AdminProtocol(self._verbs, self._clock, self._open.discard)
        protocol.factory = self
        self._open.add(protocol)
        return protocol

    def close(self) -> None:
        """Drop every connection."""
        for protocol in list(self._open):
            if protocol.transport is not None:
                protocol.transport.loseConnection()


class AdminInUse(Exception):
    """Another gateway answers on the socket, or no socket can be made there."""


class AdminService(Service):
    """Listens on `<state>/admin.sock` (mode 0600, in a directory that is 0700) while it runs."""

    def __init__(self, reactor: Any, state: Path, verbs: Verbs) -> None:
        self._reactor = reactor
        self._path = state / SOCKET
        self._factory = AdminFactory(verbs, reactor)
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
