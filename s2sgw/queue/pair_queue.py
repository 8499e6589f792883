"""The content of one delivery queue: the stanzas of one pair in custody, in order (docs/decisions.md#custody, #poison).

This is pure code: the time comes in as seconds, and every bound is an argument. Positions count the stanzas of a queue. There are
three parts, each in order and each after the one before: stanzas in flight (written to the next hop, not acknowledged), stanzas
that wait in memory, and the rest: a range of positions that only the spool has, then the stanzas that arrived since that range
began.

`DeliveryQueue` is the only writer. Stanzas leave the queue only by `acknowledge`, `expire`, `remove` or `remove_up_to`, and all
of them by `abandon`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TypeVar

from s2sgw.queue.entries import AnyItem, Batch, HoldTimes, QueuedStanza, QueueItem, UpstreamAck, by_position
from s2sgw.queue.memory import PeerMemory
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza

#: Stanzas in flight stay in memory until they are acknowledged. One queue may have this part of its peer's allowance in flight.
IN_FLIGHT_PART = 4

#: Stanzas that are removed one by one. For more of them, the waiting stanzas are read from their beginning.
FEW = 8

_Item = TypeVar("_Item", QueuedStanza, QueueItem)


def _line(items: deque[_Item] | tuple[()]) -> deque[_Item]:
    """Return a line that something can be added to. An empty line is a tuple, because an empty deque takes 760 bytes."""
    return items if isinstance(items, deque) else deque()


class PairQueue:
    """The stanzas of `pair` in custody. They count against `memory`. `hold_times` gives how long each may wait.

    A peer may have thousands of queues in which one stanza waits. So an empty line takes no memory.
    """

    __slots__ = (
        "_earliest", "_hold_times", "_in_flight_bytes", "_in_flight_count", "_range_oldest", "arrived_since", "bytes",
        "in_flight", "memory", "next_position", "only_spooled", "pair", "spooled_range", "unsaved", "unspooled", "waiting",
        "wait_bytes",
    )

    def __init__(self, pair: Pair, memory: PeerMemory, hold_times: HoldTimes, next_position: int = 1) -> None:
        self.pair = pair
        self.memory = memory
        self.bytes = 0
        #: bytes of the stanzas in memory that are not on the disk
        self.unsaved = 0
        self.next_position = next_position
        self.in_flight: deque[QueueItem] | tuple[()] = ()
        self._in_flight_count = self._in_flight_bytes = 0
        self.waiting: deque[QueuedStanza] | tuple[()] = ()
        #: positions that only the spool has: after the first number, up to the second; their number; the acceptance of the first
        self.spooled_range: tuple[int, int] | None = None
        self.only_spooled = 0
        self._range_oldest: float | None = None
        #: the stanzas accepted since there is a spooled range
        self.arrived_since: deque[QueuedStanza] | tuple[()] = ()
        #: the stanzas that the spool has not been given yet, oldest first
        self.unspooled: deque[QueueItem] | tuple[()] = ()
        #: the bytes that count for the queue itself, because it waits for its next hop
        self.wait_bytes = 0
        self._hold_times = hold_times
        self._earliest: float | None = None

    def __len__(self) -> int:
        """Return the number of stanzas in custody, in memory or not."""
        return self._in_flight_count + len(self.waiting) + self.only_spooled + len(self.arrived_since)

    def __iter__(self) -> Iterator[QueuedStanza]:
        """Return the stanzas in memory, in order."""
        in_flight = (held for item in self.in_flight for held in item.each(self._hold_times))
        return chain(in_flight, self.waiting, self.arrived_since)

    @property
    def in_flight_count(self) -> int:
        """Return how many stanzas were written to the next hop and are not acknowledged."""
        return self._in_flight_count

    @property
    def in_flight_positions(self) -> range:
        """Return the positions in flight, from the first to the last."""
        return range(self.in_flight[0].position, self.in_flight[-1].last + 1) if self.in_flight else range(0)

    @property
    def in_flight_deadline(self) -> float | None:
        """Return when the first of the stanzas in flight has waited for its hold time."""
        return min((held.deadline for item in self.in_flight for held in item.each(self._hold_times)), default=None)

    @property
    def largest_in_flight(self) -> int:
        """Return the bytes of the largest stanza in flight."""
        return max((len(stanza.data) for item in self.in_flight for stanza in item.stanzas), default=0)

    @property
    def pending(self) -> bool:
        """Whether something must still be written. (The spooled range counts, and what arrives after it.)"""
        return bool(self.waiting) or self.spooled_range is not None

    @property
    def oldest(self) -> float | None:
        """Return when the stanza that waits longest was accepted, in memory or on the disk."""
        first = next((item.accepted_at for item in chain(self.in_flight, self.waiting)), self._range_oldest)
        return first if first is not None else next((held.accepted_at for held in self.arrived_since), None)

    @property
    def crowded(self) -> bool:
        """Whether the queue holds something, and its peer more than half of its allowance of memory."""
        return self.bytes > 0 and self.memory.crowded

    @property
    def enough_in_flight(self) -> bool:
        """Whether so much is in flight that the next stanzas wait for an acknowledgement."""
        in_flight = self._in_flight_bytes
        return in_flight > 0 and in_flight * IN_FLIGHT_PART > self.memory.allowance

    def only_in_memory(self) -> Iterator[QueueItem]:
        """Yield the stanzas that are not on the disk."""
        if self.unsaved:
            yield from (item for item in chain(self.in_flight, self.not_in_flight()) if not item.durable)

    def rows(self, items: Iterable[QueueItem]) -> list[QueuedStanza]:
        """Return each stanza of these items."""
        return [held for item in items for held in item.each(self._hold_times)]

    # --- taking custody ---

    def accept(self, stanzas: Sequence[Stanza], now: float, upstream_ack: UpstreamAck | None = None) -> list[QueuedStanza]:
        """Take custody of `stanzas`, which then wait."""
        accepted: list[QueuedStanza] = []
        if self.spooled_range is None:
            line = self.waiting = _line(self.waiting)
        else:
            line = self.arrived_since = _line(self.arrived_since)
        for stanza in stanzas:
            held = QueuedStanza(self.next_position, stanza, now, now + self._hold_times.for_stanza(stanza), upstream_ack)
            self.next_position += 1
            self._take(held)
            line.append(held)
            self._note_deadline(held)
            accepted.append(held)
        return accepted

    def add_in_flight(self, stanzas: list[Stanza], now: float, upstream_ack: UpstreamAck | None) -> None:
        """Take custody of `stanzas`, which are written at once. Nothing may be pending."""
        batch = Batch(self.next_position, stanzas, now, upstream_ack)
        self.next_position += len(stanzas)
        self._take(batch)
        in_flight = self.in_flight
        if not isinstance(in_flight, deque):
            in_flight = self.in_flight = deque()
        in_flight.append(batch)
        self._in_flight_count += len(stanzas)
        self._in_flight_bytes += batch.cost

    def _take(self, item: QueueItem) -> None:
        cost = item.cost
        self._count(cost)
        self.unsaved += cost
        unspooled = self.unspooled
        if not isinstance(unspooled, deque):
            unspooled = self.unspooled = deque()
        unspooled.append(item)

    def _count(self, number: int) -> None:
        """Count these bytes of memory: for this queue, for its peer, and for all."""
        memory = self.memory
        self.bytes += number
        memory.used += number
        memory.shared.used += number

    def count_wait(self, number: int) -> None:
        """Count these bytes for the queue itself, besides its stanzas (`PeerMemory.queues`). 0: it does not wait any more."""
        if number != self.wait_bytes:
            self.memory.count_queue(number - self.wait_bytes)
            self.wait_bytes = number

    # --- passing custody on ---

    def write(self, at_most: int, parked: Collection[int] = ()) -> list[QueuedStanza]:
        """Move the next waiting stanzas in flight, about `at_most` bytes of them, at least one. Return them.

        Those at the positions `parked` are skipped. A request that the spool must mark first ends it.
        """
        written: list[QueuedStanza] = []
        passed_over: list[QueuedStanza] = []
        size = 0
        while self.waiting and (not written or size < at_most):
            held = self.waiting.popleft()
            if held.position in parked:
                passed_over.append(held)
                continue
            if held.unmarked:
                self.waiting.appendleft(held)
                break
            size += len(held.stanza.data)
            self._in_flight_bytes += held.cost
            held.written = True
            written.append(held)
        if passed_over:
            self.waiting = _line(self.waiting)
            self.waiting.extendleft(reversed(passed_over))
        if written:
            self.in_flight = _line(self.in_flight)
            self.in_flight.extend(written)
        self._in_flight_count += len(written)
        return written

    def acknowledge(self, number: int) -> list[QueueItem]:
        """End the custody of the first `number` stanzas in flight, which the next hop has. Return them."""
        taken: list[QueueItem] = []
        while number > 0 and self.in_flight:
            item = self.in_flight.popleft()
            size = len(item.stanzas)
            if size > number:
                item = self._split(item, number)
                size = number
            number -= size
            self._in_flight_count -= size
            self._in_flight_bytes -= item.cost
            taken.append(self._release(item))
        while self.unspooled and self.unspooled[0].gone:  # as `_forget_gone`
            self.unspooled.popleft()
        return taken

    def _split(self, item: QueueItem, number: int) -> Batch:
        assert isinstance(item, Batch)
        first, rest = item.split(number)
        self.in_flight = _line(self.in_flight)
        self.in_flight.appendleft(rest)
        self._forget_gone()
        if not item.spooled:
            self.unspooled = _line(self.unspooled)
            self.unspooled.appendleft(rest)
        return first

    def _forget_gone(self) -> None:
        """Drop references to stanzas that have left the queue. Otherwise they stay in memory until they are due for the spool."""
        while self.unspooled and self.unspooled[0].gone:
            self.unspooled.popleft()

    def take_back(self) -> list[QueuedStanza]:
        """Put the stanzas in flight back in front, because the next hop is gone. Return them."""
        in_doubt: list[QueuedStanza] = []
        apart: list[QueueItem] = []
        for item in self.in_flight:
            parts = item.take_apart(self._hold_times)
            in_doubt += parts
            if isinstance(item, Batch) and not item.spooled:
                apart += parts
        if apart:
            left = [item for item in self.unspooled if not item.gone]
            self.unspooled = deque(sorted([*apart, *left], key=by_position))
        self.in_flight = ()
        self._in_flight_count = self._in_flight_bytes = 0
        if in_doubt:
            behind = self.waiting[0].position if self.waiting else self.next_position
            self.waiting = _line(self.waiting)
            self.waiting.extendleft(reversed(in_doubt))
            positions = [held.position for held in in_doubt]
            if positions[-1] > behind or positions != sorted(positions):  # something was skipped
                self.waiting = deque(sorted(self.waiting, key=by_position))
        for held in in_doubt:
            self._note_deadline(held)
        return in_doubt

    # --- the spool ---

    def has_unspooled(self, before: float) -> bool:
        """Return whether anything accepted up to `before` must still be given to the spool."""
        self._forget_gone()
        return self.unspooled[0].accepted_at <= before if self.unspooled else False

    def take_unspooled(self, before: float) -> list[QueueItem]:
        """Return the stanzas accepted up to `before` that are still here and must be given to the spool now, in order."""
        due: list[QueueItem] = []
        while self.unspooled and (self.unspooled[0].gone or self.unspooled[0].accepted_at <= before):
            item = self.unspooled.popleft()
            if not item.gone:
                item.spooled = True
                due.append(item)
        if not self.unspooled:
            self.unspooled = ()
        return due

    def give_back_unspooled(self, batch: Sequence[QueueItem]) -> None:
        """Note that the spool did not take `batch`. The stanzas of it that are left must be given again."""
        for item in batch:
            item.spooled = False
        given = [item for item in batch if not item.gone]
        self.unspooled = _line(self.unspooled)
        behind = self.unspooled[0].position if self.unspooled else self.next_position
        self.unspooled.extendleft(reversed(given))
        if given and given[-1].position > behind:  # two batches were given, and none was taken
            self.unspooled = deque(sorted(self.unspooled, key=by_position))

    def mark_durable(self, batch: Iterable[QueueItem]) -> None:
        """Note that the commit with `batch` is done."""
        for item in batch:
            item.durable = True
            if not item.gone:
                self.unsaved -= item.cost

    def evict(self, at_most: int) -> list[QueuedStanza]:
        """Remove from memory what the spool has, from the end on, until memory has about `at_most` bytes. Return what left.

        What was skipped stays as long as something behind it is in flight: a range would take in what is in flight.
        """
        left: list[QueuedStanza] = []
        may_leave = self._set_apart(at_most)
        while self.spooled_range is not None and self.arrived_since and self.arrived_since[0].durable:
            left.append(self._release(self.arrived_since.popleft()))
            self.spooled_range = (self.spooled_range[0], left[-1].position)
            self.only_spooled += 1
        in_flight = self._last_in_flight if may_leave and self.waiting and self.bytes > at_most else 0
        while may_leave and self.waiting and self.waiting[-1].durable and self.bytes > at_most:
            if self.waiting[-1].position < in_flight:
                break
            held = self._release(self.waiting.pop())
            self.spooled_range = (held.position - 1, held.position if self.spooled_range is None else self.spooled_range[1])
            self.only_spooled += 1
            self._range_oldest = held.accepted_at
            left.append(held)
        self.waiting, self.arrived_since = self.waiting or (), self.arrived_since or ()
        return left

    @property
    def _last_in_flight(self) -> int:
        """Return the last position in flight. A stanza that was skipped is written after others that are behind it."""
        return max((item.last for item in self.in_flight), default=0)

    def _set_apart(self, at_most: int) -> bool:
        """Move the tail that the spool does not have yet behind the future range: it would block everything in front of it.

        Return whether `waiting` may be evicted. It may not if it was just read back in front of `arrived_since`, unless all must
        go.
        """
        if self.spooled_range is not None or self.bytes <= at_most:
            return at_most == 0 or not self.arrived_since
        tail = next((number for number, held in enumerate(reversed(self.waiting)) if held.durable), len(self.waiting))
        waiting = self.waiting
        if waiting and tail < len(waiting) and waiting[-1 - tail].position > self._last_in_flight:
            self.arrived_since = _line(self.arrived_since)
            self.arrived_since.extendleft(waiting.pop() for _ in range(tail))
        return True

    def restore(self, first: int, last: int, count: int, oldest: float) -> None:
        """Add what the spool has of this queue from an earlier run: `count` stanzas at the positions `first` to `last`."""
        assert not len(self), "a queue that holds stanzas is not restored"
        self.spooled_range, self.only_spooled, self._range_oldest = (first - 1, last), count, oldest
        self.next_position = max(self.next_position, last + 1)

    def fill(self, spooled: Iterable[QueuedStanza], complete: bool) -> None:
        """Put stanzas that were read from the spooled range back in memory. `complete`: the range has no more."""
        assert self.spooled_range is not None
        last = self.spooled_range[1]
        waiting = self.waiting = _line(self.waiting)
        for held in spooled:
            self._count(held.cost)
            waiting.append(held)
            self.only_spooled -= 1
            self._note_deadline(held)
            self.spooled_range, self._range_oldest = (held.position, last), held.accepted_at
        if complete:
            self.spooled_range, self.only_spooled, self._range_oldest = None, 0, None
            waiting.extend(self.arrived_since)
            self.arrived_since = ()

    def skip_to(self, position: int) -> None:
        """Note that no stanza of the spooled range up to `position` is in custody any more."""
        assert self.spooled_range is not None
        self.spooled_range = (position, self.spooled_range[1])

    # --- ending custody ---

    def has_expired(self, now: float) -> bool:
        """Return whether a stanza in memory may have waited for its hold time."""
        return self._earliest is not None and now >= self._earliest

    def expire(self, now: float, at_most: int) -> list[QueuedStanza]:
        """Remove and return the first `at_most` stanzas in memory that have waited for their hold time.

        Stanzas in flight stay.
        """
        if not at_most or not self.has_expired(now):
            return []
        gone = self._remove(list(islice((held for held in self.not_in_flight() if held.deadline <= now), at_most)))
        first = next(self.not_in_flight(), None)
        if first is None or first.deadline > now:  # otherwise more has expired, and this step need not look at all
            self._earliest = min((held.deadline for held in self.not_in_flight()), default=None)
        return gone

    def remove(self, positions: Collection[int]) -> list[QueuedStanza]:
        """Remove and return the waiting stanzas in memory at `positions`. The order of the others stays."""
        if len(positions) <= FEW:
            return [held for position in sorted(positions) if (held := self._take_out(position)) is not None]
        return self._remove(list(islice((held for held in self.not_in_flight() if held.position in positions), len(positions))))

    def remove_up_to(self, position: int, at_most: int | None = None, spared: Collection[int] = ()) -> list[QueuedStanza]:
        """Remove and return the first `at_most` waiting stanzas in memory up to `position`, but those at `spared`."""
        held_now = (held for held in self.not_in_flight() if held.position <= position and held.position not in spared)
        return self._remove(list(islice(held_now, at_most)))

    def put_back(self, removed: Iterable[QueuedStanza]) -> None:
        """Put stanzas that `remove` returned back in their places: they could not be bounced."""
        for held in removed:
            held.gone = False
            self._count(held.cost)
            self.unsaved += 0 if held.durable else held.cost
            self._note_deadline(held)
            if self.spooled_range is None or held.position <= self.spooled_range[0]:
                line = self.waiting = _line(self.waiting)
            else:
                line = self.arrived_since = _line(self.arrived_since)
            insort(line, held, key=by_position)
            if not held.spooled and held not in self.unspooled:
                self.unspooled = _line(self.unspooled)
                insort(self.unspooled, held, key=by_position)

    def abandon(self) -> None:
        """Give up everything, because another node has the queue. No receipt is settled, now or later."""
        for item in chain(self.in_flight, self.not_in_flight()):
            item.gone = True
            if item.upstream_ack is not None:
                item.upstream_ack.abandon()
        self._count(-self.bytes)
        self.unsaved = self._in_flight_count = self._in_flight_bytes = self.only_spooled = 0
        self.spooled_range = self._range_oldest = self._earliest = None
        self.in_flight = self.waiting = self.arrived_since = self.unspooled = ()

    def not_in_flight(self) -> Iterator[QueuedStanza]:
        """Return the stanzas in memory that are not in flight, in order."""
        return chain(self.waiting, self.arrived_since)

    def _take_out(self, position: int) -> QueuedStanza | None:
        """Remove and return the waiting stanza at `position`, if it is in memory. The others are not looked at."""
        for line in (self.waiting, self.arrived_since):
            at = bisect_left(line, position, key=by_position)
            if isinstance(line, deque) and at < len(line) and line[at].position == position:
                held = line[at]
                del line[at]
                return self._release(held)
        return None

    def _remove(self, gone: list[QueuedStanza]) -> list[QueuedStanza]:
        positions = {held.position for held in gone}
        for part in (self.waiting, self.arrived_since):  # a step takes the first ones: the rest is not looked at
            while part and part[0].position in positions:
                positions.discard(part.popleft().position)
        if positions:
            self.waiting = deque(held for held in self.waiting if held.position not in positions)
            self.arrived_since = deque(held for held in self.arrived_since if held.position not in positions)
        return [self._release(held) for held in gone]

    # --- internal ---

    def _note_deadline(self, held: QueuedStanza) -> None:
        if self._earliest is None or held.deadline < self._earliest:
            self._earliest = held.deadline

    def _release(self, item: AnyItem) -> AnyItem:
        item.gone = True
        cost = item.cost
        self._count(-cost)
        if not item.durable:
            self.unsaved -= cost
        return item
