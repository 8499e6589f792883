"""A spool in memory: keeps nothing over a restart. For `[queue] disk = 0`, and the measure that other spools are held to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from s2sgw.spool.interface import PEN, PEN_BYTES, Done, LaneSummary, Quarantined, Spool, Spooled, SpoolFull
from s2sgw.xmpp.jid import Pair


class MemorySpool(Spool):
    """Holds at most `limit` bytes. `deliver` has a call made later, on the caller's thread."""

    def __init__(self, limit: int, deliver: Callable[[Callable[[], None]], None]) -> None:
        self._limit = limit
        self._deliver = deliver
        self._queues: dict[Pair, dict[int, Spooled]] = {}
        self._pen: deque[Quarantined] = deque(maxlen=PEN)
        self._put_aside = 0
        self._bytes = 0

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def count(self) -> int:
        return sum(map(len, self._queues.values()))

    def append(self, batch: Sequence[Spooled], done: Done) -> None:
        size = sum(len(spooled.stanza.data) for spooled in batch)
        if self._bytes + size > self._limit:
            self._deliver(lambda: done(SpoolFull(f"the spool holds {self._bytes} bytes, at most {self._limit}")))
            return
        self._bytes += size
        for spooled in batch:
            self._queues.setdefault(spooled.pair, {})[spooled.position] = spooled
        self._deliver(lambda: done(None))

    def read(self, pair: Pair, after: int, at_most: int, done: Callable[[list[Spooled]], None]) -> None:
        rows: list[Spooled] = []
        size = 0
        for position, spooled in sorted(self._queues.get(pair, {}).items()):
            if position > after and (not rows or size < at_most):
                rows.append(spooled)
                size += len(spooled.stanza.data)
        self._deliver(lambda: done(rows))

    def remove(self, pair: Pair, up_to: int) -> None:
        self._forget(pair, [position for position in self._queues.get(pair, ()) if position <= up_to])

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        self._forget(pair, positions)

    def _forget(self, pair: Pair, positions: Iterable[int]) -> None:
        pair_queue = self._queues.get(pair, {})
        for position in positions:
            spooled = pair_queue.pop(position, None)
            if spooled is not None:
                self._bytes -= len(spooled.stanza.data)
        if not pair_queue:
            self._queues.pop(pair, None)

    def mark_written(self, pair: Pair, positions: Sequence[int], done: Done) -> None:
        pair_queue = self._queues.get(pair, {})
        for position in positions:
            if position in pair_queue:
                pair_queue[position] = pair_queue[position]._replace(written=True)
        self._deliver(lambda: done(None))

    def expired(self, now: float, at_most: int, done: Callable[[list[Spooled]], None]) -> None:
        late = [spooled for pair_queue in self._queues.values() for spooled in pair_queue.values() if spooled.deadline <= now]
        rows = sorted(late, key=lambda spooled: spooled.deadline)[:at_most]
        self._deliver(lambda: done(rows))

    def queues(self, done: Callable[[list[LaneSummary]], None]) -> None:
        rows = [_summary(pair, sorted(pair_queue.values(), key=lambda row: row.position)) for pair,
        pair_queue in self._queues.items()]
        self._deliver(lambda: done(rows))

    def put_aside(self, spooled: Spooled, cause: str, at: float) -> None:
        self._put_aside += 1
        self._pen.append(Quarantined(self._put_aside, spooled, cause, at))
        while len(self._pen) > 1 and sum(len(each.spooled.stanza.data) for each in self._pen) > PEN_BYTES:
            self._pen.popleft()

    def aside(self, at_most: int, done: Callable[[list[Quarantined]], None]) -> None:
        rows = list(self._pen)[-at_most:] if at_most else []
        self._deliver(lambda: done(rows))

    def stretch(self, by: int) -> None:
        self._limit += by

    def close(self, done: Callable[[], None]) -> None:
        self._deliver(done)


def _summary(pair: Pair, rows: list[Spooled]) -> LaneSummary:
    size = sum(len(row.stanza.data) for row in rows)
    return LaneSummary(pair, len(rows), size, rows[0].position, rows[-1].position, rows[0].accepted_at)
