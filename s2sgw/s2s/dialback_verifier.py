"""The last part of dialback: ask the authoritative server of a domain whether a key is its own (XEP-0220 §2.2).

A stranger names the server that we connect to. So verifications for strangers share slots by their addresses, have a rate limit,
and try few addresses. No stranger can use the gateway to scan a network, or take the connections that it needs itself.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from s2sgw.delivery.outbound_stream import StreamUnavailable, StreamUser
from s2sgw.net.fair_slots import Reason, SlotLost
from s2sgw.net.requester import Requester
from s2sgw.net.requester_slots import RequesterSlots
from s2sgw.s2s.connecting import ConnectServices, InitiatedStream, open_stream
from s2sgw.s2s.legs import InitiatingLeg
from s2sgw.stream.events import DialbackNeeded, DialbackOutcome, Event, Verified
from s2sgw.xmpp.ending import Cause, Ending

#: Seconds that one verification may take, finding the server included.
VERIFICATION_SECONDS = 20.0
#: Verifications at once, half of them for strangers; verifications a second for strangers at one address.
VERIFICATIONS = 64
VERIFICATIONS_PER_SECOND = 5.0


class Verification(StreamUser):
    """The user of one verifying stream, which waits for the one answer."""

    busy, alone = True, False

    def __init__(self, stream: InitiatedStream, question: DialbackNeeded) -> None:
        self.outcome: Deferred[DialbackOutcome] = Deferred(self._cancelled)
        self._stream = stream
        self._part = stream.part
        self._question = question

    def _cancelled(self, _: object) -> None:
        self._stream.connection.close(Ending(Cause.CLOSED))

    def ask(self) -> Deferred[DialbackOutcome]:
        """Send the question and return the answer. The stream is never the one that the key came by (R28)."""
        question = self._question
        self._part.user = self
        self._stream.connection.step(self._stream.engine.verify, question.pair, question.stream_id, question.key)
        return self.outcome

    def stream_event(self, event: Event) -> None:
        """Take the answer, if it is ours."""
        if isinstance(event, Verified) and not self.outcome.called:
            self.outcome.callback(event.outcome)
            self._part.leave(Ending(Cause.CLOSED))

    def stream_lost(self, ending: Ending) -> None:
        """Report that no answer will come."""
        if not self.outcome.called:
            self.outcome.callback(DialbackOutcome("error", Ending(Cause.DIALBACK_ERROR, ending.detail, by=ending.by)))

    def stream_slow(self) -> None:
        """Do nothing: one question fits every buffer."""

    def stream_free(self) -> None:
        """Do nothing: nothing waits."""


class DialbackVerifier:
    """Verifies dialback keys over streams of `side`, each on a stream of its own, `verifications` at once."""

    def __init__(
        self, side: InitiatingLeg, connect_services: ConnectServices, clock: IReactorTime, verifications: int = VERIFICATIONS,
    ) -> None:
        self._side = side
        self._connect_services = connect_services
        self._clock = clock
        #: the verifications under way and in line
        self.slots: RequesterSlots[DialbackOutcome] = RequesterSlots(clock, verifications, VERIFICATIONS_PER_SECOND)

    async def verify(self, question: DialbackNeeded, requester: Requester | None = None) -> DialbackOutcome:
        """Return valid or invalid, as the authoritative server answers; "error" if it could not be asked.

        `requester` is the party whose claim is verified; None: one of our own servers.
        """
        if requester is None:
            asking = Deferred.fromCoroutine(self._ask(question, None))
        else:
            asking = self.slots.run(requester, self._ask, question, requester)
        asking.addTimeout(VERIFICATION_SECONDS, self._clock, _late)
        try:
            return await asking
        except SlotLost as lost:
            return DialbackOutcome("error", Ending(Cause.TOO_MANY_CLAIMS, _WHY[lost.reason]))
        finally:
            if requester is not None:
                requester.renew_dials()

    async def _ask(self, question: DialbackNeeded, requester: Requester | None) -> DialbackOutcome:
        pair = question.pair.inverse
        try:
            stream = await open_stream(self._side, pair, self._connect_services, verifying=True, requester=requester)
        except StreamUnavailable as refused:
            return DialbackOutcome("error", refused.ending)
        return await Verification(stream, question).ask()


#: Why a verification got no slot, or lost it.
_WHY: dict[Reason, str] = {
    "displaced": "too many dialback keys are being verified, and this one took longest",
    "line-full": "too many dialback keys are being verified",
    "rate": "too many dialback keys came from the address in a short time",
}


def _late(_: object, seconds: float) -> DialbackOutcome:
    return DialbackOutcome("error", Ending(Cause.DIALBACK_ERROR, f"the authoritative server did not answer in {seconds:.0f} s"))
