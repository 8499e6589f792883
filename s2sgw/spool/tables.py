"""The tables of the spool's file: the stanzas of each pair, the quarantine, and totals that are always exact.

Each statement works in a single step. sqlite3 releases the interpreter lock at each step, and gets it back only when the
reactor's thread pauses. So many rows are written by one INSERT, and many are read as one JSON text.

Every row has checksums of its content and of its envelope. A row that does not match is returned with its `damage`.
"""

from __future__ import annotations

import json
import sqlite3
from binascii import crc32
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from s2sgw.spool.interface import (
    QUARANTINE_BYTES,
    QUARANTINE_STANZAS,
    Damage,
    LaneSummary,
    PositionTaken,
    Quarantined,
    Replaced,
    Spooled,
    SpoolFull,
)
from s2sgw.spool.stored_time import StoredClock
from s2sgw.storage.sqlite_errors import result_code
from s2sgw.xmpp.element import child_names
from s2sgw.xmpp.errors import RemoteFault
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.stanza import USUAL_TEXT, Stanza

#: The number of a row is the number of its lane times this, plus its position: room for two million lanes of 4 * 10¹² stanzas.
POSITIONS = 1 << 42
LANES = 1 << 21
#: Positions that are reserved at a time, so that they need not be stored at each commit.
RESERVED = 10_000
#: Bytes of a stanza in the file, beside its own.
OVERHEAD = 160
#: Rows of one INSERT, the most first, and rows of one read.
CHUNKS = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
ROWS = 1000

_ENVELOPE = "kind, addressee, author, type, ident, payloads, accepted, deadline"
#: The columns of a stanza, for writing and for reading.
COLUMNS = f"data, {_ENVELOPE}, written, content_sum, envelope_sum"
_OUT = f"CAST(data AS TEXT), {_ENVELOPE}, written, content_sum, envelope_sum"
_FIELDS = 1 + COLUMNS.count(",") + 1
_VALUES = f"({', '.join('?' * _FIELDS)})"
_INSERTS = {rows: f"INSERT INTO stanza (id, {COLUMNS}) VALUES " + ", ".join([_VALUES] * rows) for rows in CHUNKS}
_LANE = "id, sender, recipient, count, bytes, check_sum"
#: The bytes of a row, as `row_bytes` counts them.
_TEXTS = " + ".join(f"ifnull(length(CAST({column} AS BLOB)), 0)" for column in ("addressee", "author", "type", "ident"))
ROW_BYTES = f"ifnull(length(data), 0) + ({_TEXTS}) * (({_TEXTS}) > {USUAL_TEXT})"
_SEPARATOR = "\x1f"
#: Characters of the names of children that are stored beside their stanza. In place of more, `_FROM_DATA` says that they are read
#: from it again. They could take ten times as many bytes as the stanza, and only its own are counted.
STORED_NAMES = 256
_FROM_DATA = _SEPARATOR


class RowsDamaged(Exception):
    """The tables do not have what was written to them. SQLite does not detect this."""


@dataclass(slots=True)
class QueueTotals:
    """The totals of one pair.

    `base`: the number of its first row, less one. `owner`: the registered domain of the peer, whose share it counts against.
    """

    base: int
    owner: str
    count: int = 0
    bytes: int = 0


class SpoolTables:
    """The tables behind `connection`. Every change is between `begin` and `commit`.

    They hold at most `limit` bytes, and for the peers of one registered domain at most `share` bytes and at most as much as is
    free for the others. So one more domain always has half of the rest. `peer_of` returns the peer of a pair. It is asked when
    the pair gets its first stanza, and at the start. Raises `sqlite3.Error`, or `RowsDamaged`.
    """

    def __init__(
        self, connection: sqlite3.Connection, limit: int, share: int | None = None,
        peer_of: Callable[[Pair], Domain] = lambda pair: pair.recipient,
    ) -> None:
        self._connection = connection
        self._changes = connection.total_changes
        self.limit = limit
        self.share = limit if share is None else share
        self._peer_of = peer_of
        self._totals: dict[Pair, QueueTotals] = {}
        self._before: dict[Pair, tuple[int, int] | None] = {}
        self._pairs: dict[int, Pair] = {}
        self._free: list[int] = []
        self._unwritten: list[object] = []
        #: by registered domain
        self._used_by: Counter[str] = Counter()
        self.bytes = self.count = 0
        #: a position after all that were ever used, as far as it is stored in the file
        self.reserved = 1
        self._reserve = 0
        self.clock: StoredClock | None = None
        self._clock_is_new = False
        #: microseconds from the caller's clock to the epoch
        self._offset = 0
        self._load()

    def _load(self) -> None:
        for number, sender, recipient, count, size, check in self._rows(f"SELECT {_LANE} FROM lane ORDER BY id"):
            pair = _pair(number, sender, recipient, check)
            if not isinstance(count, int) or not isinstance(size, int):
                raise RowsDamaged(f"the totals of lane {number} cannot be read")
            self._open(pair, QueueTotals(number * POSITIONS, self._owner_of(pair)))
            self._add(self._totals[pair], count, size)
        ((found,),) = self._rows("SELECT count(*) FROM stanza")
        if found != self.count:
            raise RowsDamaged(f"{self.count} stanzas were written, and {found} are found")
        used = {base // POSITIONS for base in self._pairs}
        self._next = max(used, default=0) + 1
        self._free = [number for number in range(1, self._next) if number not in used]
        notes = dict(self._rows("SELECT name, value FROM note"))
        self.reserved = notes.get(b"next position", 1)
        if not isinstance(self.reserved, int):
            raise RowsDamaged("the next position cannot be read")
        self.clock = _clock(notes.get(b"clock"))

    def _open(self, pair: Pair, totals: QueueTotals) -> QueueTotals:
        self._totals[pair] = totals
        self._pairs[totals.base] = pair
        return totals

    def _rows(self, statement: str, *values: object) -> list[Any]:
        if self._unwritten:
            self._insert()
        return self._connection.execute(statement, values).fetchall()

    def _json(self, columns: str, source: str, *values: object) -> list[Any]:
        """Return the rows of `source` as lists of `columns`.

        JSON cannot hold each value that an altered row may have: bytes, an infinite number, or text that is not valid. Then the
        rows are read without it.
        """
        if self._unwritten:
            self._insert()  # its errors are not those of the rows that are read
        try:
            rows = self._rows(f"SELECT json_group_array(json_array({columns})) FROM ({source})", *values)
            return list(json.loads(rows[0][0].decode("utf-8", "surrogateescape")))
        except (ValueError, sqlite3.OperationalError) as error:
            if result_code(error) not in (0, sqlite3.SQLITE_ERROR):
                raise
            return [list(map(_text, row)) for row in self._rows(f"SELECT {columns} FROM ({source})", *values)]

    # --- the clock ---

    def newest(self) -> int:
        """Return the newest stored time of acceptance, in microseconds since the epoch, or 0."""
        last = f"(SELECT max(id) FROM stanza WHERE id > lane.id * {POSITIONS} AND id < (lane.id + 1) * {POSITIONS})"
        ((newest,),) = self._rows(f"SELECT max((SELECT accepted FROM stanza WHERE stanza.id = {last})) FROM lane")
        return newest if isinstance(newest, int) else 0

    def use_clock(self, clock: StoredClock) -> None:
        """Store times by this clock from now on. It is stored in the file with the first stanza."""
        self._clock_is_new = clock != self.clock
        self.clock = clock
        self._offset = clock.offset

    def _time(self, seconds: float) -> int:
        return round(seconds * 1e6) + self._offset

    def _seconds(self, stored: int) -> float:
        return (stored - self._offset) / 1e6

    # --- transactions ---

    def begin(self) -> None:
        """Begin a transaction. It needs no room on the disk until something is written."""
        self._connection.execute("BEGIN")

    def commit(self) -> bool:
        """Write the changed totals, then make everything durable. Return whether anything was written."""
        touched = [(pair, self._totals[pair]) for pair in self._before if pair in self._totals]
        held = [_lane(totals.base // POSITIONS, pair, totals) for pair, totals in touched if totals.count]
        empty = [totals.base // POSITIONS for _, totals in touched if not totals.count]
        if held:
            fields = ", ".join(f"json_extract(value, '$[{field}]')" for field in range(6))
            self._rows(f"INSERT OR REPLACE INTO lane ({_LANE}) SELECT {fields} FROM json_each(?)", json.dumps(held))
        if empty:
            self._rows("DELETE FROM lane WHERE id IN (SELECT value FROM json_each(?))", json.dumps(empty))
        if self._reserve:
            self._note("next position", self._reserve)
        if self._clock_is_new and held and self.clock is not None:
            self._note("clock", self.clock.to_json())
        if self._unwritten:
            self._insert()
        self._connection.execute("COMMIT")
        before, self._changes = self._changes, self._connection.total_changes
        self.reserved = self._reserve or self.reserved
        self._clock_is_new = self._clock_is_new and not held
        self._reserve = 0
        self._before.clear()
        for pair, totals in touched:
            if not totals.count:
                self._close(pair)
        return self._changes > before

    def _note(self, name: str, value: object) -> None:
        self._rows("INSERT OR REPLACE INTO note (name, value) VALUES (?, ?)", name, value)

    def rollback(self) -> None:
        """Undo everything since `begin`."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        finally:
            self._restore()

    def _restore(self) -> None:
        self._unwritten.clear()
        self._reserve = 0
        for pair, before in self._before.items():
            totals = self._totals[pair]
            count, size = before or (0, 0)
            self._add(totals, count - totals.count, size - totals.bytes)
            if before is None:
                self._close(pair)
        self._before.clear()

    def close(self) -> None:
        self._connection.close()

    def copy(self, path: Path) -> None:
        """Write all that is committed into the empty file at `path`."""
        self._connection.execute("VACUUM INTO ?", (str(path),))

    # --- totals ---

    @property
    def used(self) -> int:
        """Return the used part of `limit`."""
        return self.bytes + self.count * OVERHEAD

    def used_by(self, peer: Domain) -> int:
        """Return the bytes that count against the share of `peer`, those of its whole registered domain."""
        return self._used_by[registered_domain(peer.ascii)]

    def _owner_of(self, pair: Pair) -> str:
        """Return the registered domain whose share the stanzas of `pair` count against."""
        totals = self._totals.get(pair)
        return registered_domain(self._peer_of(pair).ascii) if totals is None else totals.owner

    def _close(self, pair: Pair) -> None:
        totals = self._totals.pop(pair)
        del self._pairs[totals.base]
        self._free.append(totals.base // POSITIONS)

    def _changing(self, pair: Pair) -> QueueTotals:
        """Return the totals of a pair, which are about to change."""
        totals = self._totals.get(pair)
        if pair not in self._before:
            self._before[pair] = None if totals is None else (totals.count, totals.bytes)
        return totals if totals is not None else self._open(pair, QueueTotals(self._number() * POSITIONS, self._owner_of(pair)))

    def _number(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def _add(self, totals: QueueTotals, count: int, size: int) -> None:
        totals.count += count
        totals.bytes += size
        self.count += count
        self.bytes += size
        used = self._used_by[totals.owner] + size + count * OVERHEAD
        if used > 0:
            self._used_by[totals.owner] = used
        else:
            self._used_by.pop(totals.owner, None)

    # --- stanzas ---

    def append(self, batch: Sequence[Spooled], replaces: Sequence[Replaced] = ()) -> None:
        """Store all of `batch`, or none of it, and remove what it replaces. Raises `SpoolFull`. A taken position is detected at
        the next read or commit, by `sqlite3.IntegrityError`.
        """
        self._require_room(batch, self._sizes(replaces))
        pair, totals = None, None
        for row in batch:
            if totals is None or row.pair is not pair:
                pair, totals = row.pair, self._changing(row.pair)
            self._add(totals, 1, row_bytes(row.stanza))
            number = totals.base + row.position
            self._unwritten.append(number)
            self._unwritten += self._values(number, row)
        highest = max((row.position for row in batch), default=0)
        if highest >= max(self.reserved, self._reserve):
            self._reserve = highest + RESERVED
        for old, positions in replaces:
            self.remove_each(old, positions)

    def _sizes(self, replaces: Sequence[Replaced]) -> Counter[str]:
        """Return the bytes of the replaced stanzas, by registered domain."""
        sizes: Counter[str] = Counter()
        for pair, positions in replaces:
            if pair in self._totals:
                which = "id IN (SELECT value FROM json_each(?))"
                statement = f"SELECT count(*), total({ROW_BYTES}) FROM stanza WHERE {which}"
                ((count, size),) = self._rows(statement, self._ids(pair, positions))
                sizes[self._owner_of(pair)] += int(size) + count * OVERHEAD
        return sizes

    def _require_room(self, batch: Sequence[Spooled], freed: Counter[str]) -> None:
        size = sum(row_bytes(row.stanza) for row in batch) + len(batch) * OVERHEAD - freed.total()
        if self.used + size > self.limit:
            raise SpoolFull(f"the spool holds {self.bytes} bytes in {self.count} stanzas and may take {self.limit} in the file")
        if self.share < self.limit:
            share = min(self.share, self.limit - self.used - size)
            for owner, more in self._by_owner(batch).items():
                used = self._used_by[owner] - freed[owner]
                if used + more > share:
                    what = f"the stanzas from and to {owner}, with all its sub-domains,"
                    raise SpoolFull(f"{what} take {used} bytes, and their share is {share}", "share")
        if len(self._totals) + len(batch) >= LANES and len(self._totals.keys() | {row.pair for row in batch}) >= LANES:
            raise SpoolFull(f"the spool holds {len(self._totals)} lanes")

    def _by_owner(self, batch: Sequence[Spooled]) -> Counter[str]:
        more: Counter[str] = Counter()
        pair, owner = None, ""
        for row in batch:
            if row.pair is not pair:
                pair, owner = row.pair, self._owner_of(row.pair)
            more[owner] += row_bytes(row.stanza) + OVERHEAD
        return more

    def append_missing(self, batch: Sequence[Spooled], replaces: Sequence[Replaced] = ()) -> None:
        """Do as `append`, for a batch that may be partly stored already. Raises `PositionTaken`."""
        missing = []
        for row in batch:
            totals = self._totals.get(row.pair)
            number = 0 if totals is None else totals.base + row.position
            found = self._rows(f"SELECT {COLUMNS} FROM stanza WHERE id = ?", number) if number else []
            if not found:
                missing.append(row)
            elif _written_out(found[0]) != _written_out(self._values(number, row)):
                raise PositionTaken(f"another stanza is held at position {row.position} of {row.pair}")
        self.append(missing, replaces)

    def _insert(self) -> None:
        """Write everything appended in this transaction together, before a read and before the commit."""
        values, self._unwritten = self._unwritten, []
        remaining = iter(values)
        left = len(values) // _FIELDS
        for rows in CHUNKS:
            while left >= rows:
                self._connection.execute(_INSERTS[rows], tuple(islice(remaining, rows * _FIELDS)))
                left -= rows

    def read(self, pair: Pair, after: int, at_most: int) -> list[Spooled]:
        """See `Spool.read`."""
        totals = self._totals.get(pair)
        if totals is None:
            return []
        within = "FROM stanza WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
        bounds = totals.base + min(after, POSITIONS - 1), totals.base + POSITIONS
        sizes = self._json("size", f"SELECT ifnull(length(data), 0) AS size {within}", *bounds, ROWS)
        number = 0
        while number < len(sizes) and at_most > 0:
            at_most -= sizes[number][0]
            number += 1
        if number == len(sizes) < ROWS:
            self._require_all(pair, totals)
        return self._stanzas(f"SELECT * {within}", *bounds, max(number, 1))

    def _require_all(self, pair: Pair, totals: QueueTotals) -> None:
        """Check at the end of a lane that it is complete: stanzas on a damaged page would count as delivered."""
        bounds = totals.base, totals.base + POSITIONS
        ((found,),) = self._rows("SELECT count(*) FROM stanza WHERE id > ? AND id < ?", *bounds)
        if found != totals.count:
            raise RowsDamaged(f"{totals.count} stanzas of {pair} were written, and {found} are found")

    def _stanzas(self, source: str, *values: object) -> list[Spooled]:
        """Return the rows of the table `stanza` that `source` selects, if they belong to a pair."""
        placed = [(row[0] - row[0] % POSITIONS, row) for row in self._json(f"id, {_OUT}", source, *values)]
        return [self._spooled(self._pairs[base], row[0] - base, row[0], row[1:]) for base, row in placed if base in self._pairs]

    def remove(self, pair: Pair, up_to: int) -> None:
        """See `Spool.remove`."""
        if pair in self._totals:
            base = self._totals[pair].base
            self._delete(pair, "id > ? AND id <= ?", base, base + min(up_to, POSITIONS - 1))

    def remove_each(self, pair: Pair, positions: Sequence[int]) -> None:
        """See `Spool.remove_each`."""
        if pair in self._totals:
            self._delete(pair, "id IN (SELECT value FROM json_each(?))", self._ids(pair, positions))

    def _ids(self, pair: Pair, positions: Sequence[int]) -> str:
        base = self._totals[pair].base
        return json.dumps([base + position for position in positions if 0 < position < POSITIONS])

    def _delete(self, pair: Pair, which: str, *values: object) -> None:
        ((count, size),) = self._rows(f"SELECT count(*), total({ROW_BYTES}) FROM stanza WHERE {which}", *values)
        if count:
            self._rows(f"DELETE FROM stanza WHERE {which}", *values)
            totals = self._changing(pair)
            # an older version of the gateway did not count the texts of the rows that it wrote
            all_gone, counted = count == totals.count, min(int(size), totals.bytes)
            self._add(totals, -count, -(totals.bytes if all_gone else counted))

    def mark_written(self, pair: Pair, positions: Sequence[int]) -> None:
        """See `Spool.mark_written`."""
        if pair in self._totals:
            ids = self._ids(pair, positions)
            self._rows("UPDATE stanza SET written = 1 WHERE id IN (SELECT value FROM json_each(?))", ids)

    def expired(self, now: float, at_most: int) -> list[Spooled]:
        """See `Spool.expired`."""
        return self._stanzas("SELECT * FROM stanza WHERE deadline <= ? ORDER BY deadline LIMIT ?", self._time(now), at_most)

    def queues(self) -> list[LaneSummary]:
        """See `Spool.queues`. The time does not grow with the length of the lanes: two look-ups each."""
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
            totals = self._totals[pair]
            if first is None:
                raise RowsDamaged(f"{totals.count} stanzas of {pair} were written, and none is found")
            since = self._seconds(oldest) if isinstance(oldest, int) else 0.0
            yield LaneSummary(pair, totals.count, totals.bytes, first - base, last - base, since)

    # --- the quarantine ---

    def quarantine(self, spooled: Spooled, cause: str, at: float) -> None:
        """See `Spool.quarantine`."""
        pair, position = spooled.pair, spooled.position
        values = (pair.sender.ascii, pair.recipient.ascii, position, *self._values(position, spooled), cause, round(at * 1e6))
        columns = f"sender, recipient, position, {COLUMNS}, cause, at"
        self._rows(f"INSERT INTO quarantine ({columns}) VALUES ({', '.join('?' * len(values))})", *values)
        sizes = self._json("number, size", "SELECT number, ifnull(length(data), 0) AS size FROM quarantine ORDER BY number DESC")
        room = QUARANTINE_BYTES
        for index, (number, size) in enumerate(sizes):
            room -= size
            if index and (index >= QUARANTINE_STANZAS or room < 0):
                self._rows("DELETE FROM quarantine WHERE number <= ?", number)
                break

    def quarantined(self, at_most: int) -> list[Quarantined]:
        """See `Spool.quarantined`."""
        rows = self._json(
            f"number, cause, at, sender, recipient, position, {_OUT}",
            "SELECT * FROM (SELECT * FROM quarantine ORDER BY number DESC LIMIT ?) ORDER BY number", at_most,
        )
        return [quarantined for row in rows if (quarantined := self._quarantined(row)) is not None]

    # --- rows ---

    def _quarantined(self, row: list[Any]) -> Quarantined | None:
        """Return what `row` holds, or None if it was altered so that it cannot be shown. It stays in the file."""
        number, cause, at, sender, recipient, position = row[:6]
        try:
            pair = Pair(Domain.parse(sender), Domain.parse(recipient))
        except (ValueError, AttributeError, TypeError):
            return None
        if not (isinstance(cause, str) and isinstance(at, int) and isinstance(position, int)):
            return None
        spooled = self._spooled(pair, position, position, row[6:])
        return Quarantined(number, spooled, cause.encode(errors="replace").decode(), at / 1e6)

    def _values(self, number: int, row: Spooled) -> tuple[object, ...]:
        stanza, accepted, deadline = row.stanza, self._time(row.accepted_at), self._time(row.deadline)
        payloads = _names_text(stanza)
        envelope = (stanza.kind, stanza.to, stanza.from_, stanza.type, stanza.id, payloads, accepted, deadline)
        return stanza.data, *envelope, row.written, crc32(stanza.data), envelope_sum(number, envelope)

    def _spooled(self, pair: Pair, position: int, number: int, row: list[Any]) -> Spooled:
        """Return the stanza of `row`. `number` is the number of the row, which its checksum covers."""
        text, kind, to, from_, type_, ident, payloads, accepted, deadline, written, content, envelope = row
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else b""
        damage = _damage(number, data, row[1:9], content, envelope)
        if damage == "envelope":
            return Spooled(pair, position, Stanza("message", data, "", ""), 0.0, 0.0, True, damage)
        names: tuple[str, ...] | None = tuple(payloads.split(_SEPARATOR)) if payloads else ()
        if payloads == _FROM_DATA:
            names = () if damage else None
        stanza = Stanza(kind, data, to, from_, type_, ident, names)
        return Spooled(pair, position, stanza, self._seconds(accepted), self._seconds(deadline), bool(written), damage)


def row_bytes(stanza: Stanza) -> int:
    """Return the bytes of a stanza in the file, beside `OVERHEAD`.

    Its addresses, its type and its id are in the file beside it. They count if they are longer than those of a usual stanza.
    """
    if not stanza.text_cost:
        return len(stanza.data)
    texts = len(f"{stanza.to}{stanza.from_}{stanza.type or ''}{stanza.id or ''}".encode("utf-8", "surrogatepass"))
    return len(stanza.data) + (texts if texts > USUAL_TEXT else 0)


def _names_text(stanza: Stanza) -> str:
    """Return the names of the children as they are stored."""
    names = stanza.payloads
    text = _SEPARATOR.join(names)
    return _FROM_DATA if len(text) > STORED_NAMES and _can_be_read(stanza.data, names) else text


def _can_be_read(data: bytes, names: tuple[str, ...]) -> bool:
    try:
        return child_names(data) == names
    except RemoteFault:
        return False


def envelope_sum(number: int, envelope: Sequence[object]) -> int:
    """Return the checksum of the number of a row and of its columns `kind` to `deadline`."""
    kind, to, from_, type_, ident, payloads, accepted, deadline = envelope
    text = f"{number}\x1e{kind}\x1e{to}\x1e{from_}\x1e{type_}\x1e{ident}\x1e{payloads}\x1e{accepted}\x1e{deadline}"
    return crc32(text.encode("utf-8", "surrogatepass"))


def _clock(text: object) -> StoredClock | None:
    """Return the stored clock; None, as after a reboot, if it cannot be read."""
    try:
        return StoredClock.from_json(text.decode()) if isinstance(text, bytes) else None
    except ValueError:
        return None


def _damage(number: int, data: bytes, envelope: list[Any], content_sum: int | None, envelope_sum_: int | None) -> Damage:
    """Return the altered part of a row. Rows of the first version have no checksums."""
    kind, to, from_, type_, ident, payloads, accepted, deadline = envelope
    texts, words, times = (kind, to, from_, payloads), (type_, ident), (accepted, deadline)
    if not (all(isinstance(each, str) for each in texts) and all(isinstance(each, str | None) for each in words)):
        return "envelope"
    if not all(isinstance(each, int) for each in times):
        return "envelope"  # with the same text, so with the same checksum
    if content_sum is None and envelope_sum_ is None:
        return ""
    if envelope_sum(number, envelope) != envelope_sum_:
        return "envelope"
    return "" if crc32(data) == content_sum else "content"


def _lane(number: int, pair: Pair, totals: QueueTotals) -> tuple[object, ...]:
    """Return the row of `_LANE`."""
    return number, pair.sender.ascii, pair.recipient.ascii, totals.count, totals.bytes, lane_sum(number, pair)


def lane_sum(number: int, pair: Pair) -> int:
    """Return the checksum of the number and the names of a lane."""
    return crc32(f"{number}\x1e{pair.sender.ascii}\x1e{pair.recipient.ascii}".encode())


def _pair(number: int, sender: bytes, recipient: bytes, check: int | None) -> Pair:
    try:
        pair = Pair(Domain.parse(sender.decode()), Domain.parse(recipient.decode()))
    except (ValueError, AttributeError) as error:
        raise RowsDamaged(f"the names of lane {number} cannot be read: {error}") from None
    if check is not None and check != lane_sum(number, pair):
        raise RowsDamaged(f"the names of lane {number} were altered")
    return pair


def _text(value: object) -> object:
    """Return a value in the form that JSON gives it."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _written_out(row: Sequence[object]) -> list[object]:
    """Return a row of `COLUMNS` for comparison: as text, and without `written`."""
    return [_text(value) for value in (*row[:9], *row[10:])]


#: The work of a job at the tables.
Work = Callable[[SpoolTables], Any]
