"""One attempt to open a stream: find the server, connect, negotiate, and come back with a stream that is ready, or with
the reason why not (STYLE habit 7: a straight line done once is a coroutine).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.gateway.sides import SendingSide
from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import DialFailed
from s2sgw.net.discovery import Target
from s2sgw.stream.events import Event, JudgementNeeded, PairProven, PairRefused, VerifyReady
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Pair

#: So many addresses are tried in one attempt, over all targets.
ADDRESSES = 6


class StreamRefused(Exception):
    """No stream could be opened: why, where, and what was tried to prove the other end."""

    def __init__(self, ending: Ending, address: str = "", reasons: tuple[str, ...] = ()) -> None:
        super().__init__(f"{ending.layer}/{ending.cause}: {ending.detail}")
        self.ending = ending
        self.address = address
        self.reasons = reasons


class Listener(Protocol):
    """Whoever uses an open stream."""

    def stream_event(self, event: Event) -> None: ...

    def stream_lost(self, ending: Ending) -> None: ...

    def stream_slow(self) -> None: ...

    def stream_free(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Opener:
    """What an attempt needs of the world: `dial(address, port, connection)` connects within a bounded time, `took(step, seconds)`
    hears how long each step was by `now`."""

    connection: Callable[[InitiatingStream, OutgoingStream], StreamConnection]
    dial: Callable[[str, int, StreamConnection], Awaitable[None]]
    now: Callable[[], float] = float
    took: Callable[[str, float], None] = lambda step, seconds: None


class Stopwatch:
    """Times the steps of one attempt: dns, tcp, tls (STARTTLS included), auth (judgement included), and the total."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._began = self._last = opener.now()

    def step(self, name: str) -> None:
        """The step called `name` is over."""
        now = self._opener.now()
        self._opener.took(name, now - self._last)
        self._last = now

    def stop(self) -> None:
        """The stream is ready."""
        self._opener.took("total", self._opener.now() - self._began)


class OutgoingStream:
    """The owner of a connection that we opened: until it is ready it negotiates, then it passes on what happens."""

    log = Logger()

    def __init__(
        self, side: SendingSide, pair: Pair, target: Target, engine: InitiatingStream, opener: Opener, watch: Stopwatch,
    ) -> None:
        self._watch = watch
        self.side = side
        self.pair = pair
        self.target = target
        self.engine = engine
        self.method = ""
        self.reasons: tuple[str, ...] = ()
        self.listener: Listener | None = None
        self.connection = opener.connection(engine, self)
        #: fires when stanzas (or `verify`) may be sent; fails with `StreamRefused`
        self.ready: Deferred[OutgoingStream] = Deferred(self._abandon)
        self._question: Deferred[Any] | None = None
        self._over = False

    def connected(self, connection: StreamConnection) -> None:
        """Ours to begin."""
        connection.step(self.engine.begin)

    def event(self, connection: StreamConnection, event: Event) -> None:
        """One event of the engine."""
        match event:
            case JudgementNeeded():
                self._watch.step("tls")
                self._ask(event)
            case PairProven(_, method) if not self.ready.called:
                self.method = method
                self.ready.callback(self)
            case VerifyReady():
                self.ready.callback(self)
            case PairRefused(_, ending) if not self.ready.called:
                self._refuse(ending)
                connection.close(ending)
            case _ if self.listener is not None:
                self.listener.stream_event(event)

    def ended(self, connection: StreamConnection, ending: Ending) -> None:
        """The connection is gone."""
        self._over = True
        if self._question is not None:
            self._question.cancel()
        if not self.ready.called:
            self._refuse(ending)
        elif self.listener is not None:
            self.listener.stream_lost(ending)

    def paused(self, connection: StreamConnection) -> None:
        """The transport has more to send than it can."""
        if self.listener is not None:
            self.listener.stream_slow()

    def resumed(self, connection: StreamConnection) -> None:
        """The transport has room again."""
        if self.listener is not None:
            self.listener.stream_free()

    def close(self, ending: Ending) -> None:
        """Close in order."""
        self.connection.close(ending)

    def _abandon(self, ready: Deferred[OutgoingStream]) -> None:
        self.connection.abort(Ending(Cause.CLOSED))

    def _refuse(self, ending: Ending) -> None:
        self.ready.errback(StreamRefused(ending, self.connection.peer_address, self.reasons))

    def _ask(self, question: JudgementNeeded) -> None:
        self._question = Deferred.fromCoroutine(self._judge(question))
        self._question.addErrback(self._unanswered)

    async def _judge(self, question: JudgementNeeded) -> None:
        permission, self.reasons = await self.side.judge(self.connection, question, self.target)
        if not self._over:
            self.connection.step(self.engine.judged, permission)

    def _unanswered(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("a stream could not be judged", failure)
        self.close(Ending(Cause.INTERNAL))


async def open_stream(side: SendingSide, pair: Pair, opener: Opener, verifying: bool = False) -> OutgoingStream:
    """A stream for `pair` that is ready; raises `StreamRefused` with the reason of the last target tried (R36)."""
    watch = Stopwatch(opener)
    resolution = await side.resolve(pair)
    watch.step("dns")
    if resolution.ending is not None:
        raise StreamRefused(resolution.ending)
    refused = StreamRefused(Ending(Cause.UNREACHABLE, "the domain has no address to connect to"))
    for target, address in _places(resolution.targets):
        try:
            stream = await _connect(side, pair, target, address, opener, verifying, watch)
        except StreamRefused as failure:
            refused = failure
        else:
            watch.step("auth")
            watch.stop()
            return stream
    raise refused


def _places(targets: tuple[Target, ...]) -> Iterator[tuple[Target, str]]:
    places = [(target, address) for target in targets for address in target.addresses]
    return iter(places[:ADDRESSES])


async def _connect(
    side: SendingSide, pair: Pair, target: Target, address: str, opener: Opener, verifying: bool, watch: Stopwatch,
) -> OutgoingStream:
    stream = OutgoingStream(side, pair, target, side.engine(pair, target, verifying), opener, watch)
    try:
        await opener.dial(address, target.port, stream.connection)
    except DialFailed as failure:
        raise StreamRefused(failure.ending, failure.address) from None
    watch.step("tcp")
    return await stream.ready


