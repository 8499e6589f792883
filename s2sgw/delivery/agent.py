"""The delivery agent of a queue: it opens a stream to the next server when stanzas wait, and uses it.

After a failure it tries again later.

The data of a state (the attempt, the stream, the timer) belongs to that state (`agent_states`). Four collaborators outlast a
stream: the schedule of attempts, the stream to be resumed, the detector of poison, and the choice of acknowledgements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.delivery.acknowledgements import LARGE, Acknowledgements, TcpAcks
from s2sgw.delivery.agent_states import AgentState, BackingOff, Connecting, Delivering, Idle, Stopped, Suspended, build
from s2sgw.delivery.next_hop import NextHopStatus
from s2sgw.delivery.outbound_stream import OutboundStream, ResumableStream, StreamProvider, StreamUnavailable
from s2sgw.delivery.poison import PoisonDetector
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.resume_wait import ResumeWait
from s2sgw.delivery.retry import RetrySchedule
from s2sgw.queue.backoff import BackOff, Chance
from s2sgw.queue.evidence import WRITTEN
from s2sgw.reporting.record import EventRecord
from s2sgw.stream.events import Acknowledged, Event, ManagementEnabled, ManagementRefused, Resumed
from s2sgw.xmpp.ending import MISTAKES, Cause, Ending, Layer
from s2sgw.xmpp.timer import cancel

#: Seconds after which a stream has worked: its loss is no failure.
WORKED_SECONDS = 10.0
#: Endings for which the next server is not the reason: the loss of the stream is no failure.
UNRELATED = (Cause.IDLE, Cause.RECONFIGURED)


class AckChoice(Protocol):
    """Chooses the acknowledgements of a stream (`delivery.ack_selection`)."""

    def choose(self, queue: DeliveryQueue, stream: OutboundStream, stalled_before: bool) -> Acknowledgements:
        """Return the acknowledgements for one stream that is ready. `stalled_before`: the last one ended by a stall."""


class DeliveryAgent:
    """A `NextHop` (see `delivery.next_hop`) over the streams of `provider`."""

    __slots__ = (
        "_ack_selection", "_clock", "_machine", "_record", "data", "final_cause", "last_ending", "poison_detector", "provider",
        "queue", "resume_wait", "retry",
    )
    log = Logger()

    def __init__(
        self, queue: DeliveryQueue, provider: StreamProvider, record: EventRecord, back_off: BackOff,
        random: Chance, clock: IReactorTime, ack_selection: AckChoice | None = None,
    ) -> None:
        self.queue = queue
        self.provider = provider
        self.data: AgentState = Idle()
        self.last_ending: Ending | None = None
        #: The cause for which new stanzas are returned until the next attempt.
        self.final_cause: Cause | None = None
        self.retry = RetrySchedule(back_off, random)
        self.resume_wait = ResumeWait(clock, record, self._resume_wait_over)
        self.poison_detector = PoisonDetector()
        self._record = record
        self._clock = clock
        self._ack_selection = ack_selection
        self._machine = build(self)

    # --- NextHop ---

    def dispose(self) -> None:
        del self.queue, self.resume_wait, self._machine

    @property
    def state(self) -> str:
        data = self.data
        if isinstance(data, Idle) and (self.queue.pair_queue.in_flight or self.resume_wait.stream is not None):
            return Suspended.word
        return data.word

    @property
    def stream(self) -> OutboundStream | None:
        """Return the open stream, if there is one."""
        return self.data.stream if isinstance(self.data, Delivering) else None

    @property
    def ready(self) -> bool:
        data = self.data
        return type(data) is Delivering and data.stream.writable

    @property
    def slow(self) -> bool:
        data = self.data
        return type(data) is Delivering and not data.stream.writable

    @property
    def last_cause(self) -> Cause:
        ending = self.last_ending
        if ending is None or ending.in_order or ending.cause in MISTAKES:
            return Cause.HELD_TOO_LONG  # the texts of mistakes are about the next server, not for the sender of a stanza
        return ending.cause

    @property
    def acknowledges(self) -> bool:
        data = self.data
        return type(data) is Delivering and data.acknowledgements.acknowledges

    @property
    def acks_arrive_elsewhere(self) -> bool:
        data = self.data
        return type(data) is Delivering and data.acknowledgements.arrive_elsewhere

    def status(self) -> NextHopStatus:
        data = self.data
        cause = None if self.last_ending is None else self.last_ending.cause
        retry_at = data.timer.getTime() if isinstance(data, BackingOff) and data.timer.active() else None
        if isinstance(data, Delivering):
            return NextHopStatus(self.state, cause, retry_at, data.stream.facts(), data.since)
        return NextHopStatus(self.state, cause, retry_at)

    def send(self, data: Sequence[bytes]) -> bool:
        ready = self.data
        assert type(ready) is Delivering
        if ready.promised and self.queue.pair_queue.in_flight_count == len(data):  # nothing else is in flight
            self._take_acks(ready)
        slow = ready.stream.write(ready.acknowledgements.batch(data))
        return slow and self.data is ready  # the write may have ended the stream

    @property
    def _ready(self) -> Delivering:
        data = self.data
        assert type(data) is Delivering
        return data

    def relieve_pressure(self) -> None:
        if isinstance(self.data, Delivering):
            self.data.acknowledgements.on_pressure()

    def request_delivery(self) -> None:
        self._machine.request_delivery()

    def withdraw_request(self) -> None:
        """End an attempt that is under way, unless a lost stream may be resumed on it: the other side may have stanzas too."""
        if self.resume_wait.stream is None:
            if isinstance(self.data, Connecting) and self.last_cause is Cause.HELD_TOO_LONG and self.provider.leg == "federation":
                ending = Ending(Cause.HELD_TOO_LONG, "no stream was opened in the time that the last stanza could wait")
                self._record_refusal(StreamUnavailable(ending))
            self._machine.withdraw()

    def retry_now(self, urged: bool = False) -> None:
        if urged:
            self.provider.urge(self.queue.pair.recipient)
        self._machine.retry_now()

    def release_stream(self) -> None:
        """Close the stream if it is ours, nothing is under way on it, and it has no other user."""
        if isinstance(self.data, Delivering) and not self.busy:
            stream = self.data.stream
            if stream.ours and not stream.carries_back and stream.sole:
                stream.close(Ending(Cause.IDLE))

    def stop(self, cause: Cause) -> Deferred[None]:
        self._machine.stop(cause)
        return self.data.closed if isinstance(self.data, Stopped) else succeed(None)

    def abandon(self) -> None:
        self._machine.abandon()

    # --- StreamUser ---

    @property
    def largest_in_flight(self) -> int:
        return self.queue.pair_queue.largest_in_flight

    @property
    def busy(self) -> bool:
        return self.queue.pair_queue.in_flight_count > 0

    @property
    def alone(self) -> bool:
        return self.queue.suspects > 0

    def stream_event(self, event: Event) -> None:
        """Take an acknowledgement of the other side (XEP-0198), or its refusal to acknowledge."""
        ready = self.data
        assert type(ready) is Delivering
        if isinstance(event, Acknowledged):
            ready.acked = True
            self.queue.acknowledged(ready.acknowledgements.acknowledged(event.count))
        elif isinstance(event, ManagementEnabled) and self.queue.pair_queue.in_flight:
            ready.promised = True
        elif isinstance(event, ManagementRefused | ManagementEnabled):
            self._change_acks(ready)

    def _change_acks(self, ready: Delivering) -> None:
        """Change the way in which stanzas are acknowledged, also for those already written."""
        self._take_acks(ready)
        written = self.queue.pair_queue.in_flight_count
        if not ready.acknowledgements.acknowledges:
            self.queue.acknowledged(written, WRITTEN)
        elif written:
            ready.stream.write([ready.acknowledgements.after_batch(written)])

    def _take_acks(self, ready: Delivering) -> None:
        """Use the best acknowledgements that the stream has now."""
        ready.promised = False
        ready.acknowledgements.stop()
        if self._ack_selection is None:
            ready.acknowledgements = TcpAcks()
        else:
            ready.acknowledgements = self._ack_selection.choose(self.queue, ready.stream, self.poison_detector.stalled)

    def stream_lost(self, ending: Ending) -> None:
        self._machine.lost(ending)

    def holds(self, number: int) -> bool:
        data = self.data
        if not isinstance(data, Delivering | Suspended):
            return False
        return data.acknowledgements.whole and self.queue.pair_queue.in_flight_count == number

    def resend(self, acknowledged: int) -> list[bytes]:
        self.queue.settle_in_flight(acknowledged)
        now = self._clock.seconds()
        return [self.queue.spelled(held, now) for held in self.queue.pair_queue.rows(self.queue.pair_queue.in_flight)]

    def stream_suspended(self, ending: Ending) -> None:
        self._machine.suspended(ending)

    def stream_resumed(self, stream: OutboundStream) -> None:
        self._machine.connected(stream)

    def stream_slow(self) -> None:
        """Do nothing: the queue asks `slow` when the next stanzas come."""

    def stream_free(self) -> None:
        self.queue.next_hop_ready()

    # --- actions of the state machine (`AgentOutputs`) ---

    def begin_attempt(self) -> None:
        if isinstance(self.data, BackingOff):
            cancel(self.data.timer)
        self._find_stream()

    def _find_stream(self, _: None = None) -> None:
        """Find a stream, or wait until there may be a place for it, and look again."""
        try:
            place = self.provider.place(self.queue.pair)
        except Exception:
            self._attempt_over(Failure())
            return
        if place is not None:
            self.data = Connecting(place)
            place.addCallbacks(self._find_stream, self._attempt_over).addErrback(self._not_handled)
            return
        attempt = Deferred.fromCoroutine(self.provider.find(self.queue.pair, self.resume_wait.stream, self.alone))
        self.data = Connecting(attempt)
        attempt.addCallbacks(self._machine.connected, self._attempt_over).addErrback(self._not_handled)

    def end_attempt(self) -> None:
        """End the attempt. Thousands may wait for their places with nothing left to deliver."""
        data, self.data = self.data, Idle()
        assert isinstance(data, Connecting)
        data.attempt.cancel()

    def _attempt_over(self, failure: Failure) -> None:
        if isinstance(failure.value, CancelledError):
            return
        if isinstance(failure.value, StreamUnavailable):
            self._machine.failed(failure.value)
        else:
            self.log.failure("an attempt to open a stream failed", failure)
            self._machine.failed(StreamUnavailable(Ending(Cause.INTERNAL)))

    def _not_handled(self, failure: Failure) -> None:
        self.log.failure("the outcome of an attempt could not be handled", failure)

    def use_stream(self, stream: OutboundStream) -> None:
        """Use a stream that is ready. Send what must be sent again, then all waiting stanzas."""
        if isinstance(self.data, Suspended):
            cancel(self.data.timer)
        again = self._resume(stream)
        ready = self.data = Delivering(stream, TcpAcks(), self._clock.seconds())
        self._take_acks(ready)
        stream.user = self
        if in_flight := self.queue.pair_queue.in_flight_count:
            stream.write([*again, ready.acknowledgements.resumed(in_flight)])
        self.queue.limits_changed(stream.limits)
        facts = stream.facts()
        self._record.standing(
            "stream ready", self.queue.direction, self.provider.leg, self.queue.pair, method=facts.method,
            address=facts.address, tls=facts.tls or "none", detail="; ".join(facts.reasons),
        )
        self.queue.next_hop_ready()

    def _resume(self, stream: OutboundStream) -> list[bytes]:
        """Settle the lost stream that this stream was to resume. Return the stanzas that must be sent again."""
        if self.resume_wait.stream is None:
            return []
        outcome = stream.outcome
        if not isinstance(outcome, Resumed):
            self.queue.settle_in_flight(0 if outcome is None else outcome.count)
            self._give_up_resumption("refused")
            return []
        self.resume_wait.end("resumed")
        address = stream.facts().address
        self._record.standing("stream resumed", self.queue.direction, self.provider.leg, self.queue.pair, address=address)
        return self.resend(outcome.count)

    def _give_up_resumption(self, outcome: str) -> None:
        """Give up the lost stream. The stanzas that were in flight on it are in doubt."""
        broken = self.resume_wait.end("refused" if outcome == "refused" else "expired")
        if broken is not None:
            broken.forget()
            self.queue.stream_lost()

    def _resume_wait_over(self, final: bool) -> None:
        """End the wait for a resumption. An attempt under way may still resume, unless a stanza in flight has expired."""
        if not isinstance(self.data, Connecting):
            self._give_up_resumption("expired")
        elif final:
            self.data.attempt.cancel()
            self._give_up_resumption("expired")
            self.begin_attempt()

    def attempt_failed(self, refusal: StreamUnavailable) -> None:
        """Plan the next attempt. A final cause bounces the waiting stanzas. With any other cause they go on waiting."""
        delay = self.retry.after_attempt(refusal.retry)
        ending = self.last_ending = refusal.ending
        self.final_cause = ending.cause if ending.final else None
        self._back_off(delay)
        if self.final_cause is not None or self.resume_wait.over:
            self._give_up_resumption("expired")
        self._record_refusal(refusal)
        self.new_during_back_off()
        self.queue.relieve()

    def _record_refusal(self, refusal: StreamUnavailable) -> None:
        pair = self.queue.pair if self.queue.direction == "inbound" else self.queue.pair.inverse
        if not refusal.repeated:
            self._record.refused(
                self.queue.direction, self.provider.leg, (str(pair.sender), str(pair.recipient)), refusal.address,
                refusal.ending, refusal.reasons,
            )

    def _back_off(self, delay: float) -> None:
        self.data = BackingOff(self._clock.callLater(delay, self._machine.due))

    def new_during_back_off(self) -> None:
        """Bounce what waits if the last attempt had a final cause."""
        if self.final_cause is not None:
            self.queue.give_up(self.final_cause)

    def back_off_over(self) -> None:
        """Try again if stanzas wait, or if the other side may have stanzas for a lost stream."""
        self.data = Idle()
        broken = self.resume_wait.stream
        if self.queue.wants_stream or (broken is not None and broken.carries_back):
            self._machine.request_delivery()

    def await_resumption(self, ending: Ending) -> None:
        """Wait for the other side to resume, until the hold time of a stanza in flight is over."""
        ready = self._ready
        ready.acknowledgements.stop()
        self.last_ending = ending
        deadline, timer = self.queue.pair_queue.in_flight_deadline, None
        if deadline is not None:
            timer = self._clock.callLater(max(0.0, deadline - self._clock.seconds()), self._hold_time_over, ending)
        self.data = Suspended(ready.stream, ready.acknowledgements, ready.since, ready.acked, timer)

    def _hold_time_over(self, ending: Ending) -> None:
        if isinstance(self.data, Suspended):
            self.data.stream.leave(ending)
            self._machine.lost(ending)

    def stream_gone(self, ending: Ending) -> None:
        """Wait for the stream to be resumed, or treat the stanzas in flight as in doubt. Waiting stanzas need another stream.

        Only our policy is a final cause here. The stream had been proven, so what its server said is no answer for them.
        """
        data = self.data
        assert isinstance(data, Delivering | Suspended)
        if isinstance(data, Suspended):
            cancel(data.timer)
        data.acknowledgements.stop()
        self.last_ending = None if ending.in_order else ending
        self.final_cause = ending.cause if ending.final and ending.layer is Layer.POLICY and ending.by == "us" else None
        lived = self._clock.seconds() - data.since
        broken = data.stream.resumable if isinstance(data, Delivering) else None
        suspicion = self._suspicion(data.stream, ending, young=lived < WORKED_SECONDS and broken is None)
        awaited = self._await(broken, data.acknowledgements, suspicion)
        self._record.standing(
            "stream closed", self.queue.direction, self.provider.leg, self.queue.pair, layer=ending.layer.value,
            cause=ending.cause.value, detail=ending.detail,
        )
        self._back_off(self._seconds_to_next(data, ending, lived, suspicion, awaited))
        if not awaited:
            self.queue.stream_lost(suspicion, ambiguous=not self.poison_detector.certain)
        self.queue.relieve()

    def _seconds_to_next(
        self, data: Delivering | Suspended, ending: Ending, lived: float, suspicion: str, awaited: bool,
    ) -> float:
        """Return the seconds until the next attempt, after a stream that lasted `lived` seconds."""
        mute = ending.cause is Cause.UNRESPONSIVE
        silent = mute and not (data.stream.answers or data.acked)
        worked = (lived >= WORKED_SECONDS and not silent) or (awaited and data.acked) or ending.cause in UNRELATED
        return self.retry.after_stream(worked, isolating=bool(suspicion or (self.queue.suspects and not mute)))

    def _suspicion(self, stream: OutboundStream, ending: Ending, young: bool) -> str:
        """Return the word for the stanza of this queue that ended the stream (`delivery.poison`); "": none did."""
        if stream.shared_connection:
            return ""
        large = self.largest_in_flight > LARGE
        positions = self.queue.pair_queue.in_flight_positions
        return self.poison_detector.suspicion(ending, positions, young, stream.asking, stream.ambiguous, large)

    def _await(self, broken: ResumableStream | None, acks: Acknowledgements, suspicion: str) -> bool:
        """Return whether to wait for a resumption of the stream. If so, begin the wait."""
        if broken is None:
            return False
        pair_queue = self.queue.pair_queue
        if suspicion or not acks.whole or pair_queue.in_flight_count != broken.unacknowledged:
            broken.forget()
            return False
        self.resume_wait.begin(broken, self.busy, pair_queue.in_flight_deadline)
        return True

    def finish(self, cause: Cause) -> None:
        """Close the stream, and cancel the attempt under way."""
        data, closed = self.data, succeed(None)
        self.resume_wait.stop()
        if isinstance(data, BackingOff):
            cancel(data.timer)
        if isinstance(data, Suspended):
            cancel(data.timer)
            data.stream.leave(Ending(cause))  # it may be resumed yet, by the other side
        if isinstance(data, Connecting):
            data.attempt.cancel()
        if isinstance(data, Delivering):
            data.acknowledgements.stop()
            closed = data.stream.leave(Ending(cause))
        self.data = Stopped(closed)

    def cut_off(self) -> None:
        """End at once. The stream is left to the caller, and tells this agent nothing any more."""
        data = self.data
        self.resume_wait.stop()
        if isinstance(data, BackingOff | Suspended):
            cancel(data.timer)
        if isinstance(data, Connecting):
            data.attempt.cancel()
        if isinstance(data, Delivering | Suspended):
            data.acknowledgements.stop()
            data.stream.user = None
        self.data = Stopped(succeed(None))
