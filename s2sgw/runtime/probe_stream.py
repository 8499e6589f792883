"""The stream of a probe: the owner of its connection, with the time of each step."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from s2sgw.net.connection import ConnectionOptions, StreamConnection
from s2sgw.net.dialing import ClosedAtOnce, Dialler
from s2sgw.net.discovery import Target
from s2sgw.s2s.legs import InitiatingLeg
from s2sgw.stream.events import (
    Acknowledged,
    Event,
    JudgementNeeded,
    PairProven,
    PairRefused,
    StanzasReceived,
    VerifyReady,
)
from s2sgw.stream.management import REQUEST
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Pair

#: Seconds for the negotiation of one stream, for one address to connect, and for the answer to a ping.
NEGOTIATION_SECONDS = 20.0
CONNECT_SECONDS = 8.0
PING_SECONDS = 8.0


class ProbeStream:
    """A stream of `side` to `target` for `pair`. `verifying`: the stream is negotiated, without authentication.

    `ready` fires with None when stanzas may be sent, or when a `verifying` stream is negotiated. If the stream ends earlier, it
    fires with the ending.
    """

    def __init__(
        self, side: InitiatingLeg, pair: Pair, target: Target, clock: IReactorTime, verifying: bool = False,
    ) -> None:
        self.engine = side.engine(pair, target, verifying)
        self.ready: Deferred[Ending | None] = Deferred()
        #: the method that authenticated us
        self.method: str | None = None
        self.ending: Ending | None = None
        #: the seconds at which the transport was open, TLS established, the verdict made, and the negotiation over
        self.times: dict[str, float] = {"begun": clock.seconds()}
        self.reasons: tuple[str, ...] = ()
        self._side = side
        self._pair = pair
        self._target = target
        self._clock = clock
        self._question: Deferred[Any] | None = None
        self._answer: Deferred[str] | None = None
        self._ping = ""
        self.connection = StreamConnection(
            self.engine, self, clock=clock, role="initiating", tls=lambda _: side.tls(pair, target),
            direct_tls=target.direct_tls, options=ConnectionOptions(negotiation_timeout=NEGOTIATION_SECONDS),
        )
        self.secured: Any = None

    def took(self, since: str, until: str) -> float:
        """Return the seconds between two of `times`. 0: one of them is not known."""
        return max(0.0, self.times.get(until, 0.0) - self.times[since]) if since in self.times else 0.0

    async def connect(self, dialler: Dialler, address: str) -> None:
        """Connect to one address of the target. Raises `DialFailed`, or `TimeoutError` of Twisted."""
        await dialler(address, self._target.port, lambda: self.connection).addTimeout(CONNECT_SECONDS, self._clock)

    def ping(self, text: str, ident: str) -> Deferred[str]:
        """Send the stanza `text` with the id `ident`. Fires with "answered" or "acknowledged", or "" if nothing comes in time."""
        self._ping = ident
        answer: Deferred[str] = Deferred()
        self._answer = answer
        self.connection.write(text.encode())
        if self.engine.managed:
            self.engine.sent(1)
            self.connection.write(REQUEST)
        return answer.addTimeout(PING_SECONDS, self._clock, lambda _result, _seconds: "")

    def close(self) -> Deferred[None]:
        """Close the stream gracefully. Fires when the transport is gone."""
        self.connection.close(Ending(Cause.CLOSED))
        return self.connection.when_closed()

    # --- ConnectionOwner ---

    def connected(self, connection: StreamConnection) -> None:
        """Begin the negotiation."""
        self._mark("tcp")
        connection.step(self.engine.begin)

    def event(self, connection: StreamConnection, event: Event) -> None:
        """Handle one event of the engine."""
        match event:
            case JudgementNeeded():
                self._mark("tls")
                self.secured = connection.secured
                self._question = Deferred.fromCoroutine(self._judge(event))
                self._question.addErrback(self._unanswered)
            case PairProven(_, "bidi"):
                pass
            case PairProven(_, method):
                self.method = method
                self._done(None)
            case VerifyReady():
                self._done(None)
            case PairRefused(_, ending):
                self._done(ending)
            case StanzasReceived(_, stanzas):
                if any(stanza.id == self._ping and stanza.kind == "iq" for stanza in stanzas):
                    self._answered("answered")
            case Acknowledged():
                self._answered("acknowledged")

    def paused(self, connection: StreamConnection) -> None:
        """Do nothing: little is sent."""

    def resumed(self, connection: StreamConnection) -> None:
        """Do nothing: little is sent."""

    def ended(self, connection: StreamConnection, ending: Ending) -> None:
        """Take the ending of the stream."""
        self.ending = ending
        if self._question is not None:
            self._question.cancel()
        self._done(ending)
        self._answered("")

    # --- within ---

    async def _judge(self, question: JudgementNeeded) -> None:
        permission, self.reasons = await self._side.judge(self.connection, question, self._target)
        self._mark("judged")
        if self.ending is None:
            self.connection.step(self.engine.judged, permission)

    def _unanswered(self, failure: Failure) -> None:
        if self.ending is None:
            self.connection.close(Ending(Cause.INTERNAL, failure.getErrorMessage()))

    def _mark(self, name: str) -> None:
        self.times.setdefault(name, self._clock.seconds())

    def _done(self, ending: Ending | None) -> None:
        self._mark("done")
        if not self.ready.called:
            self.ready.callback(ending)

    def _answered(self, how: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.called:
            answer.callback(how)


async def knock(dialler: Dialler, address: str, port: int, clock: IReactorTime) -> None:
    """Connect to an address and close again. Raises `DialFailed`, or Twisted's `TimeoutError`."""
    await dialler(address, port, ClosedAtOnce).addTimeout(CONNECT_SECONDS, clock)
