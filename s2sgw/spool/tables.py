"""What the spool's file holds and how much of it: one lane, one range of rows, one account that is always exact.

Each statement does its work in a single step: sqlite3 lets go of the interpreter at each, and gets it back only when the
reactor's thread is done with it. So many rows go in by one INSERT, and many come out as one JSON text.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from s2sgw.spool.interface import PEN, PEN_BYTES, LaneSummary, Quarantined, Spooled, SpoolFull
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

#: A row's number is its lane's number times this, and its position: room for two million lanes of 4 * 10¹² stanzas each.
POSITIONS = 1 << 42
LANES = 1 << 21
#: Bytes in the file that a stanza takes beside its own.
OVERHEAD = 160
#: Rows of one INSERT, most first, and of one read.
CHUNKS = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
ROWS = 1000

_STANZA = "kind, data, addressee, author, type, ident, payloads, accepted, deadline, written"
_FIELDS = 11
_OUT = "kind, CAST(data AS TEXT), addressee, author, type, ident, payloads, accepted, deadline, written"
_INSERTS = {
    rows: f"INSERT OR REPLACE INTO stanza (id, {_STANZA}) VALUES " + ", ".join([f"({', '.join('?' * _FIELDS)})"] * rows)
    for rows in CHUNKS
}
_SEPARATOR = "\x1f"


@dataclass(slots=True)
class QueueTotals:
    """What one lane holds. `base` is the number of its first row, less one."""

    base: int
    count: int = 0
    bytes: int = 0


class SpoolTables:
    """The tables behind `connection`, at most `limit` bytes of stanzas. Every change stands between `begin` and `commit`."""

    def __init__(self, connection: sqlite3.Connection, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        self._accounts: dict[Pair, QueueTotals] = {}
        self._before: dict[Pair, tuple[int, int, int] | None] = {}
        self._pairs: dict[int, Pair] = {}
        self._free: list[int] = []
        self._unwritten: list[object] = []
        self.bytes = self.count = 0
        self._load()

    def _load(self) -> None:
        for number, sender, recipient, count, size in self._rows("SELECT * FROM lane ORDER BY id"):
            pair = Pair(Domain.parse(sender.decode()), Domain.parse(recipient.decode()))
            self._open(pair, QueueTotals(number * POSITIONS, count, size))
            self.count += count
            self.bytes += size
        used = {base // POSITIONS for base in self._pairs}
        self._next = max(used, default=0) + 1
        self._free = [number for number in range(1, self._next) if number not in used]

    def _open(self, pair: Pair, account: QueueTotals) -> QueueTotals:
        self._accounts[pair] = account
        self._pairs[account.base] = pair
        return account

    def _rows(self, statement: str, *values: object) -> list[Any]:
        if self._unwritten:
            self._insert()
        return self._connection.execute(statement, values).fetchall()

    def _json(self, columns: str, source: str, *values: object) -> list[Any]:
        """The rows of `source` as lists of `columns`."""
        rows = self._rows(f"SELECT json_group_array(json_array({columns})) FROM ({source})", *values)
        return list(json.loads(rows[0][0].decode("utf-8", "surrogateescape")))

    # --- transactions ---

    def begin(self) -> None:
        self._connection.execute("BEGIN")

    def commit(self) -> None:
        """Write the accounts that changed, then make everything durable."""
        touched = [(pair, self._accounts[pair]) for pair in self._before if pair in self._accounts]
        open_ = [
            (account.base // POSITIONS, pair.sender.ascii, pair.recipient.ascii, account.count, account.bytes)
            for pair, account in touched if account.count
        ]
        over = [account.base // POSITIONS for _, account in touched if not account.count]
        if open_:
            fields = ", ".join(f"json_extract(value, '$[{field}]')" for field in range(5))
            self._rows(f"INSERT OR REPLACE INTO lane SELECT {fields} FROM json_each(?)", json.dumps(open_))
        if over:
            self._rows("DELETE FROM lane WHERE id IN (SELECT value FROM json_each(?))", json.dumps(over))
        self._connection.execute("COMMIT")
        self._before.clear()
        for pair, account in touched:
            if not account.count:
                self._close(pair)

    def rollback(self) -> None:
        """As if nothing had happened since `begin`."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        finally:
            self._restore()

    def _restore(self) -> None:
        self._unwritten.clear()
        for pair, before in self._before.items():
            account = self._accounts[pair]
            self.count += (before[1] if before else 0) - account.count
            self.bytes += (before[2] if before else 0) - account.bytes
            if before is None:
                self._close(pair)
            else:
                account.count, account.bytes = before[1:]
        self._before.clear()

    def close(self) -> None:
        self._connection.close()

    # --- accounts ---

    def _close(self, pair: Pair) -> None:
        account = self._accounts.pop(pair)
        del self._pairs[account.base]
        self._free.append(account.base // POSITIONS)

    def _account(self, pair: Pair) -> QueueTotals:
        """The lane's account, to be changed."""
        account = self._accounts.get(pair)
        if pair not in self._before:
            self._before[pair] = None if account is None else (account.base, account.count, account.bytes)
        return account if account is not None else self._open(pair, QueueTotals(self._number() * POSITIONS))

    def _number(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def _add(self, account: QueueTotals, count: int, size: int) -> None:
        account.count += count
        account.bytes += size
        self.count += count
        self.bytes += size

    # --- stanzas ---

    def append(self, batch: Sequence[Spooled]) -> None:
        """Hold all of `batch`, or none of it: raises `SpoolFull`."""
        size = sum(len(row.stanza.data) for row in batch)
        if self.bytes + size + (self.count + len(batch)) * OVERHEAD > self._limit:
            raise SpoolFull(f"the spool holds {self.bytes} bytes in {self.count} stanzas and may take {self._limit} in the file")
        if len(self._accounts) + len(batch) >= LANES and len(self._accounts.keys() | {row.pair for row in batch}) >= LANES:
            raise SpoolFull(f"the spool holds {len(self._accounts)} lanes")
        pair, account = None, QueueTotals(0)
        for row in batch:
            if row.pair is not pair:
                pair, account = row.pair, self._account(row.pair)
            self._add(account, 1, len(row.stanza.data))
            self._unwritten.append(account.base + row.position)
            self._unwritten += _values(row)

    def may_take(self, limit: int) -> None:
        """The bound is another from now on."""
        self._limit = limit

    def _insert(self) -> None:
        """What was appended in this transaction goes in together: before anything looks, and before the commit."""
        values, self._unwritten = self._unwritten, []
        remaining = iter(values)
        left = len(values) // _FIELDS
        for rows in CHUNKS:
            while left >= rows:
                self._connection.execute(_INSERTS[rows], tuple(islice(remaining, rows * _FIELDS)))
                left -= rows

    def read(self, pair: Pair, after: int, at_most: int) -> list[Spooled]:
        """See `Spool.read`."""
        account = self._accounts.get(pair)
        if account is None:
            return []
        within = "FROM stanza WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
        bounds = account.base + min(after, POSITIONS - 1), account.base + POSITIONS
        sizes = self._json("size", f"SELECT length(data) AS size {within}", *bounds, ROWS)
        number = 0
        while number < len(sizes) and at_most > 0:
            at_most -= sizes[number][0]
            number += 1
        rows = self._json(f"id, {_OUT}", f"SELECT * {within}", *bounds, max(number, 1))
        return [_spooled(pair, row[0] - account.base, row[1:]) for row in rows]

    def remove(self, pair: Pair, up_to: int) -> None:
        """See `Spool.remove`."""
        if pair in self._accounts:
            base = self._accounts[pair].base
            self._delete(pair, "id > ? AND id <= ?", base, base + min(up_to, POSITIONS - 1))

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        """See `Spool.remove_each`."""
        if pair in self._accounts:
            self._delete(pair, "id IN (SELECT value FROM json_each(?))", self._ids(pair, positions))

    def _ids(self, pair: Pair, positions: Sequence[int]) -> str:
        base = self._accounts[pair].base
        return json.dumps([base + position for position in positions if 0 < position < POSITIONS])

    def _delete(self, pair: Pair, which: str, *values: object) -> None:
        ((count, size),) = self._rows(f"SELECT count(*), total(length(data)) FROM stanza WHERE {which}", *values)
        if count:
            self._rows(f"DELETE FROM stanza WHERE {which}", *values)
            self._add(self._account(pair), -count, -int(size))

    def mark_written(self, pair: Pair, positions: Sequence[int]) -> None:
        """See `Spool.mark_written`."""
        if pair in self._accounts:
            ids = self._ids(pair, positions)
            self._rows("UPDATE stanza SET written = 1 WHERE id IN (SELECT value FROM json_each(?))", ids)

    def expired(self, now: float, at_most: int) -> list[Spooled]:
        """See `Spool.expired`."""
        rows = self._json(
            f"id, {_OUT}", "SELECT * FROM stanza WHERE deadline <= ? ORDER BY deadline LIMIT ?", _time(now), at_most,
        )
        placed = [(row[0] - row[0] % POSITIONS, row) for row in rows]
        return [_spooled(self._pairs[base], row[0] - base, row[1:]) for base, row in placed if base in self._pairs]

    def queues(self) -> list[LaneSummary]:
        """See `Spool.lanes`. What does not grow with the lanes' length: two look-ups each."""
        within = f"FROM stanza WHERE id > lane.id * {POSITIONS} AND id < (lane.id + 1) * {POSITIONS}"
        rows = self._json(
            "id, first, last, (SELECT accepted FROM stanza WHERE stanza.id = first)",
            f"SELECT id, (SELECT min(id) {within}) AS first, (SELECT max(id) {within}) AS last FROM lane",
        )
        return list(self._summaries(rows))

    def _summaries(self, rows: list[Any]) -> Iterator[LaneSummary]:
        for number, first, last, oldest in rows:
            base = number * POSITIONS
            pair = self._pairs[base]
            account = self._accounts[pair]
            if first is not None:
                yield LaneSummary(pair, account.count, account.bytes, first - base, last - base, oldest / 1e6)

    # --- the pen ---

    def put_aside(self, spooled: Spooled, cause: str, at: float) -> None:
        """See `Spool.put_aside`."""
        self._rows(
            f"INSERT INTO pen (sender, recipient, position, {_STANZA}, cause, at) VALUES ({', '.join('?' * 15)})",
            spooled.pair.sender.ascii, spooled.pair.recipient.ascii, spooled.position, *_values(spooled), cause, _time(at),
        )
        sizes = self._json("number, size", "SELECT number, length(data) AS size FROM pen ORDER BY number DESC")
        room = PEN_BYTES
        for index, (number, size) in enumerate(sizes):
            room -= size
            if index and (index >= PEN or room < 0):
                self._rows("DELETE FROM pen WHERE number <= ?", number)
                break

    def aside(self, at_most: int) -> list[Quarantined]:
        """See `Spool.aside`."""
        rows = self._json(
            f"number, cause, at, sender, recipient, position, {_OUT}",
            "SELECT * FROM (SELECT * FROM pen ORDER BY number DESC LIMIT ?) ORDER BY number", at_most,
        )
        return [_aside(row) for row in rows]


def _values(row: Spooled) -> tuple[object, ...]:
    stanza = row.stanza
    return (
        stanza.kind, stanza.data, stanza.to, stanza.from_, stanza.type, stanza.id, _SEPARATOR.join(stanza.payloads),
        _time(row.accepted_at), _time(row.deadline), row.written,
    )


def _time(seconds: float) -> int:
    return round(seconds * 1e6)


def _spooled(pair: Pair, position: int, row: list[Any]) -> Spooled:
    kind, data, to, from_, type, ident, payloads, accepted, deadline, written = row
    stanza = Stanza(
        kind, data.encode("utf-8", "surrogateescape"), to, from_, type, ident,
        tuple(payloads.split(_SEPARATOR)) if payloads else (),
    )
    return Spooled(pair, position, stanza, accepted / 1e6, deadline / 1e6, bool(written))


def _aside(row: list[Any]) -> Quarantined:
    number, cause, at, sender, recipient, position = row[:6]
    pair = Pair(Domain.parse(sender), Domain.parse(recipient))
    return Quarantined(number, _spooled(pair, position, row[6:]), cause, at / 1e6)


#: What a job asks of a ledger.
Work = Callable[[SpoolTables], Any]
