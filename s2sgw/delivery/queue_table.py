"""Who owns which lane: every accepted stanza passes through `DeliveryQueues`, and so does every bounce."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import inf
from operator import attrgetter

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from s2sgw.delivery.holds import OperatorHolds
from s2sgw.delivery.iq_replies import LateReplies
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.restoring import AT_ONCE, StartupRestore
from s2sgw.delivery.spooling import READ_AGAIN
from s2sgw.delivery.transport import TransportTable
from s2sgw.queue.bounce import bounce
from s2sgw.queue.entries import HoldTimes, MemoryBudget, UpstreamAck
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.reporting.record import Direction, EventRecord
from s2sgw.spool.interface import LaneSummary, Spool, Spooled, SpoolError
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

#: A single lane may use this part of the memory of all, and keep that part of it once the spool has it too.
SHARE = 4
RESIDENT = 64
#: Expired stanzas that are taken from the spool at once.
EXPIRED = 500
#: Seconds between two times that it is said that the spool has no room.
SAY = 60.0
#: Turns of the reactor that follow the window, in which is read and heard what the next server has said by then: two for the
#: answer to a ping, and two more where what was written had to wait for another ping to be answered first (R41).
HEARING = 4


class DeliveryQueues:
    """All flows, by pair, within one budget of memory; `spools` says whether the spool is durable and worth its bytes."""

    def __init__(
        self, clock: IReactorTime, record: EventRecord, memory: int, holds: Callable[[Pair], HoldTimes],
        is_local: Callable[[Domain], bool], spool: Spool, window: float = 0.02, spools: bool = True,
        operator_holds: OperatorHolds | None = None, restore: int = AT_ONCE, wall: Callable[[], float] | None = None,
    ) -> None:
        """`clock` tells delays, and no step of the wall clock touches it; `wall` tells the seconds since the epoch, for dates."""
        self.wall = wall or clock.seconds
        self.operator_holds = operator_holds or OperatorHolds()
        self.clock = clock
        self.record = record
        self.budget = MemoryBudget(memory)
        self.spool = spool
        self.spools = spools
        self.resident = memory // RESIDENT
        self.window = window
        self._holds = holds
        self._is_local = is_local
        self._transports: TransportTable
        self._queues: dict[Pair, DeliveryQueue] = {}
        self._next = 1  # behind every position of the lanes that were forgotten: what the spool still owes them meets nothing new
        self.late = LateReplies()
        self._towards: dict[Domain, dict[Pair, DeliveryQueue]] = {}
        self._watched: deque[tuple[float, DeliveryQueue]] = deque()
        self.expiring = False
        self._resting = False
        self._refused: dict[DeliveryQueue, None] = {}
        self._said = -inf  # when it was, that the spool has no room
        self.backlog = StartupRestore(clock, restore)

    def attach(self, transports: TransportTable) -> DeliveryQueues:
        """Take the next hops of all queues from `transports`; return self. To be called before the first queue is made.

        Next hops feed queues (answers, stanzas of the same stream), and queues feed next hops: this call closes that circle.
        """
        self._transports = transports
        return self

    def __iter__(self) -> Iterator[DeliveryQueue]:
        return iter(list(self._queues.values()))

    def queue(self, pair: Pair) -> DeliveryQueue:
        """The flow of `pair`, made at its first use. Whoever asks has made sure that the pair is proven and resolved."""
        queue = self._queues.get(pair)
        if queue is None:
            pair_queue = PairQueue(pair, self.budget, self.budget.limit // SHARE, self._holds(pair), self._next)
            queue = self._queues[pair] = DeliveryQueue(pair_queue, self, self._direction(pair))
            self._towards.setdefault(pair.recipient, {})[pair] = queue
            queue.next_hop = self._transports.next_hop(queue)
            queue.held, queue.parked = self._resting or self.operator_holds.holds(pair), self.operator_holds.positions(pair)
        return queue

    def _direction(self, pair: Pair) -> Direction:
        return "inbound" if self._is_local(pair.recipient) else "outbound"

    def bounce(
        self, pair: Pair, stanzas: Iterable[Stanza], cause: Cause, *, outcome: str | None = None,
        settled: Callable[[], None] = lambda: None, said: str = "",
    ) -> None:
        """End the custody of `stanzas` with a stanza error each, where one is due (R33, R34).

        `outcome`: what they count as. `settled` is called when the errors are in safe hands in their turn. `said`: a word of a
        fixed list that belongs to the cause.
        """
        errors = []
        for stanza in stanzas:
            error = bounce(stanza, cause, said)
            self.record.counted(self._direction(pair), outcome or ("dropped" if error is None else "bounced"), (stanza,))
            if error is not None:
                errors.append(Stanza(stanza.kind, error, stanza.from_, stanza.to, "error", stanza.id))
        if errors:
            self.queue(pair.inverse).accept(errors, None, UpstreamAck(len(errors), settled))
        else:
            settled()

    def refuse(
        self, pair: Pair, stanzas: Sequence[Stanza], cause: Cause, upstream_ack: UpstreamAck | None, *,
        outcome: str | None = None,
    ) -> None:
        """Bounce what is not even taken into custody."""
        settled = (lambda: None) if upstream_ack is None else partial(upstream_ack.settle, len(stanzas))
        self.bounce(pair, stanzas, cause, outcome=outcome, settled=settled)

    def drop_late(self, pair: Pair, requests: Iterable[Stanza]) -> None:
        """These IQs in doubt get an error of ours: a later answer of their own is dropped (R33)."""
        for request in requests:
            self.late.expect(pair.inverse, request)

    def towards(self, domain: Domain) -> list[DeliveryQueue]:
        """The lanes to it."""
        return list(self._towards.get(domain, {}).values())

    def contact(self, peer: Domain, urged: bool = False) -> None:
        """`peer` proved itself on a stream of its own, or the operator urges: the lanes that wait for it try again."""
        for queue in self.towards(peer):
            queue.next_hop.retry_now(urged)
            self.backlog.hurry(queue)

    # --- the spool ---

    def watch(self, queue: DeliveryQueue) -> None:
        """When the window is over, `flow` spools what is still unacknowledged. One timer serves all."""
        if not self.spools or not len(queue.pair_queue):
            return
        if not self._watched:
            self.clock.callLater(self.window, self._window_over)
        self._watched.append((self.clock.seconds(), queue))

    def _window_over(self) -> None:
        now, since = self.clock.seconds(), 0.0
        due: dict[DeliveryQueue, None] = {}
        while self._watched and self._watched[0][0] + self.window <= now:
            since, queue = self._watched.popleft()
            due[queue] = None
        if self._watched:
            self.clock.callLater(self._watched[0][0] + self.window - now, self._window_over)
        self._hear(due, since, HEARING)

    def _hear(self, due: Iterable[DeliveryQueue], before: float, turns: int) -> None:
        """A turn of a busy gateway may outlast the window, and answers lie unread: they are heard before anything is spooled."""
        if turns:
            self.clock.callLater(0, self._hear, due, before, turns - 1)
            return
        for queue in due:
            queue.spool_now(before)

    def spool_failed(self, queue: DeliveryQueue, error: Exception) -> None:
        """What cannot be refused is offered again, a window later, then by the second. It is said by the minute.

        At a stop the lane rests no more: what the disk does not take is better written.
        """
        if queue.overflow.lasts:
            self._refused[queue] = None
        else:
            self.watch(queue)
        self._rest_no_more(queue)
        self._say(Ending(Cause.QUEUE_FULL, str(error)))

    def _say(self, ending: Ending) -> None:
        """Record trouble with the spool, once a minute."""
        if self.clock.seconds() >= self._said + SAY:
            self._said = self.clock.seconds()
            self.record.refused("outbound", "backend", ("", ""), "", ending)

    def way_back(self, queue: DeliveryQueue) -> DeliveryQueue:
        """Where the errors that answer the stanzas of `flow` go."""
        back = self.queue(queue.pair.inverse)
        if not back.next_hop.ready:
            back.next_hop.request_delivery()
        self._rest_no_more(back)
        return back

    def _rest_no_more(self, queue: DeliveryQueue) -> None:
        if self._resting and not self.operator_holds.holds(queue.pair):
            queue.held = False

    def _again(self) -> None:
        """What the spool had no room for is offered to it again."""
        refused, self._refused = self._refused, {}
        for queue in refused:
            if not queue.spooling:
                queue.spool_now()

    def may_yet_go(self, queue: DeliveryQueue) -> bool:
        """The spool had no room for what is here, and the next server, or the sender's, may take it."""
        ways = (queue, self.queue(queue.pair.inverse)) if queue.overflow.lasts and queue.pair_queue.pending else ()
        return any(way.next_hop.state in ("connecting", "ready") for way in ways)

    def restore(self) -> Deferred[int]:
        """After a start: every queue that the spool holds goes on. Fires with their number, once the spool could be read.

        Until then nobody may be let in: a new stanza would get the position of one that the spool holds.
        """
        restored: Deferred[int] = Deferred()

        def listed(summaries: list[LaneSummary] | SpoolError) -> None:
            if isinstance(summaries, SpoolError):
                self._say(Ending(Cause.SPOOL_UNREADABLE, f"{summaries}; until it can be read, nobody is let in"))
                self.clock.callLater(READ_AGAIN, self.spool.queues, listed)
            else:
                self._next = max(self._next, self.spool.next_position)
                restored.callback(self._restored(summaries))

        self.spool.queues(listed)
        return restored

    def _restored(self, summaries: list[LaneSummary]) -> int:
        queues = []
        for summary in sorted(summaries, key=attrgetter("oldest")):
            if summary.count:
                queue = self.queue(summary.pair)
                queue.pair_queue.restore(summary.first, summary.last, summary.count)
                queues.append(queue)
        self.backlog.add(queues)
        return len(queues)

    # --- time ---

    def sweep(self) -> None:
        """Once a second: bounce what expired, and forget the flows that nothing uses."""
        now = self.clock.seconds()
        self._again()
        self.operator_holds.write_again()
        errors: list[Exception] = []
        for queue in self:
            try:
                self._sweep(queue, now)
            except Exception as error:  # the other queues are swept all the same
                errors.append(error)
        if self.spools and self.spool.count and not self.expiring:
            self.expiring = True
            self.spool.expired(now, EXPIRED, self._expired)
        if errors:
            raise ExceptionGroup(f"{len(errors)} queues could not be swept", errors)

    def _sweep(self, queue: DeliveryQueue, now: float) -> None:
        queue.expire(now)
        if queue.idle:
            self._forget(queue.pair)

    def _forget(self, pair: Pair) -> None:
        self._next = max(self._next, self._queues.pop(pair).pair_queue.next_position)
        towards = self._towards[pair.recipient]
        del towards[pair]
        if not towards:
            del self._towards[pair.recipient]
        self.operator_holds.forget(pair)

    def _expired(self, spooled: list[Spooled] | SpoolError) -> None:
        self.expiring = False
        if isinstance(spooled, SpoolError):
            self._say(Ending(Cause.SPOOL_UNREADABLE, str(spooled)))
            return
        by_pair: dict[Pair, list[Spooled]] = {}
        for row in spooled:
            by_pair.setdefault(row.pair, []).append(row)
        for pair, rows in by_pair.items():
            self.queue(pair).expire_spooled(rows)
        for queue in self:
            queue.spooled_range.forget()

    # --- the end ---

    def rest(self) -> None:
        """Nothing more is written, so that what is in flight can come to an end: it is spooled, beyond the bound if need be."""
        self._resting = True
        self.spool.raise_limit(self.budget.limit)
        for queue in self:
            queue.held = True
            queue.relieve()
        self._again()

    def go_on(self, chosen: Callable[[DeliveryQueue], bool]) -> None:
        """The end of the rest for these, as far as the operator does not hold them."""
        for queue in self:
            if chosen(queue) and not self.operator_holds.holds(queue.pair):
                queue.held = False
                queue.drain()

    def leave(self) -> Deferred[None]:
        """Leave to the spool what was not passed on; fires when it has answered. What it does not take is bounced."""
        self.backlog.stop()
        later = [queue for queue in self if queue.spooling]  # what came since goes behind what the spool is asked to take
        for queue in self:
            if not self.spools:
                queue.give_up(Cause.SHUTDOWN)
            elif not queue.spooling:
                queue.spool_now()
        kept: Deferred[None] = Deferred()
        self.spool.queues(lambda _: kept.callback(None))  # it answers in order
        return kept.addCallback(lambda _: self.leave() if later else None)

    def stop(self) -> Deferred[list[None]]:
        """The same, and close the hops and the spool."""
        return self.leave().addCallback(lambda _: self._close())

    def _close(self) -> Deferred[list[None]]:
        self.go_on(lambda queue: bool(queue.pair_queue.fresh))  # no room on the disk: better written to whoever confirms nothing
        closed = [queue.next_hop.stop(Cause.SHUTDOWN) for queue in self]
        for queue in self:
            queue.pair_queue.take_back()
            queue.spool_now()
        spool: Deferred[None] = Deferred()
        self.spool.close(lambda: spool.callback(None))
        return gatherResults([*closed, spool])
