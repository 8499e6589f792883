"""Dialback's last part: asking the authoritative server of a domain whether a key is its own (XEP-0220 §2.2)."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from s2sgw.delivery.outbound_stream import StreamUnavailable, StreamUser
from s2sgw.s2s.connecting import ConnectServices, InitiatedStream, open_stream
from s2sgw.s2s.legs import InitiatingLeg
from s2sgw.stream.events import DialbackNeeded, DialbackOutcome, Event, Verified
from s2sgw.xmpp.ending import Cause, Ending

#: Seconds that one verification may take, finding the server included.
PATIENCE = 20.0


class Verification(StreamUser):
    """The user of one verifying stream: waits for the one answer."""

    busy, alone = True, False

    def __init__(self, stream: InitiatedStream, question: DialbackNeeded) -> None:
        self.outcome: Deferred[DialbackOutcome] = Deferred(lambda _: stream.connection.close(Ending(Cause.CLOSED)))
        self._stream = stream
        self._part = stream.part
        self._question = question

    def ask(self) -> Deferred[DialbackOutcome]:
        """Send the question; never on the connection that the key came by (R28)."""
        question = self._question
        self._part.user = self
        self._stream.connection.step(self._stream.engine.verify, question.pair, question.stream_id, question.key)
        return self.outcome

    def stream_event(self, event: Event) -> None:
        """The answer, if it is ours."""
        if isinstance(event, Verified) and not self.outcome.called:
            self.outcome.callback(event.outcome)
            self._part.leave(Ending(Cause.CLOSED))

    def stream_lost(self, ending: Ending) -> None:
        """No answer will come."""
        if not self.outcome.called:
            self.outcome.callback(DialbackOutcome("error", Ending(Cause.DIALBACK_ERROR, ending.detail, by=ending.by)))

    def stream_slow(self) -> None:
        """One question fits every buffer."""

    def stream_free(self) -> None:
        """Nothing waits."""


class DialbackVerifier:
    """Verifies dialback keys over streams of `side`, each on a stream of its own and within `PATIENCE`."""

    def __init__(self, side: InitiatingLeg, connect_services: ConnectServices, clock: IReactorTime) -> None:
        self._side = side
        self._connect_services = connect_services
        self._clock = clock

    async def verify(self, question: DialbackNeeded) -> DialbackOutcome:
        """Valid or invalid as the authoritative server says; "error" where it could not be asked."""
        asking = Deferred.fromCoroutine(self._ask(question))
        asking.addTimeout(PATIENCE, self._clock, lambda _, seconds: _late(seconds))
        return await asking

    async def _ask(self, question: DialbackNeeded) -> DialbackOutcome:
        try:
            stream = await open_stream(self._side, question.pair.inverse, self._connect_services, verifying=True)
        except StreamUnavailable as refused:
            return DialbackOutcome("error", refused.ending)
        return await Verification(stream, question).ask()


def _late(seconds: float) -> DialbackOutcome:
    return DialbackOutcome("error", Ending(Cause.DIALBACK_ERROR, f"the authoritative server did not answer in {seconds:.0f} s"))
