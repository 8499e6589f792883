"""The courier of a lane: opens the stream to the next hop when something waits, keeps it, and tries again after a while.

Its life is four states (idle, connecting, ready, backing off); what it does with the stanzas of a failed attempt is one
visible word: a final cause bounces them, any other lets them wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.delivery.acknowledgements import LARGE, Acknowledgements, StreamManagementAcks, TcpAcks
from s2sgw.delivery.agent_states import build
from s2sgw.delivery.next_hop import NextHopStatus
from s2sgw.delivery.outbound_stream import BIDI_RESUME_SECONDS, OutboundStream, ResumableStream, StreamProvider, StreamUnavailable
from s2sgw.delivery.poison import PoisonDetector
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.queue.backoff import BackOff
from s2sgw.reporting.record import EventRecord
from s2sgw.stream.events import Acknowledged, Event, ManagementEnabled, ManagementRefused, Resumed
from s2sgw.xmpp.ending import Cause, Ending

#: Seconds after which a stream counts as having worked: its loss is no failure.
STEADY = 10.0
#: Seconds until the next try, and a random part of as many more, where a stanza is to be found on which the next server closes
#: its stream; so often in a row, for a server may close on every one.
ISOLATING = 0.5
ISOLATIONS = 20


class DeliveryAgent:
    """A `NextHop` (see `delivery.next_hop`) over the streams that are to be had by `way`."""

    log = Logger()

    def __init__(
        self, queue: DeliveryQueue, way: StreamProvider, record: EventRecord, back_off: BackOff, random: Callable[[], float],
        clock: IReactorTime,
        receipts_of: Callable[[DeliveryAgent, OutboundStream], Acknowledgements] = lambda agent, stream: TcpAcks(),
    ) -> None:
        self.queue = queue
        self.way = way
        self.failures = 0
        self.stream: OutboundStream | None = None
        self.last_ending: Ending | None = None
        self.retry: IDelayedCall | None = None
        self._attempt: Deferred[Any] | None = None
        self._closed: Deferred[None] = succeed(None)
        self._record = record
        self._back_off = back_off
        self._random = random
        self._clock = clock
        self._receipts_of = receipts_of
        self.acknowledgements: Acknowledgements = TcpAcks()
        #: a stream of ours that broke off, with which the next one may go on, until the timer is due
        self.broken: ResumableStream | None = None
        self._patience: IDelayedCall | None = None
        #: something was acknowledged on the stream: it worked, however short its life
        self._heeded = False
        #: acknowledgements (XEP-0198) are to be had as soon as nothing is in flight
        self._promised = False
        self.since = 0.0
        self.poison_detector = PoisonDetector()
        self._isolations = 0
        self._life = build(self)

    # --- Hop ---

    @property
    def state(self) -> str:
        """idle, connecting, ready, broken (the stream may still be resumed) or backing off."""
        if self.stream is not None:
            return "ready"
        if self._attempt is not None:
            return "connecting"
        if self.retry is not None:
            return "backing off"
        return "broken" if self.queue.pair_queue.flying or self.broken is not None else "idle"

    @property
    def ready(self) -> bool:
        return self.stream is not None and self.stream.writable

    @property
    def slow(self) -> bool:
        return self.stream is not None and not self.stream.writable

    @property
    def last_cause(self) -> Cause:
        return Cause.HELD_TOO_LONG if self.last_ending is None else self.last_ending.cause

    @property
    def acknowledges(self) -> bool:
        return self.acknowledgements.acknowledges

    @property
    def acks_arrive_elsewhere(self) -> bool:
        return self.acknowledgements.arrive_elsewhere

    def status(self) -> NextHopStatus:
        retry_at = self.retry.getTime() if self.retry is not None and self.retry.active() else None
        facts = None if self.stream is None else self.stream.facts()
        cause = None if self.last_ending is None else self.last_ending.cause
        return NextHopStatus(self.state, cause, retry_at, facts, self.since)

    def send(self, data: Sequence[bytes]) -> None:
        assert self.stream is not None
        if self._promised and self.queue.pair_queue.flying == len(data):  # nothing is in flight but these
            self._take_receipts(self.stream)
        ahead, behind = self.acknowledgements.ahead(data), self.acknowledgements.behind(len(data))
        self.stream.write([each for each in (ahead, *data, behind) if each] if ahead or behind else data)

    def relieve_pressure(self) -> None:
        self.acknowledgements.crowded()

    def request_delivery(self) -> None:
        self._life.request_delivery()

    def retry_now(self, urged: bool = False) -> None:
        if urged:
            self.way.urge(self.queue.pair.recipient)
        self._life.retry_now()

    def release_stream(self) -> None:
        """Ours alone to close, and only where neither side has anything under way on it."""
        stream = self.stream
        if stream is not None and stream.ours and not stream.carries_back and stream.sole and not self.busy:
            stream.close(Ending(Cause.IDLE))

    def stop(self, cause: Cause) -> Deferred[None]:
        self._life.stop(cause)
        return self._closed

    # --- Listener ---

    @property
    def largest_in_flight(self) -> int:
        return self.queue.pair_queue.largest_flying

    @property
    def busy(self) -> bool:
        return self.queue.pair_queue.flying > 0

    @property
    def alone(self) -> bool:
        return self.queue.suspects > 0

    def stream_event(self, event: Event) -> None:
        """What the other side has (XEP-0198), or that it will not say so."""
        if isinstance(event, Acknowledged):
            self._heeded = True
            self.queue.acknowledged(self.acknowledgements.acknowledged(event.count))
        elif isinstance(event, ManagementEnabled) and self.queue.pair_queue.flying:
            self._promised = True
        elif isinstance(event, ManagementRefused | ManagementEnabled):
            self._change_receipts()

    def _change_receipts(self) -> None:
        """What is written, and was written already, is asked about in another way."""
        assert self.stream is not None
        self._take_receipts(self.stream)
        written = self.queue.pair_queue.flying
        if not self.acknowledgements.acknowledges:
            self.queue.acknowledged(written)
        elif written:
            self.stream.write([self.acknowledgements.behind(written)])

    def _take_receipts(self, stream: OutboundStream) -> None:
        """The best that are to be had now."""
        self._promised = False
        self.acknowledgements.stop()
        self.acknowledgements = self._receipts_of(self, stream)

    def stream_lost(self, ending: Ending) -> None:
        self._life.lost(ending)

    def holds(self, number: int) -> bool:
        return self.acknowledgements.whole and self.queue.pair_queue.flying == number

    def again(self) -> list[bytes]:
        now = self._clock.seconds()
        return [self.queue.spelled(held, now) for held in self.queue.pair_queue.rows(self.queue.pair_queue.in_flight)]

    def stream_suspended(self, ending: Ending) -> None:
        self._life.broke_off(ending)

    def stream_resumed(self, stream: OutboundStream) -> None:
        self._life.opened(stream)

    def stream_slow(self) -> None:
        """The flow asks `slow` when the next stanzas come."""

    def stream_free(self) -> None:
        self.queue.drain()

    # --- what the life does ---

    def open(self) -> None:
        """Begin an attempt."""
        if self.retry is not None and self.retry.active():
            self.retry.cancel()
        self.retry = None
        self._attempt = Deferred.fromCoroutine(_awaited(self.way.find(self.queue.pair, self.broken, self.alone)))
        self._attempt.addCallbacks(self._life.opened, self._failed).addErrback(self._not_handled)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if isinstance(failure.value, StreamUnavailable):
            self._life.refused(failure.value)
        else:
            self.log.failure("an attempt to open a stream broke", failure)
            self._life.refused(StreamUnavailable(Ending(Cause.INTERNAL)))

    def _not_handled(self, failure: Failure) -> None:
        self.log.failure("the outcome of an attempt could not be handled", failure)

    def take_up(self, stream: OutboundStream) -> None:
        """The stream is ready: everything that waits goes out, behind what is sent again."""
        self._attempt = None
        again = self._settle(stream)
        self._heeded = False
        self.stream = stream
        self.since = self._clock.seconds()
        self._take_receipts(stream)
        stream.user = self
        if isinstance(self.acknowledgements, StreamManagementAcks) and self.queue.pair_queue.flying:
            stream.write([*again, self.acknowledgements.again(self.queue.pair_queue.flying)])
        self.queue.fit(stream.limits)
        facts = stream.facts()
        self._record.standing(
            "stream ready", self.queue.direction, self.way.leg, self.queue.pair, method=facts.method, address=facts.address,
            tls=facts.tls or "none", detail="; ".join(facts.reasons),
        )
        self.queue.drain()

    def _settle(self, stream: OutboundStream) -> list[bytes]:
        """What became of the stream that broke off, as this one shows; what is to be sent again of what was sent there."""
        if self.broken is None:
            return []
        outcome = stream.outcome
        if outcome is not None:
            self.queue.acknowledged(outcome.count)
        if not isinstance(outcome, Resumed):
            self._give_up("refused")
            return []
        self._forget("resumed")
        self._record.standing(
            "stream resumed", self.queue.direction, self.way.leg, self.queue.pair, address=stream.facts().address,
        )
        return self.again()

    def _give_up(self, outcome: Literal["refused", "expired"]) -> None:
        """The stream that broke off stays so: what was in flight on it is in doubt."""
        broken = self._forget(outcome)
        if broken is not None:
            broken.forget()
            self.queue.lost()

    def _forget(self, outcome: Literal["resumed", "refused", "expired"]) -> ResumableStream | None:
        broken, self.broken = self.broken, None
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._patience = None
        if broken is not None:
            self._record.resumption("initiating", outcome)
        return broken

    def _patience_over(self) -> None:
        """An attempt that is under way still has its chance."""
        self._patience = None
        if self._attempt is None:
            self._give_up("expired")

    def suffer(self, refusal: StreamUnavailable) -> None:
        """The attempt failed: a final cause bounces what waits, any other waits with it."""
        self._attempt = None
        if refusal.ending.final or self._patience is None:
            self._give_up("expired")
        self.last_ending = refusal.ending
        self.failures += 1
        pair = self.queue.pair
        names = pair if self.queue.direction == "inbound" else pair.inverse
        if not refusal.repeated:
            self._record.refused(
                self.queue.direction, self.way.leg, (str(names.sender), str(names.recipient)), refusal.address, refusal.ending,
                refusal.reasons,
            )
        own = self._back_off.delay(self.failures, self._random)
        self._retry_after(own if refusal.retry is None else refusal.retry)
        if refusal.ending.final:
            self.queue.give_up(refusal.ending.cause)
        self.queue.relieve()

    def _retry_after(self, delay: float) -> None:
        self.retry = self._clock.callLater(delay, self._life.due)

    def wait(self) -> None:
        """Something new came during the back-off: after a final cause it need not wait."""
        if self.last_ending is not None and self.last_ending.final:
            self.queue.give_up(self.last_ending.cause)

    def look_again(self) -> None:
        """The back-off is over: try again if something waits."""
        self.retry = None
        asked = self.broken is not None and self.broken.carries_back
        if self.queue.pair_queue.pending or self.queue.pair_queue.flying or asked:
            self._life.request_delivery()

    def hold_on(self, ending: Ending) -> None:
        """What is in flight waits for the other side to come back (XEP-0198 §5); who lent the stream sees that this ends."""
        self.stream = None
        self.acknowledgements.stop()
        self.last_ending = ending

    def _keep(self, broken: ResumableStream | None) -> bool:
        """Whether the stream is to be resumed. With nothing in doubt here, but perhaps there, that is tried for a short time."""
        if broken is None:
            return False
        if not self.holds(broken.unacknowledged):
            broken.forget()
            return False
        self.broken = broken
        seconds = broken.seconds
        if broken.carries_back and not self.queue.pair_queue.flying:
            seconds = min(seconds, BIDI_RESUME_SECONDS)
        self._patience = self._clock.callLater(seconds, self._patience_over)
        return True

    def let_go(self, ending: Ending) -> None:
        """The stream is gone; what waits asks for another, at once unless this one was short-lived."""
        stream, self.stream = self.stream, None
        self.acknowledgements.stop()
        self.last_ending = None if ending.in_order else ending
        lived = self._clock.seconds() - self.since
        broken = None if stream is None else stream.resumable
        young = lived < STEADY and broken is None
        accused = self._accused(stream, ending, young)
        if accused and broken is not None:
            broken.forget()
        kept = self._keep(None if accused else broken)
        worked = lived >= STEADY or (kept and self._heeded) or ending.cause is Cause.IDLE
        self._record.standing(
            "stream closed", self.queue.direction, self.way.leg, self.queue.pair, layer=ending.layer.value,
            cause=ending.cause.value, detail=ending.detail,
        )
        self._retry_after(self._rest(worked, isolating=bool(accused or self.queue.suspects)))
        if not kept:
            self.acknowledgements = TcpAcks()  # those of a stream lead to it, which is to leave memory
            self.queue.lost(accused, ambiguous=not self.poison_detector.certain)
        self.queue.relieve()

    def _accused(self, stream: OutboundStream | None, ending: Ending, young: bool) -> str:
        """Over what of ours it ended (`delivery.poison`). On a connection that carries everybody's it may be anybody's:
        nothing.
        """
        if stream is not None and stream.shared_connection:
            return ""
        asking, ambiguous = (False, False) if stream is None else (stream.asking, stream.ambiguous)
        large = self.largest_in_flight > LARGE
        return self.poison_detector.accuses(ending, self.queue.pair_queue.doubtful, young, asking, ambiguous, large)

    def _rest(self, worked: bool, isolating: bool) -> float:
        """Seconds until the next attempt behind a stream. What a stanza has done, or is under suspicion of, is no failure."""
        if worked:
            self.failures = self._isolations = 0
            return 0
        if isolating and self._isolations < ISOLATIONS:
            self._isolations += 1
            return ISOLATING * (1 + self._random())
        self.failures += 1
        return self._back_off.delay(self.failures, self._random)

    def finish(self, cause: Cause) -> None:
        """Close what is open, cancel what is under way, bounce what waits."""
        if self.retry is not None and self.retry.active():
            self.retry.cancel()
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        if self.stream is not None:
            self._closed = self.stream.leave(Ending(cause))
            self.acknowledgements.stop()
        self.retry = self._attempt = self.stream = self.broken = self._patience = None


async def _awaited(stream: Awaitable[OutboundStream]) -> OutboundStream:
    return await stream
