"""A lane: the ordered flow of stanzas of one pair, from custody taken to custody passed on (docs/decisions.md#custody, #poison).

Pure: the time comes in as seconds, and every bound is an argument. Positions count the stanzas of a lane for ever. What a
lane holds stands in three parts, each in order and each after the one before: in flight (written to the next hop, not
acknowledged), waiting (in memory), and the rest: a gap of positions that only the spool holds, then what came since.

A lane refuses what it has no room for and says so; what it has accepted leaves it only by `acknowledge`, `expire`,
`remove` or `clear`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain, takewhile

from s2sgw.queue.entries import OVERHEAD, AnyPiece, Batch, HoldTimes, MemoryBudget, QueuedStanza, QueueItem, UpstreamAck
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza

#: What is in flight stays in memory until it is acknowledged: beyond this part of the lane's share, nothing more is written.
FLIGHT = 4


class PairQueue:
    """The stanzas of `pair` in custody, within `share` bytes of a common `budget` of memory."""

    def __init__(self, pair: Pair, budget: MemoryBudget, share: int, holds: HoldTimes, next_position: int = 1) -> None:
        self.pair = pair
        self.bytes = 0
        self.next_position = next_position
        self.in_flight: deque[QueueItem] = deque()
        self._flying = self._flying_bytes = 0
        self.waiting: deque[QueuedStanza] = deque()
        #: positions that only the spool holds: after `gap[0]`, up to `gap[1]`
        self.spooled_range: tuple[int, int] | None = None
        self.gap_count = 0
        #: accepted since there is a gap
        self.recent: deque[QueuedStanza] = deque()
        #: what the spool has not been given yet, oldest first
        self.fresh: deque[QueueItem] = deque()
        self._budget = budget
        self._share = share
        self._holds = holds
        self._earliest: float | None = None

    def __len__(self) -> int:
        """Everything in custody, in memory or not."""
        return self._flying + len(self.waiting) + self.gap_count + len(self.recent)

    def __iter__(self) -> Iterator[QueuedStanza]:
        """What is in memory, in order."""
        flying = (held for piece in self.in_flight for held in piece.each(self._holds))
        return chain(flying, self.waiting, self.recent)

    @property
    def flying(self) -> int:
        """How many were written to the next hop and are not acknowledged."""
        return self._flying

    @property
    def doubtful(self) -> range:
        """The positions in flight, from the first to the last."""
        return range(self.in_flight[0].position, self.in_flight[-1].last + 1) if self.in_flight else range(0)

    @property
    def largest_flying(self) -> int:
        """Bytes of the largest stanza in flight."""
        return max((len(stanza.data) for piece in self.in_flight for stanza in piece.stanzas), default=0)

    @property
    def pending(self) -> bool:
        """Something has yet to be written."""
        return bool(self.waiting or self.gap_count or self.recent)

    @property
    def oldest(self) -> float | None:
        """When the longest-held stanza in memory was accepted."""
        return next((held.accepted_at for held in chain(self.in_flight, self.waiting, self.recent)), None)

    @property
    def crowded(self) -> bool:
        """Past half of its share, or of what all lanes share: whoever fills it should be slowed."""
        return self.bytes * 2 > self._share or (self.bytes > 0 and self._budget.used * 2 > self._budget.limit)

    @property
    def full(self) -> bool:
        """Enough is in flight: what is to follow waits until some of it is acknowledged, in the spool as far as need be."""
        return self._flying_bytes * FLIGHT > self._share

    def rows(self, pieces: Iterable[QueueItem]) -> list[QueuedStanza]:
        """Each stanza of these pieces."""
        return [held for piece in pieces for held in piece.each(self._holds)]

    # --- custody taken ---

    def accept(
        self, stanzas: Sequence[Stanza], now: float, upstream_ack: UpstreamAck | None = None,
    ) -> tuple[list[QueuedStanza], list[Stanza]]:
        """Take custody of `stanzas`, to wait; the ones there is no room for come back second, and are not held."""
        accepted: list[QueuedStanza] = []
        for at, stanza in enumerate(stanzas):
            cost = len(stanza.data) + OVERHEAD
            if self.bytes + cost > self._share or not self._budget.take(cost):
                return accepted, list(stanzas[at:])
            held = QueuedStanza(self.next_position, stanza, now, now + self._holds.of(stanza), upstream_ack)
            self.next_position += 1
            self.bytes += cost
            (self.waiting if self.spooled_range is None else self.recent).append(held)
            self._note_deadline(held)
            self.fresh.append(held)
            accepted.append(held)
        return accepted, []

    def fly(self, stanzas: list[Stanza], now: float, upstream_ack: UpstreamAck | None) -> bool:
        """Take custody of `stanzas`, which are being written at once; False: there is no room, or others go first."""
        batch = Batch(self.next_position, stanzas, now, upstream_ack)
        if self.pending or self.full or self.bytes + batch.cost > self._share or not self._budget.take(batch.cost):
            return False
        self.bytes += batch.cost
        self.next_position += len(stanzas)
        self.in_flight.append(batch)
        self._flying += len(stanzas)
        self._flying_bytes += batch.cost
        self.fresh.append(batch)
        return True

    # --- custody passed on ---

    def write(self, at_most: int, parked: Collection[int] = ()) -> list[QueuedStanza]:
        """The next stanzas to be written, about `at_most` bytes of them, at least one if any waits: they are in flight now.

        Those at the positions `parked` are passed over. It ends before a request that the spool is to mark first.
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
            self._flying_bytes += held.cost
            held.written = True
            written.append(held)
        self.waiting.extendleft(reversed(passed_over))
        self.in_flight.extend(written)
        self._flying += len(written)
        return written

    def acknowledge(self, number: int) -> list[QueueItem]:
        """The next hop has the first `number` of those in flight: their custody ends."""
        taken: list[QueueItem] = []
        while number > 0 and self.in_flight:
            piece = self.in_flight.popleft()
            size = len(piece.stanzas)
            if size > number:
                piece = self._split(piece, number)
                size = number
            number -= size
            self._flying -= size
            self._flying_bytes -= piece.cost
            taken.append(self._release(piece))
        self._forget_gone()
        return taken

    def _split(self, piece: QueueItem, number: int) -> Batch:
        assert isinstance(piece, Batch)
        first, rest = piece.split(number)
        self.in_flight.appendleft(rest)
        self._forget_gone()
        if not piece.spooled:
            self.fresh.appendleft(rest)
        return first

    def _forget_gone(self) -> None:
        """What has left the lane would stay in memory until the window is over."""
        while self.fresh and self.fresh[0].gone:
            self.fresh.popleft()

    def take_back(self) -> list[QueuedStanza]:
        """The next hop is gone: what was in flight waits again, in front; those come back."""
        doubtful: list[QueuedStanza] = []
        apart: list[QueuedStanza] = []
        for piece in self.in_flight:
            doubtful += (parts := piece.take_apart(self._holds))
            if isinstance(piece, Batch) and not piece.spooled:
                apart += parts
        self.fresh.extendleft(reversed(apart))
        self.in_flight.clear()
        self._flying = self._flying_bytes = 0
        self.waiting.extendleft(reversed(doubtful))
        return doubtful

    # --- the spool ---

    def unspooled(self, before: float) -> list[QueueItem]:
        """What was accepted up to `before`, is still here, and is for the spool now, in order."""
        due: list[QueueItem] = []
        while self.fresh and (self.fresh[0].gone or self.fresh[0].accepted_at <= before):
            held = self.fresh.popleft()
            if not held.gone:
                due.append(held)
        return due

    def evict(self, at_most: int) -> list[QueuedStanza]:
        """Let the spool alone hold what it has, from the end on, until memory holds about `at_most` bytes; what left memory."""
        left: list[QueuedStanza] = []
        settled = self._set_apart(at_most)
        while self.spooled_range is not None and self.recent and self.recent[0].spooled:
            left.append(self._release(self.recent.popleft()))
            self.spooled_range = (self.spooled_range[0], left[-1].position)
            self.gap_count += 1
        while settled and self.waiting and self.waiting[-1].spooled and self.bytes > at_most:
            held = self._release(self.waiting.pop())
            self.spooled_range = (held.position - 1, held.position if self.spooled_range is None else self.spooled_range[1])
            self.gap_count += 1
            left.append(held)
        return left

    def _set_apart(self, at_most: int) -> bool:
        """What the spool does not have yet, and keeps the rest of a crowded lane in memory, goes behind the gap that is to come.

        Whether what waits may leave memory: not if it was read from the spool just now, in front of what came since.
        """
        if self.spooled_range is not None or self.bytes <= at_most:
            return not self.recent
        fresh = sum(1 for _ in takewhile(lambda held: not held.spooled, reversed(self.waiting)))
        if fresh < len(self.waiting):
            self.recent.extendleft(self.waiting.pop() for _ in range(fresh))
        return True

    def restore(self, first: int, last: int, count: int) -> None:
        """After a start: the spool holds `count` stanzas at the positions `first` to `last`."""
        self.spooled_range, self.gap_count = (first - 1, last), count
        self.next_position = max(self.next_position, last + 1)

    def fill(self, spooled: Iterable[QueuedStanza], complete: bool) -> None:
        """What was read of the gap waits in memory again; `complete`: there is no more of it."""
        assert self.spooled_range is not None
        last = self.spooled_range[1]
        for held in spooled:
            self.bytes += held.cost
            self._budget.used += held.cost
            self.waiting.append(held)
            self.gap_count -= 1
            self._note_deadline(held)
            self.spooled_range = (held.position, last)
        if complete:
            self.spooled_range, self.gap_count = None, 0
            self.waiting.extend(self.recent)
            self.recent.clear()

    # --- custody ended ---

    def expire(self, now: float) -> list[QueuedStanza]:
        """Give up what has waited too long, wherever in memory it stands; what is in flight is left alone."""
        if self._earliest is None or now < self._earliest:
            return []
        gone = self.remove(lambda held: held.deadline <= now)
        self._earliest = min((held.deadline for held in chain(self.waiting, self.recent)), default=None)
        return gone

    def remove(self, chosen: Callable[[QueuedStanza], bool]) -> list[QueuedStanza]:
        """Give up those of the waiting that are `chosen`; the rest keeps its order."""
        gone = [held for held in chain(self.waiting, self.recent) if chosen(held)]
        if gone:
            lost = {held.position for held in gone}
            self.waiting = deque(held for held in self.waiting if held.position not in lost)
            self.recent = deque(held for held in self.recent if held.position not in lost)
        return [self._release(held) for held in gone]

    def clear(self) -> list[QueuedStanza]:
        """Give up everything that is in memory and not in flight."""
        return self.remove(lambda held: True)

    # --- within ---

    def _note_deadline(self, held: QueuedStanza) -> None:
        if self._earliest is None or held.deadline < self._earliest:
            self._earliest = held.deadline

    def _release(self, held: AnyPiece) -> AnyPiece:
        held.gone = True
        self.bytes -= held.cost
        self._budget.give_back(held.cost)
        return held
