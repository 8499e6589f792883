"""The parts between a delivery queue and the spool: the window before the disk, the range that only the spool has, the marks of
requests, and the stanzas that the spool has no room for.

The spool answers later, with its contents at the time of the call. Meanwhile stanzas may have left memory, or ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import islice
from math import inf
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from s2sgw.queue.bounce import BOUNCED_AT_ONCE, may_bounce
from s2sgw.queue.entries import NO_POSITIONS, QueuedStanza, QueueItem
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.reporting.record import Direction, EventRecord, Leg
from s2sgw.spool.interface import Spool, Spooled, SpoolError
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.timer import cancel

log = Logger()

#: Seconds until a failed read is tried again: the first time, and at most.
READ_AGAIN, READ_AGAIN_AT_MOST = 1.0, 30.0
#: Seconds between two records of trouble with the spool, and between two of the full share of one peer.
TROUBLE_SECONDS = 60.0
#: Turns of the reactor after the window, in which acknowledgements that have arrived are read: two for the reply to a ping, and
#: two more if a ping had to wait for the reply to another (R41).
ACK_TURNS = 4
#: The number of waiting stanzas that are searched for requests to mark in one call.
MARK_AHEAD = 1000
#: Seconds for the spool to mark requests. Stanzas behind them wait so long.
MARK_SECONDS = 2.0
_SLOW = Ending(Cause.SPOOL_SLOW)


class SpooledQueue(Protocol):
    """The interface of a delivery queue that gives stanzas to the spool."""

    pair_queue: PairQueue
    forgotten: bool
    direction: Direction

    @property
    def peer(self) -> Domain: ...

    @property
    def overflow(self) -> SpoolOverflow: ...

    @property
    def spooling(self) -> bool:
        """Whether the spool has an unanswered call."""

    def spool_now(self, before: float = inf) -> None:
        """Give the stanzas accepted up to `before` to the spool."""


def _waits_for_spool(since: float, queue: SpooledQueue) -> bool:
    """Return whether `queue` holds stanzas accepted up to `since` that the spool was not given, or some that it does not take."""
    return queue.overflow.active or (bool(queue.pair_queue.unspooled) and queue.pair_queue.has_unspooled(since))


class SpoolWindow:
    """Spools the stanzas of each queue that were not acknowledged within `seconds`. One timer serves all queues."""

    def __init__(self, clock: IReactorTime, record: EventRecord, seconds: float, spools: bool) -> None:
        self._clock = clock
        self._record = record
        self._seconds = seconds
        self._spools = spools
        self._watched: deque[tuple[float, SpooledQueue]] = deque()
        self._rejected: dict[SpooledQueue, None] = {}
        self._recorded_at = -inf
        #: a registered domain whose share is full -> when that was recorded, the first before the others
        self._shares_recorded: dict[str, float] = {}
        #: whether answers of the spool that come from now on change nothing: the gateway has stopped, and its loss is logged
        self.over = False

    def watch(self, queue: SpooledQueue) -> None:
        """Note that `queue` accepted stanzas. If they are unacknowledged at the end of the window, they go to the spool."""
        if not self._spools:
            return
        if not self._watched:
            self._clock.callLater(self._seconds, self._window_over)
        self._watched.append((self._clock.seconds(), queue))

    def _window_over(self) -> None:
        now, since = self._clock.seconds(), 0.0
        due: dict[SpooledQueue, None] = {}
        while self._watched and self._watched[0][0] + self._seconds <= now:
            since, queue = self._watched.popleft()
            due[queue] = None
        while self._watched and not _waits_for_spool(*self._watched[0]):
            self._watched.popleft()  # acknowledged already: no timer is needed for it
        if self._watched:
            self._clock.callLater(self._watched[0][0] + self._seconds - now, self._window_over)
        late = []
        for queue in due:
            if not _waits_for_spool(since, queue):
                continue  # everything was acknowledged in time
            if queue.pair_queue.in_flight and queue.pair_queue.has_unspooled(since):
                late.append(queue)
            elif not queue.forgotten:
                self._spool(queue, since)  # nothing is in flight, so no acknowledgement can be on its way
        if late:
            self._read_acks_first(late, since, ACK_TURNS)

    def _read_acks_first(self, due: Iterable[SpooledQueue], before: float, turns: int) -> None:
        """Read waiting acknowledgements before anything is spooled: a turn of a busy gateway may be longer than the window."""
        if turns:
            self._clock.callLater(0, self._read_acks_first, due, before, turns - 1)
            return
        for queue in due:
            self._spool(queue, before)

    def _spool(self, queue: SpooledQueue, before: float = inf) -> None:
        """Give stanzas of one queue to the spool. If that fails, the other queues still have theirs spooled."""
        try:
            queue.spool_now(before)
        except Exception:
            log.failure("the stanzas of a queue could not be given to the spool")
            self._rejected[queue] = None

    def rejected(self, queue: SpooledQueue, error: SpoolError, again: bool) -> None:
        """Note a rejection by the spool. It is offered again a window later, or (`again`) with the next `offer_again`."""
        if again:
            self._rejected[queue] = None
        elif len(queue.pair_queue):
            self.watch(queue)
        ending = Ending(Cause.QUEUE_FULL, str(error))
        if getattr(error, "bound", "") == "share":
            self._record_share(queue, ending)
        else:
            self.trouble(ending)

    def _record_share(self, queue: SpooledQueue, ending: Ending) -> None:
        """Record that the share of a peer is full, with its name, once a minute for its registered domain."""
        recorded, now = self._shares_recorded, self._clock.seconds()
        while recorded and now >= next(iter(recorded.values())) + TROUBLE_SECONDS:
            del recorded[next(iter(recorded))]
        owner = registered_domain(queue.peer.ascii)
        if owner not in recorded:
            recorded[owner] = now
            sender, recipient = queue.pair_queue.pair
            local = recipient if queue.direction == "inbound" else sender
            leg: Leg = "backend" if queue.direction == "inbound" else "federation"
            self._record.refused(queue.direction, leg, (str(queue.peer), str(local)), "", ending)

    def offer_again(self) -> None:
        """Give the spool again the stanzas that it did not take. Call this once a second."""
        rejected, self._rejected = self._rejected, {}
        for queue in rejected:
            if not (queue.spooling or queue.forgotten):
                self._spool(queue)

    def trouble(self, ending: Ending) -> None:
        """Record trouble with the spool, once a minute."""
        if self._clock.seconds() >= self._recorded_at + TROUBLE_SECONDS:
            self._recorded_at = self._clock.seconds()
            self._record.refused("outbound", "backend", ("", ""), "", ending)


class RangeUser(Protocol):
    """The interface of the delivery queue that has the range."""

    def back_in_memory(self, held: list[QueuedStanza], damaged: list[Spooled]) -> None:
        """Take stanzas that were read, and wait in memory again. `damaged` rows were altered on the disk."""

    def range_read(self) -> None:
        """Note that the spool has answered."""


class ExpiryQuestion:
    """Whether the spool has not answered yet which stanzas have expired."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = False


class SpooledRange:
    """The positions of a delivery queue that only the spool has. (Its tables are dicts, because an empty set takes more memory.)

    `expiry_question`: its answer may name positions of any queue.
    """

    __slots__ = (
        "_clock", "_expiry_question", "_leaving", "_looks", "_over", "_pair_queue", "_read_again", "_spool", "_user", "ended",
        "reading", "unreadable",
    )

    def __init__(
        self, pair_queue: PairQueue, spool: Spool, clock: IReactorTime, expiry_question: ExpiryQuestion, user: RangeUser,
    ) -> None:
        self._pair_queue = pair_queue
        self._spool = spool
        self._clock = clock
        self._expiry_question = expiry_question
        self._user = user
        #: whether an answer of the spool, or the next try, is awaited
        self.reading = False
        #: why the spool could not be read last, or "": then no stanza of the range is given up
        self.unreadable = ""
        self._read_again = READ_AGAIN
        self._looks = 0
        #: the queue was forgotten: answers of the spool that come later do nothing
        self._over = False
        #: positions whose custody ended during a call of the spool: its answer may still name them
        self.ended: dict[int, None] = {}
        #: positions that have left the queue, and must still be removed from the spool
        self._leaving: dict[int, None] = {}

    def dispose(self) -> None:
        """Drop the reference to the queue, which was forgotten. An answer of the spool that comes later does nothing."""
        self._over = True
        del self._user

    def read_on(self, at_most: int) -> None:
        """Read the next stanzas, about `at_most` bytes."""
        if not self.reading and self._pair_queue.spooled_range is not None:
            self.reading = True
            after, up_to = self._pair_queue.spooled_range
            self._spool.read(self._pair_queue.pair, after, at_most, partial(self._read, after, up_to, at_most))

    def _read(self, after: int, up_to: int, at_most: int, spooled: list[Spooled] | SpoolError) -> None:
        """Take the stanzas after `after` in the spool's answer.

        The answer is ignored if the range now begins elsewhere, because more was evicted. If the range has grown behind `up_to`,
        the answer covers only a part of it.
        """
        if self._over:
            return
        if isinstance(spooled, SpoolError):
            self._failed(str(spooled), at_most)
            return
        self.reading, self.unreadable, self._read_again = False, "", READ_AGAIN
        spooled_range = self._pair_queue.spooled_range
        if spooled_range is not None and spooled_range[0] == after:
            rows = [row for row in spooled if row.position <= spooled_range[1]]
            left = [row for row in rows if not self._has_ended(row.position)]
            held = [_held(row) for row in left]
            self._pair_queue.fill(held, complete=spooled_range[1] == up_to and (not rows or rows[-1].position >= up_to))
            if rows and not left and self._pair_queue.spooled_range is not None:
                self._pair_queue.skip_to(rows[-1].position)
            self._user.back_in_memory(held, [row for row in left if row.damage])
        self.forget()
        self._user.range_read()

    def _failed(self, why: str, at_most: int) -> None:
        """Note that the spool could not be read. Its contents stay there, and are read later."""
        self.unreadable = why
        wait, self._read_again = self._read_again, min(2 * self._read_again, READ_AGAIN_AT_MOST)
        self._clock.callLater(wait, self._ask_again, at_most)

    def _ask_again(self, at_most: int) -> None:
        self.reading = False
        if not self._over:
            self.read_on(at_most)

    def look(self, position: int, done: Callable[[list[QueuedStanza]], None]) -> None:
        """Take the stanza at `position` out of the range, as `take` does. `done` is called when the spool can be read.

        It is called with nothing if the queue was forgotten meanwhile.
        """
        def answered(rows: list[Spooled] | SpoolError) -> None:
            if self._over:
                done([])
                return
            if isinstance(rows, SpoolError):
                self._clock.callLater(READ_AGAIN, ask)
                return
            self._looks -= 1
            done(self.take([row for row in rows if row.position == position]))
            self.forget()

        def ask() -> None:
            self._spool.read(self._pair_queue.pair, position - 1, 1, answered)

        self._looks += 1
        ask()

    def take(self, spooled: Sequence[Spooled]) -> list[QueuedStanza]:
        """Take these positions out of the range. Return the rows that only the spool has: they leave the queue."""
        spooled_range = self._pair_queue.spooled_range
        within = range(spooled_range[0] + 1, spooled_range[1] + 1) if spooled_range is not None else ()
        alone = [row for row in spooled if row.position in within and not self._has_ended(row.position)]
        self._pair_queue.only_spooled -= len(alone)
        return [_held(row) for row in alone]

    def _has_ended(self, position: int) -> bool:
        return position in self.ended or position in self._leaving

    @property
    def leaving(self) -> bool:
        """Whether stanzas have left the queue, and must still be removed from the spool."""
        return bool(self._leaving)

    def leave(self, positions: Iterable[int]) -> None:
        """Note stanzas that have left the queue, and must still be removed from the spool."""
        self._leaving.update(dict.fromkeys(positions))

    def struck_off(self, positions: Iterable[int]) -> None:
        """Note that these were removed. An answer under way may still name them."""
        for position in positions:
            self._leaving.pop(position, None)
            self.ended[position] = None
        self.forget()

    def forget(self) -> None:
        """Forget the ended positions, unless an answer is still to come."""
        if not (self.reading or self._looks or self._expiry_question.open):
            self.ended.clear()


def _held(row: Spooled) -> QueuedStanza:
    return QueuedStanza(row.position, row.stanza, row.accepted_at, row.deadline, None, True, True, row.written)


class MarkingQueue(Protocol):
    """The interface of the delivery queue whose requests are marked."""

    parked: frozenset[int]
    """The positions that an operator holds."""

    def blocked_by(self) -> str | None:
        """Return why no waiting stanza is written now."""

    def next_hop_ready(self) -> None:
        """Go on writing."""

    def not_marked(self, gone: list[QueuedStanza], why: Ending) -> None:
        """Give up requests that cannot be marked. They leave the queue."""


class RequestMarks:
    """Marks requests in the spool before they are written: an IQ is never sent twice, even after a crash (R33).

    Without the mark on disk before the write, a `kill -9` in between would cause a second copy. If the spool does not answer in
    time, the requests are given up, and those behind them too until it answers, so that other stanzas do not wait for them. While
    nothing is written for another reason, such as a hold or a stop, they are kept.
    """

    __slots__ = ("_calls", "_clock", "_over", "_pair_queue", "_queue", "_spool", "_timer")

    def __init__(self, pair_queue: PairQueue, spool: Spool, clock: IReactorTime, queue: MarkingQueue) -> None:
        self._pair_queue = pair_queue
        self._spool = spool
        self._clock = clock
        self._queue = queue
        #: the calls of the spool that are not answered
        self._calls = 0
        #: the end of the time for an answer, or the next step that gives requests up
        self._timer: IDelayedCall | None = None
        self._over = False

    def dispose(self) -> None:
        """End: the queue is forgotten."""
        self._over = True
        cancel(self._timer)
        self._timer = None
        del self._queue

    def make(self, parked: Collection[int]) -> None:
        """Mark the request in front of the queue, and those soon after it."""
        if self._timer is not None:
            return
        near = islice(self._pair_queue.waiting, MARK_AHEAD)
        requests = [held for held in near if held.unmarked and held.position not in parked]
        if not requests:
            return
        if self._calls:
            self._timer = self._clock.callLater(0, self._end, requests, _SLOW)
            return
        self._calls += 1
        self._timer = self._clock.callLater(MARK_SECONDS, self._end, requests, _SLOW)
        positions = [held.position for held in requests]
        self._spool.mark_written(self._pair_queue.pair, positions, partial(self._made, requests))

    def _made(self, requests: list[QueuedStanza], error: SpoolError | None) -> None:
        self._calls -= 1
        if self._over:
            return
        cancel(self._timer)
        self._timer = None
        if error is not None:
            self._end(requests, Ending(Cause.QUEUE_FULL, str(error)))
            return
        for held in requests:
            held.written = True
        self._queue.next_hop_ready()

    def _end(self, requests: list[QueuedStanza], why: Ending) -> None:
        """Give up requests, in steps, and go on: the spool has not answered in time, or has no room."""
        rest = requests[BOUNCED_AT_ONCE:]
        self._timer = self._clock.callLater(0, self._end, rest, why) if rest else None
        self._give_up(requests[:BOUNCED_AT_ONCE], why)
        self._queue.next_hop_ready()

    def _give_up(self, requests: list[QueuedStanza], why: Ending) -> None:
        """Give up the requests that are still here, and that would be written now if they were marked."""
        if self._queue.blocked_by() is not None:
            return
        positions = {held.position for held in requests} - self._queue.parked
        if gone := self._pair_queue.remove(positions):
            self._queue.not_marked(gone, why)


class WayOut(Protocol):
    """The interface of the next hop of a queue that the spool has no room for."""

    @property
    def ready(self) -> bool: ...

    def request_delivery(self) -> None: ...


class OverflowingQueue(Protocol):
    """The interface of the delivery queue that the spool has no room for."""

    pair_queue: PairQueue
    held: bool

    @property
    def next_hop(self) -> WayOut: ...

    def next_hop_ready(self) -> None: ...

    def blocked_by(self) -> str | None:
        """Return why no waiting stanza is written now."""

    def spool_again(self) -> None:
        """Give the spool again the stanzas that are due."""

    def relieve(self) -> None:
        """Resume the paused sources, unless there is still a reason to wait."""

    def reject(self, gone: list[QueuedStanza], told: Callable[[], None]) -> None:
        """Bounce stanzas for which there is no room. `told` is called when their receipts are settled."""

    @property
    def errors_pass(self) -> bool:
        """Return whether an error to the sender is written at once."""

    def soon(self, call: Callable[[], None]) -> None:
        """Make `call` in one of the next turns of the reactor."""


class SpoolOverflow:
    """The stanzas of a queue that the spool rejected because it, the peer's share of it, or the disk is full, or fails.

    Each is passed on after all, or bounced with resource-constraint as soon as the error can be written to the sender's server.
    Until then it stays in memory, its source is paused, and it is offered to the spool again every second.

    Many stanzas are bounced in steps. What is still to be bounced is in the queue, so its memory is counted, and it may be passed
    on meanwhile.
    """

    __slots__ = ("_bounces", "_bouncing", "_queue", "_step_is_due", "active", "bound", "silent", "unacked_bounces")

    def __init__(self, queue: OverflowingQueue) -> None:
        self._queue = queue
        #: whether the queue still holds stanzas that the spool rejected
        self.active = False
        #: the bound in the spool's last answer: "spool", "share", "disk", or "" for an error
        self.bound = ""
        #: the gateway stops, and the next hop has acknowledged nothing for a while: what it cannot be sent at once is bounced,
        #: unless its sender's server keeps it
        self.silent = False
        #: bounces whose upstream acknowledgement is outstanding, and their number. While there are any, nothing else of the queue
        #: is written: a stanza that its sender resends after a crash must not be overtaken (R35)
        self._bounces: dict[object, None] = {}
        self.unacked_bounces = 0
        #: the positions that the spool rejected and that are still to be bounced
        self._bouncing: set[int] | frozenset[int] = NO_POSITIONS
        self._step_is_due = False

    def dispose(self) -> None:
        """Drop the reference to the queue, which is forgotten. What the spool rejected is nothing to this queue any more."""
        self._bouncing, self._bounces = NO_POSITIONS, {}
        self.active, self.unacked_bounces = False, 0
        del self._queue

    @property
    def bouncing(self) -> bool:
        """Some of what the spool rejected is bounced in a later step."""
        return bool(self._bouncing)

    @property
    def without_disk(self) -> bool:
        """Whether the disk is full or fails. A limit of the configuration does not count: a stop exceeds it."""
        return self.active and self.bound in ("disk", "")

    @property
    def blocked(self) -> bool:
        """Whether neither the next server, nor the disk, nor the sender's server takes new stanzas."""
        if self.unacked_bounces or not self.active or self._queue.next_hop.ready:
            return self.unacked_bounces > 0
        return self._queue.pair_queue.crowded or not self._queue.errors_pass

    def begin(self, batch: Sequence[QueueItem], error: SpoolError) -> None:
        """Handle a batch that the spool rejected. Stanzas in flight may still arrive. Waiting ones are passed on, or bounced."""
        queue = self._queue
        self.bound = getattr(error, "bound", "")
        try:
            if self._may_be_passed_on:
                queue.next_hop_ready()
            elif queue.errors_pass:
                given = {item.position for item in batch}
                waiting = [held for held in queue.pair_queue.not_in_flight() if not (self.silent and held.kept_upstream)]
                due = {held.position for held in waiting if held.position in given and may_bounce(held.stanza)}
                self._bouncing = due | self._bouncing
                self._bounce_some()
        finally:
            self.active = not all(item.gone for each in batch for item in each.parts_now())
        if self.active and not queue.held:
            queue.next_hop.request_delivery()

    @property
    def _may_be_passed_on(self) -> bool:
        """Whether the next hop may yet take what waits."""
        queue = self._queue
        if not queue.next_hop.ready or queue.held:
            return False
        return not (self.silent and queue.blocked_by() in ("enough-in-flight", "one-at-a-time"))

    def _bounce_some(self) -> None:
        """Bounce the first that are to be bounced. The rest follows in a later step."""
        waiting = (held.position for held in self._queue.pair_queue.not_in_flight())
        bounced = set(islice((position for position in waiting if position in self._bouncing), BOUNCED_AT_ONCE))
        self._bouncing = self._bouncing if len(bounced) == BOUNCED_AT_ONCE else NO_POSITIONS  # the others have left
        self._bouncing -= bounced
        if self._bouncing and not self._step_is_due:
            self._step_is_due = True
            self._queue.soon(self._next_step)
        self._reject(self._queue.pair_queue.remove(bounced))

    def _next_step(self) -> None:
        """Pass on what is left, if that is possible by now, or bounce more of it."""
        self._step_is_due = False
        if not self._bouncing:
            return  # the queue may be forgotten
        queue = self._queue
        if queue.errors_pass and not self._may_be_passed_on:
            self._bounce_some()
        else:
            self._bouncing = NO_POSITIONS
            queue.next_hop_ready()
        if not self._bouncing:
            queue.spool_again()

    def _reject(self, gone: list[QueuedStanza]) -> None:
        """Bounce stanzas that have left the queue. If that fails, they wait again."""
        bounce = object()
        if any(held.upstream_ack is not None for held in gone):
            self._bounces[bounce] = None
            self.unacked_bounces += 1
        try:
            self._queue.reject(gone, partial(self._told, bounce))
        except Exception:
            self._is_told(bounce)
            self._queue.pair_queue.put_back(gone)
            raise

    def _told(self, bounce: object) -> None:
        if self._is_told(bounce):
            self._queue.next_hop_ready()
            self._queue.spool_again()

    def _is_told(self, bounce: object) -> bool:
        """Note that a bounce is not awaited any more. Return whether it was."""
        if bounce not in self._bounces:
            return False
        del self._bounces[bounce]
        self.unacked_bounces -= 1
        return True

    def end(self) -> None:
        """Note that the queue holds no rejected stanzas any more. No more of them are bounced."""
        self._bouncing = NO_POSITIONS
        if self.active:
            self.active, self.bound = False, ""
            self._queue.relieve()

    def stored(self) -> None:
        """Note that the spool has taken what it was given."""
        self.end()
        self.bound = ""
