"""A spool in memory. It keeps nothing over a restart: for `[queue] disk = 0`, and as the reference for other spools."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter

from s2sgw.spool.interface import (
    QUARANTINE_BYTES,
    QUARANTINE_STANZAS,
    Done,
    LaneSummary,
    PositionTaken,
    Quarantined,
    Replaced,
    Spool,
    SpoolAnswer,
    Spooled,
    SpoolError,
    SpoolFull,
    same_content,
)
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.registered_domain import registered_domain


class MemorySpool(Spool):
    """Holds at most `limit` bytes. `deliver(call)` makes `call` later, on the thread of the caller."""

    def __init__(self, limit: int, deliver: Callable[[Callable[[], None]], None]) -> None:
        self._limit = limit
        self._deliver = deliver
        self._queues: dict[Pair, dict[int, Spooled]] = {}
        self._quarantine: deque[Quarantined] = deque(maxlen=QUARANTINE_STANZAS)
        self._quarantined = 0
        self._bytes = 0
        self._next_position = 1

    @property
    def count(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def used(self) -> int:
        return self._bytes

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def share(self) -> int:
        return self._limit

    @property
    def stalled(self) -> bool:
        return False

    @property
    def next_position(self) -> int:
        return self._next_position

    def alerts(self) -> list[str]:
        return []

    def used_by(self, peer: Domain) -> int:
        owner = registered_domain(peer.ascii)
        queues = [rows for pair, rows in self._queues.items() if owner in {registered_domain(domain.ascii) for domain in pair}]
        return sum(len(row.stanza.data) for rows in queues for row in rows.values())

    def append(self, batch: Sequence[Spooled], done: Done, replaces: Sequence[Replaced] = ()) -> None:
        self._deliver(partial(done, self._appended(batch, replaces)))

    def _appended(self, batch: Sequence[Spooled], replaces: Sequence[Replaced]) -> SpoolError | None:
        new = []
        for row in batch:
            held = self._queues.get(row.pair, {}).get(row.position)
            if held is None:
                new.append(row)
            elif not same_content(held, row):
                return PositionTaken(f"another stanza is held at position {row.position}")
        old = [self._queues.get(pair, {}).get(position) for pair, positions in replaces for position in positions]
        size = sum(len(row.stanza.data) for row in new) - sum(len(row.stanza.data) for row in old if row is not None)
        if self._bytes + size > self._limit:
            return SpoolFull(f"the spool holds {self._bytes} bytes, at most {self._limit}")
        for pair, positions in replaces:
            self._forget(pair, positions)
        self._bytes += sum(len(row.stanza.data) for row in new)
        for row in new:
            self._queues.setdefault(row.pair, {})[row.position] = row
            self._next_position = max(self._next_position, row.position + 1)
        return None

    def read(self, pair: Pair, after: int, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        rows: list[Spooled] = []
        size = 0
        for position, row in sorted(self._queues.get(pair, {}).items()):
            if position > after and (not rows or size < at_most):
                rows.append(row)
                size += len(row.stanza.data)
        self._deliver(partial(done, rows))

    def remove(self, pair: Pair, up_to: int) -> None:
        self._forget(pair, [position for position in self._queues.get(pair, ()) if position <= up_to])

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        self._forget(pair, positions)

    def _forget(self, pair: Pair, positions: Iterable[int]) -> None:
        rows = self._queues.get(pair, {})
        for position in positions:
            row = rows.pop(position, None)
            if row is not None:
                self._bytes -= len(row.stanza.data)
        if not rows:
            self._queues.pop(pair, None)

    def mark_written(self, pair: Pair, positions: Sequence[int], done: Done) -> None:
        rows = self._queues.get(pair, {})
        for position in positions:
            if position in rows:
                rows[position] = rows[position]._replace(written=True)
        self._deliver(partial(done, None))

    def expired(self, now: float, at_most: int, done: SpoolAnswer[list[Spooled]]) -> None:
        late = [row for rows in self._queues.values() for row in rows.values() if row.deadline <= now]
        rows = sorted(late, key=attrgetter("deadline"))[:at_most]
        self._deliver(partial(done, rows))

    def queues(self, done: SpoolAnswer[list[LaneSummary]]) -> None:
        rows = [_summary(pair, sorted(rows.values(), key=attrgetter("position"))) for pair, rows in self._queues.items()]
        self._deliver(partial(done, rows))

    def quarantine(self, spooled: Spooled, cause: str, at: float) -> None:
        self._quarantined += 1
        self._quarantine.append(Quarantined(self._quarantined, spooled, cause, at))
        while len(self._quarantine) > 1 and sum(len(each.spooled.stanza.data) for each in self._quarantine) > QUARANTINE_BYTES:
            self._quarantine.popleft()

    def quarantined(self, at_most: int, done: SpoolAnswer[list[Quarantined]]) -> None:
        rows = list(self._quarantine)[-at_most:] if at_most else []
        self._deliver(partial(done, rows))

    def raise_limit(self, by: int) -> None:
        self._limit += by

    def close(self, done: Callable[[], None]) -> None:
        self._deliver(done)


def _summary(pair: Pair, rows: list[Spooled]) -> LaneSummary:
    size = sum(len(row.stanza.data) for row in rows)
    return LaneSummary(pair, len(rows), size, rows[0].position, rows[-1].position, rows[0].accepted_at)
