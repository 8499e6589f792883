"""The stanzas of a delivery queue that only the spool holds: they are read as memory empties, and struck off as they end there.

The spool answers late, and of the time when it was asked: meanwhile more may have left memory, or come to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from s2sgw.queue.bounce import may_bounce
from s2sgw.queue.entries import QueuedStanza, QueueItem, settle
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.spool.interface import Spool, Spooled, SpoolError
from s2sgw.xmpp.ending import Cause

if TYPE_CHECKING:
    from s2sgw.delivery.queue import DeliveryQueue
    from s2sgw.delivery.queue_table import DeliveryQueues

#: Seconds until a read that failed is tried again: the first time, and at most.
READ_AGAIN, READ_AGAIN_AT_MOST = 1.0, 30.0


class SpooledRange:
    """The range of positions of a delivery queue that only the spool holds.

    `filled` is called with what has come back to memory, and the positions of those that were altered on the disk. `over` is
    called once the spool has answered.
    """

    __slots__ = ("_ended", "_filled", "_looks", "_over", "_pair_queue", "_queues", "_read_again", "reading", "unreadable")

    def __init__(
        self, pair_queue: PairQueue, queues: DeliveryQueues, filled: Callable[[list[QueuedStanza], list[Spooled]], None],
        over: Callable[[], None],
    ) -> None:
        self._pair_queue = pair_queue
        self._queues = queues
        self._filled = filled
        self._over = over
        #: the spool was asked, and its answer is awaited, or the next try
        self.reading = False
        #: why the spool could not be read when last asked, or "": nothing of the range is given up for it
        self.unreadable = ""
        self._read_again = READ_AGAIN
        self._looks = 0
        #: positions whose custody ended while the spool was being asked, so that its answer may still name them
        self._ended: set[int] = set()

    def read_on(self, at_most: int) -> None:
        """Read the next stanzas, about `at_most` bytes."""
        if not self.reading and self._pair_queue.spooled_range is not None:
            self.reading = True
            after, up_to = self._pair_queue.spooled_range
            self._queues.spool.read(self._pair_queue.pair, after, at_most, partial(self._read, after, up_to, at_most))

    def _read(self, after: int, up_to: int, at_most: int, spooled: list[Spooled] | SpoolError) -> None:
        """Take the stanzas behind `after` that the spool answered with.

        The answer is ignored where the range begins elsewhere by now, because more was evicted. Where the range has grown behind
        `up_to`, the answer does not speak of all of it.
        """
        if isinstance(spooled, SpoolError):
            self._failed(str(spooled), at_most)
            return
        self.reading, self.unreadable, self._read_again = False, "", READ_AGAIN
        spooled_range = self._pair_queue.spooled_range
        if spooled_range is not None and spooled_range[0] == after:
            rows = [row for row in spooled if row.position <= spooled_range[1]]
            rows_left = [row for row in rows if row.position not in self._ended]
            held = [_held(row) for row in rows_left]
            self._pair_queue.fill(held, complete=spooled_range[1] == up_to and (not rows or rows[-1].position >= up_to))
            self._filled(held, [row for row in rows_left if row.damage])
        self.forget()
        self._over()

    def _failed(self, why: str, at_most: int) -> None:
        """The spool could not be read. What it holds stays, and it is asked again after a while."""
        self.unreadable = why
        wait, self._read_again = self._read_again, min(2 * self._read_again, READ_AGAIN_AT_MOST)
        self._queues.clock.callLater(wait, self._ask_again, at_most)

    def _ask_again(self, at_most: int) -> None:
        self.reading = False
        self.read_on(at_most)

    def look(self, after: int, done: Callable[[list[Spooled]], None]) -> None:
        """Read the stanza behind this position, at least. Nothing is done where the spool cannot be read."""
        def answered(rows: list[Spooled] | SpoolError) -> None:
            if not isinstance(rows, SpoolError):
                done(rows)
            self._looks -= 1
            self.forget()
        self._looks += 1
        self._queues.spool.read(self._pair_queue.pair, after, 1, answered)

    def take(self, spooled: Sequence[Spooled]) -> list[QueuedStanza]:
        """Return those of the rows that only the spool holds; they leave the queue."""
        spooled_range = self._pair_queue.spooled_range
        within = range(spooled_range[0] + 1, spooled_range[1] + 1) if spooled_range is not None else ()
        alone = [row for row in spooled if row.position in within and row.position not in self._ended]
        self._pair_queue.gap_count -= len(alone)
        return [_held(row) for row in alone]

    def ended(self, positions: Sequence[int]) -> None:
        """Note that the custody of these, which the spool had, is over."""
        self._ended.update(positions)
        self.forget()

    def forget(self) -> None:
        """Forget what ended, unless an answer is still to come."""
        if not (self.reading or self._looks or self._queues.expiring):
            self._ended.clear()


def _held(row: Spooled) -> QueuedStanza:
    return QueuedStanza(row.position, row.stanza, row.accepted_at, row.deadline, None, True, row.written)


# A request in the spool is written to the wire only once the spool knows: an IQ is never sent twice, even after a crash (R33).
#
# A mark that came to the disk behind the request itself would leave a moment in which a `kill -9` makes two of it.
#: Of those that wait, in order, so many are looked at at once.
AHEAD = 1000


class RequestMarks:
    """Of one lane. `go_on` is called when more may be written, `refuse` with what the spool cannot mark."""

    def __init__(
        self, pair_queue: PairQueue, spool: Callable[[], Spool], go_on: Callable[[], None], refuse: Callable[[list[QueuedStanza]],
        None],
    ) -> None:
        self._pair_queue = pair_queue
        self._spool = spool
        self._go_on = go_on
        self._refuse = refuse
        self._marking = False

    def make(self, parked: Collection[int]) -> None:
        """The next that waits is such a request: mark it, and those soon behind it."""
        if self._marking:
            return
        self._marking = True
        near = islice(self._pair_queue.waiting, AHEAD)
        requests = [held for held in near if held.unmarked and held.position not in parked]
        positions = [held.position for held in requests]
        self._spool().mark_written(self._pair_queue.pair, positions, lambda error: self._made(requests, error))

    def _made(self, requests: list[QueuedStanza], error: Exception | None) -> None:
        self._marking = False
        if error is None:
            for held in requests:
                held.written = True
        else:
            positions = {held.position for held in requests}
            self._refuse(self._pair_queue.remove(lambda held: held.position in positions))
        self._go_on()


# What of a lane the spool has no room for: refused in words, as soon as its sender can be told, and kept until then.
#
# Meanwhile no room is made for more of it: whoever brings it waits, and with them what they have not written yet. What no error
# may answer stays in memory too, and is offered to the spool again.
class SpoolOverflow:
    """That of the lane of `flow`."""

    __slots__ = ("_queue", "_queues", "lasts", "untold")

    def __init__(self, queue: DeliveryQueue, queues: DeliveryQueues) -> None:
        self._queue = queue
        self._queues = queues
        #: something is still here that the spool had no room for
        self.lasts = False
        #: refusals of which who brought the stanzas, and keeps them until then, has yet to hear: nothing passes them
        self.untold = 0

    @property
    def stuck(self) -> bool:
        """Neither the next server, nor the disk, nor the sender's server takes what comes."""
        if self.untold or not self.lasts or self._queue.next_hop.ready:
            return self.untold > 0
        return self._queue.pair_queue.crowded or not self._queues.way_back(self._queue).open

    def begin(self, batch: Sequence[QueueItem], error: Exception) -> None:
        """Nothing of `batch` is in the spool. What is in flight may still arrive; what waits is refused, or written after all."""
        queue = self._queue
        self._queues.spool_failed(queue, error)
        if queue.next_hop.ready and not queue.held:
            queue.drain()
        elif self._queues.way_back(queue).open:
            positions = {piece.position for piece in batch}
            self._refuse(queue.pair_queue.remove(lambda held: held.position in positions and may_bounce(held.stanza)))
        self.lasts = not all(piece.gone for each in batch for piece in each.now())
        if self.lasts and not queue.held:
            queue.next_hop.request_delivery()

    def _refuse(self, gone: list[QueuedStanza]) -> None:
        """Who keeps a stanza until told sends it again after a crash: none that came later may arrive before that (R35)."""
        kept = any(held.upstream_ack is not None for held in gone)
        self.untold += kept
        self._queue.left(gone)
        stanzas = [held.stanza for held in gone]
        self._queues.bounce(self._queue.pair, stanzas, Cause.QUEUE_FULL, settled=partial(self._told, gone, kept))

    def _told(self, gone: list[QueuedStanza], kept: bool) -> None:
        self.untold -= kept
        settle(gone)
        if kept:
            self._queue.drain()
            self._queue.spool_now(self._queue.due)

    def end(self) -> None:
        """Nothing is here any more for which the spool had no room."""
        if self.lasts:
            self.lasts = False
            self._queue.relieve()
