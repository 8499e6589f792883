"""Copies the readable part of a damaged spool into a new one, and reports what is lost.

The damaged file is read page by page (`storage.sqlite_pages`), so that an unreadable page loses only its own rows. Every row
keeps its number and its checksums: an altered stanza is detected when it is read, as in a sound file.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from s2sgw.spool.tables import POSITIONS, ROW_BYTES, lane_sum
from s2sgw.storage.sqlite_pages import DatabasePages, PageUnreadable, TableRow, Value
from s2sgw.xmpp.jid import JID, Domain, Pair

#: Rows of one transaction.
ROWS = 5000
#: Lanes, and positions of each, that a report names.
NAMED_LANES, NAMED_POSITIONS = 20, 20
#: The number of values of a row in each version of the schema. A row from before a new column is shorter.
_LANE, _STANZA, _QUARANTINE, _NOTE = (5, 6), (11, 13), (16, 18), (2,)
_FIELDS = {
    "kind": "TEXT", "data": "BLOB", "addressee": "TEXT", "author": "TEXT", "type": "TEXT", "ident": "TEXT", "payloads": "TEXT",
    "accepted": "INTEGER", "deadline": "INTEGER", "written": "INTEGER",
}
_SUMS = {"content_sum": "INTEGER", "envelope_sum": "INTEGER"}
#: The columns of a table in the order of a row's values, with their types.
_STANZA_COLUMNS = {"id": "INTEGER", **_FIELDS, **_SUMS}
_QUARANTINE_COLUMNS = {
    "number": "INTEGER", "sender": "TEXT", "recipient": "TEXT", "position": "INTEGER", **_FIELDS, "cause": "TEXT",
    "at": "INTEGER", **_SUMS,
}
#: The index of `written` in a row of `stanza`.
_WRITTEN = 10
#: The query for the row of a table by its rowid, or of the index by its entry.
_PROBES = {
    "stanza": "SELECT data FROM stanza WHERE id = ?", "lane": "SELECT * FROM lane WHERE id = ?",
    "quarantine": "SELECT data FROM quarantine WHERE number = ?",
    "stanza_deadline": "SELECT 1 FROM stanza INDEXED BY stanza_deadline WHERE deadline = ? AND id = ?",
}
#: To leave some pages unused, all pages before them are written, and this many beyond. Bytes of a blob.
UNUSED_UP_TO = 1 << 18
BLOB_BYTES = 16 * 4092
#: Positions that are left free if it is unknown which were used.
UNKNOWN_RESERVE = 10_000_000


@dataclass(slots=True)
class Salvage:
    """The result of a salvage. `lost`: the lost positions by lane, as far as they are known, and their number."""

    stanzas: int = 0
    lost: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    unreadable_pages: int = 0

    @property
    def lost_stanzas(self) -> int:
        return sum(number for number, _ in self.lost.values())

    def words(self) -> str:
        """Return a sentence for the operator about what is lost."""
        text = f"{self.stanzas} stanzas were saved and are delivered"
        if not self.lost:
            return text
        names = [_lost_words(lane, number, positions) for lane, (number, positions) in list(self.lost.items())[:NAMED_LANES]]
        more = f", and {len(self.lost) - NAMED_LANES} other lanes" if len(self.lost) > NAMED_LANES else ""
        return f"{text}; {self.lost_stanzas} are lost: {'; '.join(names)}{more}"


def _lost_words(lane: str, number: int, positions: list[int]) -> str:
    if not positions:
        return f"{number} from {lane}"
    more = " …" if len(positions) > NAMED_POSITIONS else ""
    return f"{number} from {lane} (numbers {', '.join(map(str, positions[:NAMED_POSITIONS]))}{more})"


def salvage(pages: DatabasePages, connection: sqlite3.Connection, unused: Collection[int] = ()) -> Salvage:
    """Copy the readable part of a damaged spool into the empty tables behind `connection`. Raises `sqlite3.Error`.

    The pages `unused` get no content in the new file, because the same place in a file fails again and again.
    """
    if unused:
        _leave_unused(connection, unused)
    return _Copy(pages, connection).copy()


def failing_pages(pages: DatabasePages, connection: sqlite3.Connection) -> set[int]:
    """Return the pages that SQLite cannot read at the moment. It is asked for a row on each page."""
    roots = pages.roots()
    failing: set[int] = set()
    for name, statement in _PROBES.items():
        if name in roots:
            probe = _Probe(pages, connection, statement, pages.tree(roots[name]))
            probe.fails(roots[name])
            failing |= probe.failing
    return failing


class _Probe:
    """Asks SQLite for rows of one table by `statement`, and notes the pages that it cannot read."""

    def __init__(self, pages: DatabasePages, connection: sqlite3.Connection, statement: str, tree: dict[int, list[int]]) -> None:
        self._pages = pages
        self._connection = connection
        self._statement = statement
        self._tree = tree
        self.failing: set[int] = set()

    def fails(self, number: int) -> bool:
        """Return whether no page at and below `number` can be read."""
        children = self._tree.get(number)
        if children is None:
            return False
        if not children:
            return self._leaf_fails(number)
        results = [self.fails(child) for child in children]
        if all(results):
            self.failing.difference_update(children if len(children) > 1 else ())
            self.failing.add(number)
        return all(results)

    def _leaf_fails(self, number: int) -> bool:
        row = next((row for row in self._pages.rows(number) if row is not None), None)
        if row is None:
            return False
        try:
            self._connection.execute(self._statement, [row.rowid] if row.rowid else row.values[:2]).fetchall()
        except sqlite3.Error:
            self.failing.add(number)
            return True
        except OverflowError:  # the number of a row on a damaged page
            return False
        return False


def _leave_unused(connection: sqlite3.Connection, numbers: Collection[int]) -> None:
    """Give these pages of an empty file to a table that is never read.

    The file grows by blobs until it has the pages. Blobs without any of them are deleted again, so that their pages are free.
    """
    wanted = {number for number in numbers if number <= UNUSED_UP_TO}
    with _transaction(connection):
        connection.execute("CREATE TABLE unused (content BLOB)")
        deleted = []
        while wanted and (before := _page_count(connection)) < max(wanted):
            cursor = connection.execute("INSERT INTO unused VALUES (zeroblob(?))", (BLOB_BYTES,))
            if not wanted & set(range(before + 1, _page_count(connection) + 1)):
                deleted.append((cursor.lastrowid,))
        connection.executemany("DELETE FROM unused WHERE rowid = ?", deleted)


def _page_count(connection: sqlite3.Connection) -> int:
    ((count,),) = connection.execute("PRAGMA page_count").fetchall()
    return int(count)


class _Copy:
    """One salvage under way."""

    def __init__(self, pages: DatabasePages, connection: sqlite3.Connection) -> None:
        self._pages = pages
        self._connection = connection
        self._pairs: dict[int, Pair] = {}
        self._counts: dict[int, int] = {}
        #: rows that may have been removed before
        self._doubtful: set[int] = set()

    def copy(self) -> Salvage:
        roots = self._pages.roots()
        leaves = _leaves(self._pages, roots)
        self._copy_stanzas(leaves)
        self._read_lanes(leaves)
        self._settle_doubt()
        lost = self._lost(roots)
        self._write_lanes()
        self._copy_quarantine(leaves)
        self._copy_notes(leaves)
        ((stanzas,),) = self._connection.execute("SELECT count(*) FROM stanza").fetchall()
        return Salvage(stanzas, lost, len(self._pages.unreadable))

    def _rows(self, leaves: TableLeaves, table: str, lengths: tuple[int, ...]) -> Iterator[tuple[TableRow, bool]]:
        """Return the readable rows of a table, and whether each is in doubt."""
        for number, sure in leaves.of(table):
            try:
                for row in self._pages.rows(number):
                    if row is not None and len(row.values) in lengths:
                        yield row, not sure
            except PageUnreadable:
                continue

    def _copy_stanzas(self, leaves: TableLeaves) -> None:
        rows: list[tuple[Value, ...]] = []
        for row, doubtful in self._rows(leaves, "stanza", _STANZA):
            if row.rowid < POSITIONS or not _is_stanza(row.values):
                continue
            rows.append(_raw(row, _STANZA))
            if doubtful:
                self._doubtful.add(row.rowid)
            if len(rows) >= ROWS:
                self._insert("stanza", _STANZA_COLUMNS, rows)
                rows = []
        self._insert("stanza", _STANZA_COLUMNS, rows)

    def _insert(self, table: str, columns: dict[str, str], rows: list[tuple[Value, ...]]) -> None:
        with _transaction(self._connection):
            _insert(self._connection, table, columns, rows)

    def _read_lanes(self, leaves: TableLeaves) -> None:
        """Find the pair of each lane, from the table of lanes, or else from the addresses of its stanzas."""
        for row, doubtful in self._rows(leaves, "lane", _LANE):
            pair = _lane_pair(row)
            if pair is not None and not (doubtful and row.rowid in self._pairs):
                self._pairs[row.rowid] = pair
                count = row.values[3]
                self._counts[row.rowid] = count if isinstance(count, int) else 0
        for (number,) in self._connection.execute(f"SELECT DISTINCT id / {POSITIONS} FROM stanza").fetchall():
            if number not in self._pairs:
                self._guess_pair(number)

    def _guess_pair(self, number: int) -> None:
        within = f"FROM stanza WHERE id > {number * POSITIONS} AND id < {(number + 1) * POSITIONS}"
        found = self._connection.execute(f"SELECT author, addressee {within} LIMIT 100").fetchall()
        pairs = [pair for pair in map(_addressed_pair, found) if pair is not None]
        if pairs:
            self._pairs[number] = max(set(pairs), key=pairs.count)
        else:
            self._connection.execute(f"DELETE {within}")

    def _settle_doubt(self) -> None:
        """Decide on rows that may have been removed before.

        If a lane has as many rows as it held, all of them are its own. If it has more, the first are dropped, since a lane is
        removed from its beginning. Stanzas that are still in doubt are not sent as new (R33).
        """
        by_lane: defaultdict[int, list[int]] = defaultdict(list)
        for rowid in sorted(self._doubtful):
            by_lane[rowid // POSITIONS].append(rowid)
        with _transaction(self._connection):
            for number, rowids in by_lane.items():
                excess = self._count(number) - self._counts.get(number, 0)
                dropped = max(excess, 0) if number in self._counts else 0
                if excess or number not in self._counts:
                    self._for_each("DELETE FROM stanza WHERE id = ?", rowids[:dropped])
                    self._for_each("UPDATE stanza SET written = 1 WHERE id = ?", rowids[dropped:])

    def _for_each(self, statement: str, rowids: list[int]) -> None:
        self._connection.executemany(statement, [(rowid,) for rowid in rowids])

    def _count(self, number: int) -> int:
        bounds = number * POSITIONS, (number + 1) * POSITIONS
        ((count,),) = self._connection.execute("SELECT count(*) FROM stanza WHERE id > ? AND id < ?", bounds).fetchall()
        return int(count)

    def _lost(self, roots: dict[str, int]) -> dict[str, tuple[int, list[int]]]:
        """Return the losses of each lane, by its name: the number of stanzas, and their positions if the index has them."""
        if self._counts == {number: self._count(number) for number in self._pairs}:
            return {}
        missing = _missing(self._connection, _indexed(self._pages, roots))
        lost = {}
        for number in sorted({*self._counts, *missing}):
            name = str(self._pairs[number]) if number in self._pairs else _nameless(number)
            positions = missing.get(number, [])
            gone = max(self._counts.get(number, 0) - self._count(number), len(positions))
            if gone > 0:
                lost[name] = (gone, positions)
        return lost

    def _write_lanes(self) -> None:
        with _transaction(self._connection):
            _write_lanes(self._connection, self._pairs)

    def _copy_quarantine(self, leaves: TableLeaves) -> None:
        rows = []
        for row, _ in self._rows(leaves, "quarantine", _QUARANTINE):
            if all(isinstance(row.values[at], str) for at in (1, 2, 4, 6, 7, 10, 14)) and isinstance(row.values[5], bytes):
                rows.append(_raw(row, _QUARANTINE))
        self._insert("quarantine", _QUARANTINE_COLUMNS, rows)

    def _copy_notes(self, leaves: TableLeaves) -> None:
        """Copy the notes, and store a next position after every stanza."""
        notes = {row.values[0]: row.values[1] for row, _ in self._rows(leaves, "note", _NOTE)}
        ((highest,),) = self._connection.execute(f"SELECT coalesce(max(id % {POSITIONS}), 0) FROM stanza").fetchall()
        noted = notes.get("next position")
        notes["next position"] = max(highest + 1, noted) if isinstance(noted, int) else highest + 1 + UNKNOWN_RESERVE
        for name in ("next position", "clock"):
            if name in notes:
                self._connection.execute("INSERT OR REPLACE INTO note (name, value) VALUES (?, ?)", (name, notes[name]))


def _missing(connection: sqlite3.Connection, indexed: set[int]) -> dict[int, list[int]]:
    """Return the positions by lane of the stanzas that are in an index, and not in the table."""
    held = {rowid for (rowid,) in connection.execute("SELECT id FROM stanza")}
    missing: defaultdict[int, list[int]] = defaultdict(list)
    for rowid in sorted(indexed - held):
        missing[rowid // POSITIONS].append(rowid % POSITIONS)
    return dict(missing)


def _nameless(number: int) -> str:
    return f"lane {number}, whose names are lost"


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _insert(connection: sqlite3.Connection, table: str, columns: dict[str, str], rows: list[tuple[Value, ...]]) -> None:
    """Insert rows of raw values. A row whose number exists already is left out."""
    values = ", ".join(f"CAST(? AS {type_})" for type_ in columns.values())
    connection.executemany(f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({values})", rows)


def _raw(row: TableRow, lengths: tuple[int, ...], written: bool = False) -> tuple[Value, ...]:
    """Return a row for insertion: texts as bytes, which may not be UTF-8. `written`: mark it as possibly sent."""
    values = [row.rowid, *row.values[1:], *[None] * (lengths[-1] - len(row.values))]
    if written:
        values[_WRITTEN] = 1
    return tuple(value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value for value in values)


def _write_lanes(connection: sqlite3.Connection, pairs: dict[int, Pair]) -> None:
    """Write the table of lanes anew, from the table of stanzas."""
    totals = connection.execute(f"SELECT id / {POSITIONS}, count(*), total({ROW_BYTES}) FROM stanza GROUP BY 1").fetchall()
    rows = [
        (number, pairs[number].sender.ascii, pairs[number].recipient.ascii, count, int(size), lane_sum(number, pairs[number]))
        for number, count, size in totals
    ]
    columns = "id, sender, recipient, count, bytes, check_sum"
    connection.executemany(f"INSERT OR REPLACE INTO lane ({columns}) VALUES (?, ?, ?, ?, ?, ?)", rows)


class TableLeaves:
    """The leaves of each table, and whether each is certain to be in use."""

    def __init__(self) -> None:
        self._tables: dict[str, list[tuple[int, bool]]] = {}

    def add(self, table: str, number: int, sure: bool) -> None:
        self._tables.setdefault(table, []).append((number, sure))

    def of(self, table: str) -> list[tuple[int, bool]]:
        """Return the leaves of a table, the certain ones first."""
        return sorted(self._tables.get(table, []), key=lambda leaf: not leaf[1])


def _leaves(pages: DatabasePages, roots: dict[str, int]) -> TableLeaves:
    """Find the leaves of each table: by its tree, and for a damaged tree by searching the pages that are in no tree.

    A page in no tree is certain to be in use if the list of free pages is complete.
    """
    leaves = TableLeaves()
    reached: set[int] = set()
    whole = bool(roots)
    for name, root in roots.items():
        found, sound = pages.leaves(root)
        whole = whole and sound
        reached.update(found)
        for number in found:
            leaves.add("quarantine" if name == "pen" else name, number, True)
    if not whole:
        free, free_is_whole = pages.free_pages()
        for number in range(1, len(pages) + 1):
            if number not in reached and number not in free and pages.is_table_leaf(number):
                table = _table_of(pages, number)
                if table:
                    leaves.add(table, number, free_is_whole)
    return leaves


def _table_of(pages: DatabasePages, number: int) -> str:
    """Return the table of a leaf, by its rows, or ""."""
    try:
        for row in pages.rows(number):
            if row is None:
                continue
            length = len(row.values)
            if length in _STANZA and row.rowid >= POSITIONS:
                return "stanza"
            if length in _QUARANTINE and row.values[0] is None:
                return "quarantine"
            if length in _LANE and _lane_pair(row) is not None:
                return "lane"
            if length in _NOTE and row.values[0] in ("next position", "clock"):
                return "note"
    except PageUnreadable:
        pass
    return ""


def _is_stanza(values: list[Value]) -> bool:
    number, kind, data, to, from_, type_, ident, payloads, accepted, deadline, written = values[:11]
    texts = all(isinstance(value, str) for value in (kind, to, from_, payloads))
    optional = all(value is None or isinstance(value, str) for value in (type_, ident))
    numbers = all(isinstance(value, int) for value in (accepted, deadline, written))
    return number is None and texts and optional and numbers and isinstance(data, bytes)


def _lane_pair(row: TableRow) -> Pair | None:
    number, sender, recipient, count, size = row.values[:5]
    check = row.values[5] if len(row.values) > 5 else None
    if number is not None or not isinstance(count, int) or not isinstance(size, int):
        return None
    if not isinstance(sender, str) or not isinstance(recipient, str):
        return None
    try:
        pair = Pair(Domain.parse(sender), Domain.parse(recipient))
    except ValueError:
        return None
    return pair if check is None or check == lane_sum(row.rowid, pair) else None


def _addressed_pair(addresses: tuple[bytes, bytes]) -> Pair | None:
    try:
        sender, recipient = (JID.parse(address.decode()).domain for address in addresses)
    except ValueError:
        return None
    return Pair(sender, recipient)


# --- a log that SQLite would silently drop in part ---


@dataclass(frozen=True, slots=True)
class DroppedCommits:
    """The stanzas, and the names of lanes, in commits of the log that SQLite would silently drop."""

    rows: list[tuple[Value, ...]]
    pairs: dict[int, Pair]
    commits: int
    #: the numbers of all stanzas in the index of deadlines after these commits
    indexed: set[int]


def dropped_commits(pages: DatabasePages) -> DroppedCommits:
    """Read the commits after a damaged frame of the log. `pages` has them applied to the file.

    A later commit may have passed the stanzas on, so a request among them is not sent again (R33).
    """
    assert pages.log is not None
    rows: list[tuple[Value, ...]] = []
    pairs: dict[int, Pair] = {}
    free, _ = pages.free_pages()
    for number in sorted(set(pages.log.behind) - free):
        table = _table_of(pages, number) if pages.is_table_leaf(number) else ""
        for row in pages.rows(number) if table in ("stanza", "lane") else ():
            if row is None:
                continue
            if table == "lane" and len(row.values) in _LANE and (pair := _lane_pair(row)) is not None:
                pairs[row.rowid] = pair
            elif table == "stanza" and len(row.values) in _STANZA and _is_stanza(row.values):
                rows.append(_raw(row, _STANZA, written=True))
    return DroppedCommits(rows, pairs, pages.log.commits_behind, _indexed(pages, pages.roots()))


def _indexed(pages: DatabasePages, roots: dict[str, int]) -> set[int]:
    """Return the numbers of the stanzas in the index of deadlines."""
    entries, _ = pages.entries(roots.get("stanza_deadline", 0))
    return {entry[-1] for entry in entries if len(entry) == 2 and isinstance(entry[-1], int) and entry[-1] >= POSITIONS}


def add_dropped(connection: sqlite3.Connection, dropped: DroppedCommits) -> Salvage:
    """Add the stanzas of dropped commits that the file lacks. Return their number, and the losses. Raises `sqlite3.Error`.

    The dropped commits may have passed on stanzas that are in the file, so a request in it is not sent again.
    """
    with _transaction(connection):
        ((before,),) = connection.execute("SELECT count(*) FROM stanza").fetchall()
        names = connection.execute("SELECT id, sender, recipient FROM lane").fetchall()
        pairs = dropped.pairs | {number: Pair(*(Domain.parse(name.decode()) for name in both)) for number, *both in names}
        known = [row for row in dropped.rows if isinstance(row[0], int) and row[0] // POSITIONS in pairs]
        _insert(connection, "stanza", _STANZA_COLUMNS, known)
        connection.execute("UPDATE stanza SET written = 1 WHERE kind = 'iq'")
        _write_lanes(connection, pairs)
        ((highest,),) = connection.execute(f"SELECT coalesce(max(id % {POSITIONS}), 0) FROM stanza").fetchall()
        connection.execute("UPDATE note SET value = ? WHERE name = 'next position' AND value <= ?", (highest + 1, highest))
        ((after,),) = connection.execute("SELECT count(*) FROM stanza").fetchall()
        missing = _missing(connection, dropped.indexed)
    names_of = {number: str(pair) for number, pair in pairs.items()}
    return Salvage(after - before, {names_of.get(each, _nameless(each)): (len(rest), rest) for each, rest in missing.items()})
