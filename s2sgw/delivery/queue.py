"""The delivery queue of one pair.

Its stanzas are passed on as the next hop takes them, and spooled if it does not take them in time.
An accepted stanza has exactly one owner until its receipt is settled. A receipt is settled by evidence only
(`queue.evidence`): the next hop acknowledged the stanza, the commit that holds it is done, its error is safe, or a rule drops it
(docs/decisions.md#custody).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import islice
from math import inf
from operator import attrgetter
from typing import Literal, NamedTuple, Protocol

from twisted.internet.defer import Deferred, succeed

from s2sgw.delivery.bounces import BounceAck, completed_by
from s2sgw.delivery.iq_replies import PingReplies
from s2sgw.delivery.next_hop import NextHop, NextHopLimits, NoNextHop, StanzaSource
from s2sgw.delivery.services import DeliveryServices
from s2sgw.delivery.spooling import RequestMarks, SpooledRange, SpoolOverflow
from s2sgw.queue.bounce import BOUNCED_AT_ONCE, may_bounce
from s2sgw.queue.delay_stamp import stamped
from s2sgw.queue.entries import NO_POSITIONS, QueuedStanza, QueueItem, UpstreamAck, by_position, settle
from s2sgw.queue.evidence import DROPPED, ON_DISK, PASSED_ON, WRITTEN, ReceiptEvidence, Rule
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.queue.presence import LatestPresence
from s2sgw.reporting.record import Direction, kind_of
from s2sgw.spool.interface import Spooled, SpoolError, SpoolFull
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.stanza import Stanza

_data_of = attrgetter("data")
#: Bytes that are given to a next hop, or read from the spool, at once.
CHUNK = 131072
#: Bytes of memory for a queue that waits for its next hop, besides its stanzas, as measured (`test_waiting_queues`). A stream to
#: a peer has a server of its own to wait for.
WAIT_BYTES: dict[Direction, int] = {"inbound": 4000, "outbound": 9000}
#: Seconds after which a waiting stanza gets a delay stamp (R39).
DELAYED_SECONDS = 2.0

#: Why nothing is written: the next hop takes nothing; this gateway may not write to the peer; an operator holds the queue; the
#: gateway stops; errors of this queue are on their way to senders that may send again; what waits is being bounced or dropped;
#: enough is unacknowledged; stanzas go one at a time until the poisonous one is known; older stanzas go first.
Blocked = Literal[
    "next-hop", "no-permission", "held", "stopping", "bounce-pending", "being-dropped", "enough-in-flight", "one-at-a-time",
    "older-first",
]


class RestoreTurn(Protocol):
    """The order in which a start delivers the queues that it finds in the spool."""

    def reconsider(self, queue: DeliveryQueue) -> None:
        """Check whether `queue` is done: its state has changed."""

    def start_now(self, queue: DeliveryQueue) -> None:
        """Let `queue` begin now: it is needed before its turn."""


class _Ending(NamedTuple):
    """The end of all that is not in flight, up to a position: a bounce with its cause, or (None) a drop as an operator asked."""

    up_to: int
    cause: Cause | None


class DeliveryQueue:
    """The queue of one pair. It is the only writer of its `pair_queue`.

    A peer may have thousands of queues in which one stanza waits. So a queue has no `__dict__`, and tables that are empty in such
    a queue are small.
    """

    __slots__ = (
        "__weakref__", "_appends", "_beyond_memory", "_causes", "_due", "_endings", "_inverse", "_limited", "_marks",
        "_out_of_order", "_passed", "_presence", "_services", "_slowed", "_spared", "_step_is_due", "_unreported",
        "_unreported_bytes", "direction", "forgotten", "held", "last_write", "limits", "next_hop", "one_chunk", "overflow",
        "pair_queue", "parked", "quiesced", "replies", "restore_turn", "spooled_range", "suspects",
    )

    def __init__(self, pair_queue: PairQueue, direction: Direction, services: DeliveryServices) -> None:
        self.pair_queue = pair_queue
        self.direction: Direction = direction
        self.next_hop: NextHop
        #: stanzas in doubt that are sent one at a time, until the poisonous one is known
        self.suspects = 0
        #: the stanzas that the next hop takes, as far as that is known
        self.limits = NextHopLimits()
        self._limited = False
        #: whether an operator holds the queue, and the positions that are held
        self.held = False
        self.parked = NO_POSITIONS
        #: the gateway stops: nothing is written; or something is written only while nothing is in flight
        self.quiesced = self.one_chunk = False
        #: the end of a stop: what waits is written, however much is in flight
        self.last_write = False
        self.replies = PingReplies(pair_queue.pair, services.late)
        self.overflow = SpoolOverflow(self)
        self.spooled_range = SpooledRange(pair_queue, services.spool, services.clock, services.expiry_question, self)
        #: the restore that gives this queue its turn after a start; None once it is done
        self.restore_turn: RestoreTurn | None = None
        self._services = services
        self._inverse = pair_queue.pair.inverse
        self._passed = services.record.stanza_counter(direction, "passed")
        self._unreported = self._unreported_bytes = 0  # stanzas passed on that are not in the daily report yet
        self._slowed: dict[StanzaSource, None] = {}
        self._appends = 0  # calls of the spool that are not answered
        self._due = -inf  # stanzas accepted by then are for the spool, with the next call if one is under way
        self._out_of_order = False
        self._endings: list[_Ending] = []
        #: the positions that were in flight when the first ending began, and came back since: they are no part of it
        self._spared = NO_POSITIONS
        #: the positions that are to be bounced, and why
        self._causes: dict[int, Cause] = {}
        self._step_is_due = False
        #: without a spool: what came beyond the peer's share of memory
        self._beyond_memory: list[QueuedStanza] = []
        self._presence = LatestPresence()
        self._marks = RequestMarks(pair_queue, services.spool, services.clock, self)
        self.forgotten = False

    def change_next_hop(self, next_hop: NextHop, direction: Direction) -> None:
        """Deliver by `next_hop` from now on. The stream in use is released, and stanzas in flight on it are in doubt."""
        self.report_passed()
        self.direction = direction
        self._passed = self._services.record.stanza_counter(direction, "passed")
        self.next_hop.stop(Cause.CLOSED)
        self.next_hop.dispose()
        self.next_hop = next_hop
        self.limits_changed(NextHopLimits())
        self.stream_lost()
        if not self.quiesced:
            self.resume(self.one_chunk)
        self.relieve()

    def dispose(self) -> None:
        """Drop all references back to the queue, which was forgotten: objects in no circle leave memory at once.

        Others may still refer to the queue (a stop, a view, a restore), and find it empty. Sources that still wait for it
        continue: their next stanzas enter a new queue.
        """
        self.forgotten = True
        self._causes.clear()
        self._endings.clear()
        self._spared = NO_POSITIONS
        self.report_passed()
        self.pair_queue.count_wait(0)
        self.next_hop.dispose()
        self.next_hop = NoNextHop()
        self.overflow.dispose()
        self.spooled_range.dispose()
        self._marks.dispose()
        del self._marks
        slowed, self._slowed = self._slowed, {}
        for source in slowed:
            source.resume(self)

    def cut_off(self) -> None:
        """End at once, because another node has the queue: write nothing, settle nothing, and remove nothing from the spool.

        An answer of the spool that comes later does nothing. The caller aborts the streams, and then calls `relieve`.
        """
        self.next_hop.abandon()
        self.pair_queue.abandon()
        self._beyond_memory = []
        self.dispose()

    @property
    def pair(self) -> Pair:
        return self.pair_queue.pair

    @property
    def idle(self) -> bool:
        """Whether nothing is held, and nothing is open."""
        busy = len(self.pair_queue) or self._appends or self.overflow.unacked_bounces or self.replies.pings
        return not (busy or self.spooled_range.reading or self.spooled_range.leaving) and self.next_hop.state == "idle"

    def is_quiet(self, now: float) -> bool:
        """Return whether a sweep has nothing to do: stanzas wait, none in memory has expired, and no source and no turn waits."""
        pair_queue = self.pair_queue
        if not (pair_queue.only_spooled or pair_queue.waiting) or self._slowed or self.restore_turn is not None:
            return False
        return not pair_queue.has_expired(now)

    # --- why no stanza is written ---

    def blocked_by(self) -> Blocked | None:
        """Return why no waiting stanza is written now; None: nothing blocks."""
        if not self.next_hop.ready:
            return "next-hop"
        if not self._services.permission.granted:
            return "no-permission"
        if self.held:
            return "held"
        if self.quiesced:
            return "stopping"
        if self.overflow.unacked_bounces:
            return "bounce-pending"
        if self._causes or self._endings:
            return "being-dropped"
        if self.pair_queue.in_flight and not self.last_write:
            if self.suspects or self.one_chunk:
                return "one-at-a-time"
            if self.pair_queue.enough_in_flight:
                return "enough-in-flight"
        return None

    def new_blocked_by(self) -> Blocked | None:
        """Return why new stanzas are not written at once; None: nothing blocks."""
        pair_queue = self.pair_queue
        if pair_queue.waiting or pair_queue.spooled_range is not None or self.suspects:
            return "older-first"
        return self.blocked_by()

    def waits_for(self) -> str | None:
        """Return why waiting stanzas are not written, for operators; None: nothing waits, or it is being written."""
        if not self.pair_queue.pending:
            return None
        if self._causes or self._endings:
            return "being-dropped"
        if self.spooled_range.unreadable and not self.pair_queue.waiting:
            return "spool-unreadable"
        return self.blocked_by()

    def full_bounds(self) -> list[str]:
        """Return the bounds that the stanzas of this queue have reached, for operators."""
        bound = self.overflow.bound if self._services.spools else ""  # without a spool the share is that of memory
        disk = {"share": "disk share", "spool": "disk", "disk": "disk"}.get(bound)
        memory = ["memory share"] if self.pair_queue.bytes and self.pair_queue.memory.full else []
        return [*memory, *([] if disk is None else [disk])]

    # --- taking custody ---

    def accept(self, stanzas: list[Stanza], source: StanzaSource | None = None, upstream_ack: UpstreamAck | None = None) -> None:
        """Take custody of the stanzas of one turn. They are written at once if nothing blocks.

        The call may come from within another call of this queue, through the next hop. `source` is paused if more would be too
        much. `upstream_ack` is settled as the stanzas get another owner.
        """
        late = self._services.late.pairs
        if self.replies.pings or (late and self.pair_queue.pair in late):
            stanzas = self._without_replies(stanzas, upstream_ack)
            if not stanzas:
                return
        if late and self._inverse in late:
            self._note_requests(stanzas)
        self.accept_errors(stanzas, source, upstream_ack)

    def accept_errors(
        self, stanzas: list[Stanza], source: StanzaSource | None = None, upstream_ack: UpstreamAck | None = None,
    ) -> None:
        """Do as `accept`, for our own errors: none of them is taken for a late reply to the request that it answers."""
        if self._limited:
            stanzas = self._within_limits(stanzas, upstream_ack, source)
        if not stanzas:
            return
        if self.new_blocked_by() is None:
            slow = self._write_through(stanzas, upstream_ack)
        else:
            self._keep(stanzas, upstream_ack)
            slow = self.next_hop.slow
        if source is not None and self._must_slow(source, slow):
            self._slowed[source] = None
            source.pause(self)

    def _without_replies(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> list[Stanza]:
        others = []
        for stanza in stanzas:
            rule = self.replies.take(stanza)
            if rule is None:
                others.append(stanza)
            elif upstream_ack is not None:
                upstream_ack.settle(DROPPED[rule])
        return others

    def _note_requests(self, stanzas: list[Stanza]) -> None:
        """Note requests that are sent again: their replies must be let through (R33)."""
        for stanza in stanzas:
            if stanza.is_request:
                self._services.late.asked_again(self._inverse, stanza)

    def _write_through(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> bool:
        """Write `stanzas`. Return whether the next hop takes no more for now."""
        data = [*map(_data_of, stanzas)]
        if self.next_hop.acknowledges:
            self.pair_queue.add_in_flight(stanzas, self._services.clock.seconds(), upstream_ack)
            self._services.window.watch(self)
            return self.next_hop.send(data)
        slow = self.next_hop.send(data)
        self._count_passed(stanzas)
        if upstream_ack is not None:
            upstream_ack.settle(WRITTEN, len(stanzas))
        return slow

    def _count_passed(self, stanzas: list[Stanza]) -> None:
        if len(stanzas) == 1:
            self._passed[stanzas[0].kind] += 1
        else:
            self._passed.update(map(kind_of, stanzas))
        self._unreported += len(stanzas)
        for stanza in stanzas:
            self._unreported_bytes += len(stanza.data)

    def report_passed(self) -> None:
        """Add the stanzas passed on since the last call to the daily report, if there is one."""
        number, size = self._unreported, self._unreported_bytes
        self._unreported = self._unreported_bytes = 0
        report = self._services.record.report
        if number and report is not None:
            report.passed(self.direction, self.peer.text, number, size)

    @property
    def peer(self) -> Domain:
        """Return the domain of the pair that is not served here."""
        return self.pair.sender if self.direction == "inbound" else self.pair.recipient

    def _keep(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> None:
        accepted = self.pair_queue.accept(stanzas, self._services.clock.seconds(), upstream_ack)
        if self.next_hop.ready:
            self.next_hop_ready()
        else:
            self.count_wait()
            self._coalesce(accepted)
            if not self.held and not self.quiesced:
                self.next_hop.request_delivery()
        if not self._services.spools and self._beyond_allowance:
            self._beyond_memory += [held for held in accepted if not held.gone]
            self._reject_beyond_memory()
        if len(self.pair_queue):
            self._services.window.watch(self)

    def count_wait(self) -> None:
        """Count the memory of the queue itself, until its next hop is ready."""
        self.pair_queue.count_wait(WAIT_BYTES[self.direction])

    def limits_changed(self, limits: NextHopLimits) -> None:
        """Use new limits of the next hop. Stanzas beyond them are bounced, waiting ones and later ones."""
        self.limits, self._limited = limits, bool(limits)
        if not self._limited:
            return
        self._bounce({
            held.position: cause for held in self.pair_queue.not_in_flight()
            if (cause := limits.violation(held.stanza.data)) is not None
        })

    def _within_limits(
        self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None, source: StanzaSource | None,
    ) -> list[Stanza]:
        taken, refused = self.limits.partition(stanzas)
        for stanza, cause in refused:
            self._services.bounces.refuse(self.pair, [stanza], cause, upstream_ack, source)
        return taken

    def _coalesce(self, accepted: list[QueuedStanza]) -> None:
        """Drop waiting presence that newer presence supersedes (R40)."""
        superseded = {older.position for held in accepted if (older := self._presence.note(held)) is not None}
        if superseded:
            gone = self.pair_queue.remove(superseded)
            self._services.bounces.drop(self, gone, Rule.SUPERSEDED_PRESENCE, "coalesced")

    # --- back-pressure ---

    def _must_slow(self, source: StanzaSource, slow: bool) -> bool:
        """Return whether `source` must bring no more for now. `slow`: the next hop takes no more for now.

        Waiting stanzas are no reason as long as the disk takes them. If the disk does not take them in time, even a source that
        feeds many other queues must wait, unless the next hop takes them: then a bounded part of memory is unacknowledged.
        """
        crowded = self.pair_queue.crowded
        if crowded:
            self.next_hop.relieve_pressure()
            self._services.relief.relieve()
            crowded = self.pair_queue.crowded
        overflow = self.overflow
        if (overflow.active or overflow.unacked_bounces) and overflow.blocked and (crowded or not source.shared):
            return True
        if self._services.spools:
            stalled = self._appends > 0 and self._services.spool.stalled and self.new_blocked_by() is not None
            behind = self.pair_queue.unsaved > 0 and (crowded or stalled or self._waits_while_short)
        else:
            behind = crowded and not self.held and self.next_hop.state in ("connecting", "ready")
        return behind or (slow and not source.shared and not self.held)

    @property
    def _waits_while_short(self) -> bool:
        """Return whether more than half of all memory is used without a next hop. The rest is for queues whose stanzas move."""
        memory = self._services.relief.memory
        return memory.used > memory.half and not self.next_hop.ready

    @property
    def _beyond_allowance(self) -> bool:
        return self.pair_queue.memory.full or self._waits_while_short

    def relieve(self) -> None:
        """Resume the paused sources, unless there is still a reason to wait."""
        if self.restore_turn is not None:
            self.restore_turn.reconsider(self)
        for source in list(self._slowed):  # the check may relieve the next hop, and that may call this again
            if not self._must_slow(source, self.next_hop.slow) and source in self._slowed:
                del self._slowed[source]
                source.resume(self)

    @property
    def holds_source(self) -> bool:
        """Whether a stream that feeds the queue is paused."""
        return bool(self._slowed)

    def slowed_besides(self, source: StanzaSource) -> list[StanzaSource]:
        """Return the paused streams other than `source`."""
        return [each for each in self._slowed if each is not source]

    def forget(self, source: StanzaSource) -> None:
        """Forget a source that is gone."""
        self._slowed.pop(source, None)

    # --- passing custody on ---

    def next_hop_ready(self) -> None:
        """Write waiting stanzas until something blocks. Then resume the sources."""
        if self.pair_queue.wait_bytes and self.next_hop.ready:
            self.pair_queue.count_wait(0)
        while self.pair_queue.waiting and self._may_write() and self.blocked_by() is None:
            if not (written := self.pair_queue.write(1 if self.suspects else CHUNK, self.parked)):
                self._marks.make(self.parked)
                break
            self._write(written)
        if self.pair_queue.spooled_range is not None and not self._may_write() and self.blocked_by() is None:
            self.spooled_range.read_on(self._readable)
        if self._slowed or self.restore_turn is not None:
            self.relieve()

    def _may_write(self) -> bool:
        """Return whether a stanza waits in memory that an operator does not hold."""
        if not self.parked:
            return bool(self.pair_queue.waiting)
        return any(held.position not in self.parked for held in self.pair_queue.waiting)

    @property
    def _readable(self) -> int:
        """Return the bytes to read from the spool at once. If memory is short, one stanza at a time is read."""
        return 1 if self._services.relief.memory.short else CHUNK

    def _write(self, written: list[QueuedStanza]) -> None:
        for held in written if self._presence else ():
            self._presence.forget(held)
        now = self._services.clock.seconds()
        acknowledges = self.next_hop.acknowledges
        self.next_hop.send([self.spelled(held, now) for held in written])
        if not (acknowledges or self.next_hop.acknowledges):  # the write may end the stream, or begin its acknowledgements
            self._passed_on(len(written), WRITTEN)

    def spelled(self, held: QueuedStanza, now: float) -> bytes:
        """Return the bytes for the wire. A delay stamp that would exceed the limits of the next hop is left out (R32)."""
        if now - held.accepted_at <= DELAYED_SECONDS:
            return held.stanza.data
        data = stamped(held.stanza, self.pair.sender, self._services.wall.seconds() - (now - held.accepted_at))
        return held.stanza.data if self.limits.violation(data) else data

    @property
    def wants_stream(self) -> bool:
        """Whether stanzas wait or are in doubt, and the gateway does not stop."""
        return not self.quiesced and bool(self.pair_queue.pending or self.pair_queue.in_flight)

    def settle_in_flight(self, number: int) -> None:
        """Settle the first `number` stanzas in flight: the resumption shows that the next server has them. Write nothing yet."""
        self._passed_on(number, PASSED_ON)

    def acknowledged(self, number: int, evidence: ReceiptEvidence = PASSED_ON) -> None:
        """Settle the first `number` stanzas in flight: they have another owner, as `evidence` shows."""
        self._passed_on(number, evidence)
        self.next_hop_ready()

    def _passed_on(self, number: int, evidence: ReceiptEvidence) -> None:
        gone = self.pair_queue.acknowledge(number)
        self.suspects = max(0, self.suspects - number)
        spooled: list[QueueItem] = []
        for item in gone:
            self._count_passed(item.stanzas)
            if item.spooled:
                spooled.append(item)
        if spooled and (self.parked or self._out_of_order or self.spooled_range.leaving):
            self._services.spool.remove_each(self.pair, [held.position for held in self.pair_queue.rows(spooled)])
        elif spooled:
            self._services.spool.remove(self.pair, spooled[-1].last)
        for item in gone:
            item.settle(evidence)

    def stream_lost(self, poison: str = "", ambiguous: bool = False) -> None:
        """Put the stanzas in flight in doubt: the stream is gone. They are sent again, except for IQ requests (R33).

        `poison`: the word for the reason, if the content of one of these stanzas ended the stream (docs/decisions.md#poison,
        `delivery.poison`). `ambiguous`: the reason may be something else.
        """
        in_doubt = self.pair_queue.take_back()
        if not in_doubt:
            return
        if not self.next_hop.ready:
            self.count_wait()
        self._set_in_order()
        if self._endings:
            self._spared |= {held.position for held in in_doubt}
        if poison and not ambiguous and len(in_doubt) == 1:
            self._end_poison(in_doubt, poison)
            return
        self.suspects = len(in_doubt) if poison else self.suspects
        self._bounce({held.position: Cause.IN_DOUBT for held in in_doubt if held.stanza.is_request})
        self._services.record.counted(self.direction, "resent", [each.stanza for each in in_doubt if not each.stanza.is_request])
        self._services.relief.keeps(self)

    def _end_poison(self, culprits: list[QueuedStanza], said: str) -> None:
        """Bounce the one stanza on which the next hop closes its stream, and keep it in quarantine."""
        self.suspects = 0
        gone = self.pair_queue.remove({culprits[0].position})
        for held in gone:
            self._services.spool.quarantine(self._spooled(held), said, self._services.wall.seconds())
        self.give_up_on(gone, Cause.POISON, said)

    # --- the spool ---

    @property
    def spooling(self) -> bool:
        return self._appends > 0

    def spool_now(self, before: float = inf) -> None:
        """Give the stanzas accepted up to `before` and not acknowledged to the spool, in one batch."""
        if self.forgotten:
            return
        self._due = before
        if not self._services.spools:
            self._reject_beyond_memory()
            return
        if self.overflow.unacked_bounces or (before < inf and (self._appends or self.overflow.bouncing)):
            return
        batch = self.pair_queue.take_unspooled(before)
        if not batch:
            self.overflow.end()
            return
        self._appends += 1
        bounces = completed_by(batch)
        replaces = [replaced for bounce in bounces if (replaced := bounce.replaces) is not None]
        rows = [self._spooled(held) for held in self.pair_queue.rows(batch)]
        self._services.spool.append(rows, partial(self._stored, batch, bounces), replaces)

    def _reject_beyond_memory(self) -> None:
        """Without a spool: bounce stanzas beyond the peer's share of memory, or let their source wait."""
        full = self._beyond_allowance
        self._beyond_memory = [held for held in self._beyond_memory if full and not held.gone]
        if not self._beyond_memory:
            self.overflow.end()
            return
        owner = registered_domain(self.peer.ascii)
        what = f"the stanzas from and to {owner}, with all its sub-domains, take {self.pair_queue.memory.held} bytes of memory"
        text = f"there is no spool, and {what}, which is their share"
        self._services.window.rejected(self, SpoolFull(text, "share"), again=True)
        self.overflow.begin(self._beyond_memory, SpoolFull(text, "share"))

    def spool_again(self) -> None:
        """Give the spool the stanzas that are due."""
        self.spool_now(self._due)

    def _spooled(self, held: QueuedStanza) -> Spooled:
        return Spooled(self.pair, held.position, held.stanza, held.accepted_at, held.deadline, held.written)

    def _stored(self, given: list[QueueItem], bounces: list[BounceAck], error: SpoolError | None) -> None:
        self._appends -= 1
        if self.forgotten or self._services.window.over:
            return
        batch = [item for each in given for item in each.parts_now()]
        if error is not None:
            self.pair_queue.give_back_unspooled(batch)
            self._rejected(batch, error)
        else:
            self.pair_queue.mark_durable(batch)
            self.overflow.stored()
            for bounce in bounces:
                bounce.replaced()
            settle(batch, ON_DISK)
            self._services.relief.spooled(self)
            self.spool_again()
        self.relieve()

    def _rejected(self, batch: Sequence[QueueItem], error: SpoolError) -> None:
        self._services.window.rejected(self, error, again=self.overflow.active)
        self.quiesced = False  # at a stop, stanzas that the disk does not take are written
        self.overflow.begin(batch, error)

    def reject(self, gone: list[QueuedStanza], told: Callable[[], None]) -> None:
        said = "share of the peer" if self.overflow.bound == "share" else ""
        self._services.bounces.give_up(self, gone, Cause.QUEUE_FULL, said, told=told)

    @property
    def errors_pass(self) -> bool:
        return self._services.bounces.takes_errors(self.pair)

    def soon(self, call: Callable[[], None]) -> None:
        self._services.soon(call)

    def takes_errors(self) -> bool:
        """Return whether an error would be written at once. If not, request its delivery, unless an attempt has just failed.

        A next hop that backs off for a final cause bounces what waits, and that asks the queue of the other direction the same.
        """
        if self.quiesced or self.one_chunk:  # at a stop, senders must still get all of their errors, behind what waits
            self.quiesced = self.one_chunk = False
            if self.next_hop.ready:
                self.next_hop_ready()
        if not self.next_hop.ready and not self.held and self.next_hop.state != "backing off":
            self.next_hop.request_delivery()
        return self.new_blocked_by() is None

    def evict(self, at_most: int) -> None:
        spooled_range = self.spooled_range
        if self._spared or (self.parked and spooled_range.reading and not spooled_range.unreadable):
            return  # what is spared, or held alone, would be read back again and again, and nothing behind it
        for held in self.pair_queue.evict(at_most):
            self._presence.forget(held)

    def back_in_memory(self, held: list[QueuedStanza], damaged: list[Spooled]) -> None:
        self.limits_changed(self.limits)
        self._bounce({each.position: Cause.IN_DOUBT for each in held if each.written and each.stanza.is_request})
        if damaged:
            self._end_damaged(damaged, self.pair_queue.remove({row.position for row in damaged}))

    def _end_damaged(self, damaged: Sequence[Spooled], gone: list[QueuedStanza]) -> None:
        """Bounce stanzas that were altered on the disk, if their senders are known. Keep all of them in quarantine."""
        for row in damaged:
            self._services.spool.quarantine(row, f"altered on the disk ({row.damage})", self._services.wall.seconds())
        without_sender = {row.position for row in damaged if row.damage == "envelope"}
        self.give_up_on([held for held in gone if held.position not in without_sender], Cause.SPOOL_DAMAGED)
        lost = [held for held in gone if held.position in without_sender]
        self._services.bounces.drop(self, lost, Rule.DAMAGED, "dropped")

    def range_read(self) -> None:
        if self._endings:
            self._go_on_ending()
        self.next_hop_ready()
        self._services.relief.keeps(self)

    # --- ending custody ---

    def give_up(self, cause: Cause) -> None:
        """Bounce all stanzas that are not in flight."""
        self._end_all(cause)

    def _end_all(self, cause: Cause | None) -> None:
        """Bounce all that is held now and not in flight, or drop it (None), in steps: the rest of the spool as it is read.

        What an earlier ending has yet to come to is ended in its way.
        """
        up_to = self.pair_queue.next_position - 1
        if self._endings and self._endings[-1].cause is cause:
            self._endings.pop()
        if not self._endings:
            self._spared = NO_POSITIONS
        self._endings.append(_Ending(up_to, cause))
        self._go_on_ending()
        self.relieve()

    def _go_on_ending(self, at_most: int | None = BOUNCED_AT_ONCE) -> None:
        """Do a step of the first ending."""
        if not self._endings:
            return
        ending = up_to, cause = self._endings[0]
        try:
            self._end(self.pair_queue.remove_up_to(up_to, at_most, self._spared), cause)
        finally:
            if self._endings and self._endings[0] is ending:  # otherwise another call has gone on
                self._plan_ending(up_to)

    def _plan_ending(self, up_to: int) -> None:
        """Plan the next step of the first ending, or begin the next ending."""
        spooled_range = self.pair_queue.spooled_range
        not_in_flight = self.pair_queue.not_in_flight()
        if any(held.position <= up_to and held.position not in self._spared for held in not_in_flight):
            self._step_soon()
        elif spooled_range is not None and spooled_range[0] < up_to:
            self.spooled_range.read_on(CHUNK)
        else:
            self._spared = NO_POSITIONS
            self._endings.pop(0)
            if self._endings:
                self._step_soon()
            self._services.relief.keeps(self)

    def _end(self, gone: list[QueuedStanza], cause: Cause | None) -> None:
        """Bounce stanzas that have left the queue; without a cause, drop them as an operator asks."""
        if cause is None:
            self._services.bounces.drop(self, gone, Rule.OPERATOR_DROP, "dropped")
        else:
            self.give_up_on(gone, cause)

    def _bounce(self, causes: Mapping[int, Cause]) -> None:
        """Bounce the stanzas at these positions, in steps. None of them is written meanwhile."""
        if causes:
            self._causes.update(causes)
            self._bounce_some()

    def _bounce_some(self) -> None:
        causes = dict(islice(self._causes.items(), BOUNCED_AT_ONCE))
        for position in causes:
            del self._causes[position]
        if self._causes or self._endings:
            self._step_soon()
        gone = self.pair_queue.remove(causes)
        for cause in dict.fromkeys(causes.values()):
            self.give_up_on([held for held in gone if causes[held.position] is cause], cause)

    def _step_soon(self) -> None:
        if not self._step_is_due:
            self._step_is_due = True
            self._services.soon(self._step)

    def _step(self) -> None:
        """Bounce or drop some more, and go on if that was all."""
        self._step_is_due = False
        try:
            if self._causes:
                self._bounce_some()
            elif self._endings:
                self._go_on_ending()
        finally:
            if not self.forgotten:
                self.next_hop_ready()

    def give_up_on(self, gone: Iterable[QueuedStanza], cause: Cause, said: str = "") -> None:
        """Bounce stanzas that have left the queue. `said` is added to the cause."""
        if gone := list(gone):
            self._services.bounces.give_up(self, gone, cause, said)
            if cause is Cause.IN_DOUBT:
                self._expect_late_replies([held.stanza for held in gone if held.stanza.is_request])

    def _expect_late_replies(self, requests: list[Stanza]) -> None:
        """Drop later replies to `requests`, which errors of ours answer, but for requests that were sent again and still wait.

        Those that are to be bounced themselves do not count. A peer may use few ids for many requests, so each is noted once.
        """
        late = self._services.late
        for request in requests:
            late.expect(self._inverse, request)
        answered = {(request.id, request.to, request.from_): request for request in requests}
        ids = {request.id for request in requests}
        again: Counter[tuple[str | None, str, str]] = Counter()
        for held in self.pair_queue.not_in_flight() if answered else ():
            each = held.stanza
            if each.id in ids and held.position not in self._causes and each.is_request:
                again[each.id, each.to, each.from_] += 1
        for key in again.keys() & answered.keys():
            late.still_asked(self._inverse, answered[key], again[key])

    def not_marked(self, gone: list[QueuedStanza], why: Ending) -> None:
        self._services.window.trouble(why)
        self.give_up_on(gone, why.cause)

    def leave(self, gone: Sequence[QueuedStanza]) -> list[int]:
        """Take stanzas out of the queue for good. Return the positions that must still be removed from the spool."""
        spooled = [held.position for held in gone if held.spooled]
        self.spooled_range.leave(spooled)
        for held in gone:
            self._presence.forget(held)
        if self.parked and (ended := self.parked.intersection([held.position for held in gone])):
            self.parked = self.parked - ended
            self._services.holds.ended(self.pair, ended)
        return spooled

    def strike_off(self, positions: Sequence[int]) -> None:
        self._services.spool.remove_each(self.pair, positions)
        self.spooled_range.struck_off(positions)

    def struck_off(self, positions: Sequence[int]) -> None:
        self.spooled_range.struck_off(positions)

    def expire(self, now: float, at_most: int = BOUNCED_AT_ONCE) -> int:
        """Bounce the first `at_most` that have waited too long in memory. Return how many there were."""
        gone = self.pair_queue.expire(now, at_most)
        if gone:
            self.give_up_on(gone, self._cause_of_expiry)
            self._withdraw_request()
        return len(gone)

    def _withdraw_request(self) -> None:
        """End the attempt to open a stream, if all stanzas have expired."""
        if not len(self.pair_queue):
            self.next_hop.withdraw_request()

    def expire_spooled(self, spooled: Sequence[Spooled]) -> None:
        """Bounce stanzas that have waited too long and are only in the spool."""
        self.give_up_on(self.spooled_range.take([row for row in spooled if not row.damage]), self._cause_of_expiry)
        if damaged := [row for row in spooled if row.damage]:
            gone = self.spooled_range.take(damaged)
            positions = {held.position for held in gone}
            self._end_damaged([row for row in damaged if row.position in positions], gone)
        self._withdraw_request()

    @property
    def _cause_of_expiry(self) -> Cause:
        """Return why expired stanzas have waited so long: the operator held them, or the last attempt failed."""
        return Cause.HELD_TOO_LONG if self.held else self.next_hop.last_cause

    # --- the operator ---

    def hold(self, position: int | None = None) -> None:
        """Write nothing more, or not this stanza. Held stanzas still expire."""
        if position is None:
            self.held = True
        else:
            self.parked = self.parked | {position}

    def release(self, position: int | None = None) -> None:
        """End a hold. Releasing the whole queue also releases its single stanzas."""
        if position is None:
            self._set_holds(False, NO_POSITIONS)
        else:
            self._set_holds(self.held, self.parked - {position})
        self.flush()

    def follow_holds(self, held: bool, parked: AbstractSet[int]) -> None:
        """Hold back this much from now on: an operator has changed it on another node."""
        released = (self.held and not held) or not self.parked <= parked
        self._set_holds(held, frozenset(parked) if parked else NO_POSITIONS)
        if released:
            self.flush()

    def _set_holds(self, held: bool, parked: frozenset[int]) -> None:
        self._out_of_order = self._out_of_order or bool(self.parked)
        self.held, self.parked = held, parked
        self._set_in_order()

    def flush(self) -> None:
        """Try now, ignoring the back-off."""
        if self.held or not len(self.pair_queue):
            return
        self.next_hop.retry_now(True)
        if self.next_hop.ready:
            self.next_hop_ready()
        else:
            self.next_hop.request_delivery()

    def retry_now(self, urged: bool = False) -> None:
        """Try again now if an attempt is due later: the next server was in contact, or (`urged`) an operator asks."""
        self.next_hop.retry_now(urged)
        if self.restore_turn is not None:
            self.restore_turn.start_now(self)

    def drop(self, quietly: bool, position: int | None = None) -> Deferred[int]:
        """Give up all stanzas that are not in flight, or one stanza, in memory or in the spool. The result is their number.

        They are bounced, unless `quietly`.
        """
        cause = None if quietly else Cause.DROPPED_BY_OPERATOR
        if position is None:
            number = len(self.pair_queue) - self.pair_queue.in_flight_count
            self._end_all(cause)
            return succeed(number)
        gone = self.pair_queue.remove({position})
        spooled_range = self.pair_queue.spooled_range
        if not gone and spooled_range is not None and spooled_range[0] < position <= spooled_range[1]:
            dropped: Deferred[int] = Deferred()
            self.spooled_range.look(position, partial(self._end_found, dropped, cause))
            return dropped
        self._end(gone, cause)
        return succeed(len(gone))

    def drop_older(self, quietly: bool, before: float, at_most: int) -> int:
        """Give up the first `at_most` in memory that are not in flight and were accepted before `before`. Return how many.

        They are bounced, unless `quietly`.
        """
        older = (held.position for held in self.pair_queue.not_in_flight() if held.accepted_at < before)
        gone = self.pair_queue.remove(set(islice(older, at_most)))
        self._end(gone, None if quietly else Cause.DROPPED_BY_OPERATOR)
        return len(gone)

    def _end_found(self, dropped: Deferred[int], cause: Cause | None, found: list[QueuedStanza]) -> None:
        self._end(found, cause)
        dropped.callback(len(found))

    def _set_in_order(self) -> None:
        """Keep the order: stanzas that were skipped during a hold stay in their place."""
        if (self.parked or self._out_of_order) and self.pair_queue.waiting:
            self.pair_queue.waiting = deque(sorted(self.pair_queue.waiting, key=by_position))

    # --- the stop ---

    def quiesce(self) -> None:
        """Write nothing more, so that everything in flight can be acknowledged."""
        self.quiesced = True
        self.relieve()

    def resume(self, one_chunk: bool = False) -> None:
        """Write again. `one_chunk`: only while nothing is unacknowledged, so that little is in doubt without an answer."""
        self.quiesced, self.one_chunk = False, one_chunk
        if self.next_hop.ready:
            self.next_hop_ready()
        elif self.wants_stream and not self.held:
            self.next_hop.request_delivery()

    @property
    def ending(self) -> bool:
        """Whether some stanzas are still to be bounced or dropped in steps. Rows that the spool cannot read do not count."""
        return bool(self._causes) or (bool(self._endings) and not self.spooled_range.unreadable)

    def hand_to_spool(self) -> None:
        """Give the rest to the spool. Call this when no steps are under way (`ending`): none comes after it."""
        if not self._appends:
            self.spool_now()

    def bounce_rest(self) -> None:
        """Without a spool: bounce what is not in flight, in steps (`ending`).

        An error that could not be written yet stays: it may yet be, and otherwise it is named as lost.
        """
        waiting = [held.position for held in self.pair_queue.not_in_flight() if may_bounce(held.stanza)]
        self._bounce({position: Cause.SHUTDOWN for position in waiting if position not in self._causes})

    def end_at_once(self) -> None:
        """Do all steps that are left in one call: the time for them is over, and no spool keeps the stanzas."""
        while self._causes:
            self._bounce_some()
        if self._endings:
            self._go_on_ending(at_most=None)
