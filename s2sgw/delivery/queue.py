"""A lane at work: its custody passes on as the next hop takes it, and what the hop does not take in time is spooled.

A stanza is settled upstream only when the next hop has it, the spool has it, or it was bounced (docs/decisions.md#custody).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from s2sgw.delivery.iq_replies import PingReplies
from s2sgw.delivery.next_hop import NextHop, NextHopLimits, StanzaSource
from s2sgw.delivery.spooling import RequestMarks, SpooledRange, SpoolOverflow
from s2sgw.queue.delay_stamp import stamped
from s2sgw.queue.entries import QueuedStanza, QueueItem, UpstreamAck, settle
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.queue.presence import LatestPresence
from s2sgw.reporting.record import Direction
from s2sgw.spool.interface import Spooled
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from s2sgw.delivery.queue_table import DeliveryQueues
    from s2sgw.delivery.restoring import StartupRestore

#: Bytes handed to a hop, or read from the spool, at once.
CHUNK = 131072
#: Seconds after which a stanza that waited says so (R39).
LATE = 2.0


class DeliveryQueue:
    """The lane of one pair at work."""

    def __init__(self, pair_queue: PairQueue, queues: DeliveryQueues, direction: Direction) -> None:
        self.pair_queue = pair_queue
        self.direction: Direction = direction
        self.next_hop: NextHop
        #: stanzas in doubt that are sent one at a time, until the one is known on which the next hop closes
        self.suspects = 0
        #: what the next hop takes, as far as that is known
        self.fitness = NextHopLimits()
        self._queues = queues
        self._slowed: set[StanzaSource] = set()
        self.spooling = False
        self.overflow = SpoolOverflow(self, queues)
        self.due = -inf  # what was accepted by then is for the spool, with the next batch if one is on its way
        #: the operator's word: nothing is written, or not these positions
        self.held = False
        self.parked: set[int] = set()
        self.out_of_order = False
        self._ending: Callable[[list[QueuedStanza]], None] | None = None
        self.spooled_range = SpooledRange(pair_queue, queues, self._back_in_memory, self._was_read)
        self._newest = LatestPresence()
        self.backlog: StartupRestore | None = None  # where the lane has its turn after a start, until it is done
        self.answers = PingReplies(pair_queue.pair, queues.late)
        self._marks = RequestMarks(pair_queue, lambda: queues.spool, self.drain, lambda gone: self.give_up_on(gone,
        Cause.QUEUE_FULL))

    @property
    def pair(self) -> Pair:
        return self.pair_queue.pair

    @property
    def idle(self) -> bool:
        """Nothing is held, and nothing is open."""
        busy = len(self.pair_queue) or self.spooling or self.overflow.untold or self.spooled_range.reading or self.answers.pings
        return not busy and self.next_hop.state == "idle"

    # --- answers that go no further ---

    def expect(self, id: str, answered: Callable[[], None]) -> None:
        """An answer with this unguessable id is for the gateway: it is consumed, never forwarded (R41)."""
        self.answers.pings[id] = answered

    def unexpect(self, id: str) -> None:
        """The answer no longer matters."""
        self.answers.give_up(id)

    def awaits(self, stanza: Stanza) -> bool:
        """Whether `stanza` is such an answer."""
        return self.answers.awaits(stanza)

    def _consume(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> list[Stanza]:
        others = [stanza for stanza in stanzas if not self.answers.take(stanza)]
        if upstream_ack is not None and len(others) < len(stanzas):
            upstream_ack.settle(len(stanzas) - len(others))
        return others

    # --- custody taken ---

    def accept(self, stanzas: list[Stanza], source: StanzaSource | None = None, upstream_ack: UpstreamAck | None = None) -> None:
        """Take custody of the stanzas of one turn: they go on at once where the way is free."""
        if self.answers:
            stanzas = self._consume(stanzas, upstream_ack)
        if self.fitness:
            stanzas = self._fitting(stanzas, upstream_ack)
        if not stanzas:
            return
        if not self._pass_through(stanzas, upstream_ack):
            self._keep(stanzas, upstream_ack)
        if source is not None and self._must_slow(source):
            self._slowed.add(source)
            source.pause(self)

    def _pass_through(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> bool:
        """Write them at once, where nothing goes before them."""
        if not self.open:
            return False
        if self.next_hop.acknowledges:
            if not self.pair_queue.fly(stanzas, self._queues.clock.seconds(), upstream_ack):
                return False
            self._queues.watch(self)
        else:
            self._queues.record.counted(self.direction, "passed", stanzas)
            if upstream_ack is not None:
                upstream_ack.settle(len(stanzas))
        self.next_hop.send([stanza.data for stanza in stanzas])
        return True

    @property
    def open(self) -> bool:
        """What comes now is written now."""
        busy = self.pair_queue.pending or self.pair_queue.full or self.suspects or self.overflow.untold
        return self.next_hop.ready and not (busy or self.held)

    def _keep(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> None:
        accepted, refused = self.pair_queue.accept(stanzas, self._queues.clock.seconds(), upstream_ack)
        if not self.next_hop.ready:
            self._coalesce(accepted)
        if self.next_hop.ready:
            self.drain()
        elif not self.held:
            self.next_hop.request_delivery()
        if refused:
            self._queues.refuse(self.pair, refused, Cause.QUEUE_FULL, upstream_ack)
        self._queues.watch(self)

    def fit(self, fitness: NextHopLimits) -> None:
        """What the next hop takes: others that wait are bounced, and so are those to come."""
        self.fitness = fitness
        gone = self.pair_queue.remove(lambda held: fitness.violation(held.stanza.data) is not None) if fitness else []
        for held in gone:
            self.give_up_on([held], fitness.violation(held.stanza.data) or Cause.TOO_LARGE)

    def _fitting(self, stanzas: list[Stanza], upstream_ack: UpstreamAck | None) -> list[Stanza]:
        taken, refused = self.fitness.partition(stanzas)
        for stanza, cause in refused:
            self._queues.refuse(self.pair, [stanza], cause, upstream_ack)
        return taken

    def _coalesce(self, accepted: list[QueuedStanza]) -> None:
        """R40: waiting presence gives way to what is newer."""
        worthless = {older.position for held in accepted if (older := self._newest.note(held)) is not None}
        if not worthless:
            return
        gone = self.pair_queue.remove(lambda held: held.position in worthless)
        self._queues.record.counted(self.direction, "coalesced", [held.stanza for held in gone])
        self._end(gone)

    # --- back-pressure ---

    def _must_slow(self, source: StanzaSource) -> bool:
        stuck = self.overflow.stuck
        if self.held and not stuck:
            return False
        if self.pair_queue.crowded:
            self.next_hop.relieve_pressure()
        if (self.next_hop.slow or stuck) and not source.shared:
            return True
        return self.pair_queue.crowded and (stuck or self.next_hop.state in ("connecting", "ready"))

    def relieve(self) -> None:
        """Let the slowed sources go on, unless there is still reason to wait."""
        if self.backlog is not None:
            self.backlog.look(self)
        for source in list(self._slowed):  # to ask may press the next hop, and that may end in here again
            if not self._must_slow(source) and source in self._slowed:
                self._slowed.discard(source)
                source.resume(self)

    def forget(self, source: StanzaSource) -> None:
        """`source` is gone."""
        self._slowed.discard(source)

    # --- custody passed on ---

    def drain(self) -> None:
        """The hop is free: hand over what waits, then let the sources go on."""
        while self.next_hop.ready and self._may_write and not (self.pair_queue.full or (self.suspects and
        self.pair_queue.in_flight)):
            if not (written := self.pair_queue.write(1 if self.suspects else CHUNK, self.parked)):
                self._marks.make(self.parked)
                break
            self._write(written)
        if self.next_hop.ready and self.pair_queue.spooled_range is not None and not (self.held or self._may_write or
        self.pair_queue.full):
            self.spooled_range.read_on(CHUNK)
        self.relieve()

    @property
    def _may_write(self) -> bool:
        """Something waits in memory that is not held back."""
        if self.held or self.overflow.untold or not self.parked:
            return bool(self.pair_queue.waiting) and not (self.held or self.overflow.untold)
        return not all(held.position in self.parked for held in self.pair_queue.waiting)

    def _write(self, written: list[QueuedStanza]) -> None:
        for held in written if self._newest else ():
            self._newest.forget(held)
        now = self._queues.clock.seconds()
        self.next_hop.send([self.spelled(held, now) for held in written])
        if not self.next_hop.acknowledges:
            self._passed_on(len(written))

    def spelled(self, held: QueuedStanza, now: float) -> bytes:
        """What goes on the wire; a stamp for which the next hop has no room is left out (R32)."""
        if now - held.accepted_at <= LATE:
            return held.stanza.data
        data = stamped(held.stanza, self.pair.sender, self._queues.wall() - (now - held.accepted_at))
        return held.stanza.data if self.fitness.violation(data) else data

    def acknowledged(self, number: int) -> None:
        """The next server has the first `number` stanzas in flight."""
        self._passed_on(number)
        self.drain()

    def _passed_on(self, number: int) -> None:
        gone = self.pair_queue.acknowledge(number)
        self.suspects = max(0, self.suspects - number)
        spooled = [piece for piece in gone if piece.spooled]
        if spooled and (self.parked or self.out_of_order):
            self._queues.spool.remove_each(self.pair, [held.position for held in self.pair_queue.rows(spooled)])
        elif spooled:
            self._queues.spool.remove(self.pair, spooled[-1].last)
        self._queues.record.counted(self.direction, "passed", chain.from_iterable([piece.stanzas for piece in gone]))
        settle(gone)

    def lost(self, poison: str = "", ambiguous: bool = False) -> None:
        """The hop is gone with stanzas in flight: they are in doubt, and go again, but for IQs (R33).

        `poison`: it went over the content of one of them (docs/decisions.md#poison),
        as this word says (`delivery.poison`); `ambiguous`: or over
        something else.
        """
        doubtful = self.pair_queue.take_back()
        if not doubtful:
            return
        self.set_in_order()
        if poison and not ambiguous and len(doubtful) == 1:
            self._poison(doubtful, poison)
            return
        self.suspects = len(doubtful) if poison else self.suspects
        asked = {held.position for held in doubtful if held.stanza.is_request}
        self.give_up_on(self.pair_queue.remove(lambda held: held.position in asked), Cause.IN_DOUBT)
        self._queues.record.counted(self.direction, "resent", [held.stanza for held in doubtful if held.position not in asked])

    def _poison(self, culprits: list[QueuedStanza], said: str) -> None:
        """The one stanza on which the next hop closes its stream: twice is enough."""
        self.suspects = 0
        position = culprits[0].position
        gone = self.pair_queue.remove(lambda held: held.position == position)
        for held in gone:
            self._queues.spool.quarantine(self._spooled(held), said, self._queues.wall())
        self.give_up_on(gone, Cause.POISON, said)

    def set_in_order(self) -> None:
        """What was passed over by the operator's word stands where it stood."""
        if self.parked or self.out_of_order:
            self.pair_queue.waiting = deque(sorted(self.pair_queue.waiting, key=lambda held: held.position))

    # --- the spool ---

    def spool_now(self, before: float = inf) -> None:
        """What was accepted up to `before` (whenever), and the next server has not acknowledged, is spooled in one batch."""
        self.due = before
        if not self._queues.spools or self.overflow.untold or (self.spooling and before < inf):
            return
        fresh = self.pair_queue.unspooled(before)
        if not fresh:
            self.overflow.end()
            return
        self.spooling = True
        for piece in fresh:
            piece.spooled = True
        batch = [self._spooled(held) for held in self.pair_queue.rows(fresh)]
        self._queues.spool.append(batch, lambda error: self._durable(fresh, error))

    def _spooled(self, held: QueuedStanza) -> Spooled:
        return Spooled(self.pair, held.position, held.stanza, held.accepted_at, held.deadline, held.written)

    def _durable(self, batch: list[QueueItem], error: Exception | None) -> None:
        self.spooling = False
        batch = [piece for each in batch for piece in each.now()]
        if error is None:
            self.overflow.end()
            settle(batch)
            for held in self.pair_queue.evict(self._queues.resident):
                self._newest.forget(held)
            self.spool_now(self.due)
        else:
            for piece in batch:
                piece.spooled = False
            self.pair_queue.fresh.extendleft(reversed(batch))
            self.overflow.begin(batch, error)
        self.relieve()

    def _back_in_memory(self, held: list[QueuedStanza], damaged: Sequence[Spooled] = ()) -> None:
        if damaged:
            positions = {row.position for row in damaged}
            self._end_damaged(damaged, self.pair_queue.remove(lambda held: held.position in positions))
        self.fit(self.fitness)
        if doubtful := {each.position for each in held if each.written and each.stanza.is_request}:
            self.give_up_on(self.pair_queue.remove(lambda held: held.position in doubtful), Cause.IN_DOUBT)

    def _end_damaged(self, damaged: Sequence[Spooled], gone: list[QueuedStanza]) -> None:
        """Bounce what was altered on the disk, where its sender is known; keep all of it in quarantine."""
        for row in damaged:
            self._queues.spool.quarantine(row, f"altered on the disk ({row.damage})", self._queues.wall())
        without_sender = {row.position for row in damaged if row.damage == "envelope"}
        self.give_up_on([held for held in gone if held.position not in without_sender], Cause.SPOOL_DAMAGED)
        self.forget_all([held for held in gone if held.position in without_sender])

    def _was_read(self) -> None:
        if self._ending is not None:
            self.end_all(self._ending)
        self.drain()

    # --- custody ended ---

    def give_up(self, cause: Cause) -> None:
        """Bounce everything that is not in flight."""
        self.end_all(lambda gone: self.give_up_on(gone, cause))

    def end_all(self, end: Callable[[list[QueuedStanza]], None]) -> None:
        """Whatever is not in flight ends so; what only the spool holds, as it is read."""
        end(self.pair_queue.clear())
        self._ending = end if self.pair_queue.spooled_range is not None else None
        if self._ending is not None:
            self.spooled_range.read_on(CHUNK)
        self.relieve()

    def give_up_on(self, gone: Iterable[QueuedStanza], cause: Cause, said: str = "") -> None:
        """Bounce these, which have left the lane; `said` goes with the cause."""
        if gone := list(gone):
            self._queues.bounce(self.pair, [held.stanza for held in gone], cause, settled=lambda: settle(gone), said=said)
            if cause is Cause.IN_DOUBT:
                self._queues.drop_late(self.pair, [held.stanza for held in gone])
            if any(held.spooled for held in gone):  # the errors are on the disk before what they answer has left it
                self._queues.queue(self.pair.inverse).spool_now()
            self.left(gone)

    def _end(self, gone: Sequence[QueuedStanza]) -> None:
        """The custody of these is over."""
        self.left(gone)
        settle(gone)

    def left(self, gone: Sequence[QueuedStanza]) -> None:
        """These have left the lane for good."""
        spooled = [held.position for held in gone if held.spooled]
        if spooled:
            self._queues.spool.remove_each(self.pair, spooled)
            self.spooled_range.ended(spooled)
        for held in gone:
            self._newest.forget(held)

    def expire(self, now: float) -> None:
        """Bounce what has waited too long in memory."""
        self.give_up_on(self.pair_queue.expire(now), self.next_hop.last_cause)

    def expire_spooled(self, spooled: Sequence[Spooled]) -> None:
        """Bounce what has waited too long in the spool alone."""
        self.give_up_on(self.spooled_range.take([row for row in spooled if not row.damage]), self.next_hop.last_cause)
        if damaged := [row for row in spooled if row.damage]:
            gone = self.spooled_range.take(damaged)
            positions = {held.position for held in gone}
            self._end_damaged([row for row in damaged if row.position in positions], gone)

    def forget_all(self, gone: list[QueuedStanza]) -> None:
        """End the custody of these without a word."""
        self._queues.record.counted(self.direction, "dropped", [held.stanza for held in gone])
        self._end(gone)
