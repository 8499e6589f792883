"""Tests of a damaged spool: readable stanzas are delivered, unreadable ones are named, and no altered stanza is delivered."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.spool import salvage as salvage_module
from s2sgw.spool import sqlite_spool
from s2sgw.spool.interface import SpoolBroken, Spooled
from s2sgw.spool.tables import POSITIONS, SpoolTables
from s2sgw.storage.sqlite_pages import DatabasePages
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.spool_contract import A, Asking, B, spooled, told
from tests.support.spool_files import File, connection_of

PAGE, FRAME, HEADER = 4096, 4120, 32
C = Pair(Domain.parse("c.example"), B.sender)


def stanza(pair: Pair, position: int, size: int = 400) -> Spooled:
    """Return a stanza with addresses of its pair, as in a gateway."""
    data = f"<message id='{position}'>{pair}".encode().ljust(size, b".")
    inner = Stanza("message", data, f"u@{pair.recipient.ascii}/r", f"v@{pair.sender.ascii}", None, str(position), ("x}body",))
    return Spooled(pair, position, inner, float(position), 1000.0 + position)


class Filled:
    """A file with three lanes, and its content by pair and position."""

    def __init__(self, path: str, numbers: tuple[int, int, int] = (150, 40, 2), size: int = 400) -> None:
        self.file = File(path)
        self.rows = {
            (pair, position): stanza(pair, position, size)
            for pair, number in zip((A, B, C), numbers, strict=True) for position in range(1, number + 1)
        }
        it = self.file.open()
        it.append(*self.rows.values())
        it.spool.quarantine(spooled(A, 7), "poison", 5.0)
        it.held()
        it.close()

    @property
    def path(self) -> Path:
        return self.file.path


def content(row: Spooled) -> tuple[object, ...]:
    """Return what a row says, its times to the millisecond: a lost clock is replaced by another one."""
    pair, position, words, accepted_at, deadline, written = told(row)
    return pair, position, words, round(accepted_at, 3), round(deadline, 3), written  # type: ignore[call-overload]


def drain(it: Asking) -> list[Spooled]:
    """Read everything, as a gateway does after a start."""
    rows: list[Spooled] = []
    for lane in it.queues():
        after = lane.first - 1
        while more := it.read(lane.pair, after, 8192):
            rows += more
            after = more[-1].position
    return rows


class PageTests(SynchronousTestCase):
    """Tests of one damaged page of the file."""

    def check(self, filled: Filled, missing_at_most: int) -> str:
        """Open the file, check that each stanza written is delivered or named, and return the salvage report."""
        it = filled.file.open()
        rows = drain(it)
        reports = [report for report in filled.file.reports if "saved and are delivered" in report]
        sound = {(row.pair, row.position): row for row in rows if not row.damage}
        for key, row in sound.items():
            self.assertEqual(content(row), content(filled.rows[key]))
        self.assertEqual([(row.pair, row.position) for row in rows], sorted((row.pair, row.position) for row in rows))
        lost = len(filled.rows) - len(rows)
        named = sum(int(number) for report in reports for number in re.findall(r"; (\d+) are lost", report))
        self.assertEqual(lost, named)
        self.assertLessEqual(len(filled.rows) - len(sound), missing_at_most)
        self.assertGreater(it.spool.next_position, 150)
        self.assertEqual((it.append(stanza(A, 10_000)), it.append(stanza(B, 10_000))), (None, None))
        it.close()
        again = filled.file.open()
        self.assertEqual(len(drain(again)), len(rows) + 2)
        again.close()
        return reports[0] if reports else ""

    def damaged(self, whole: bytes, number: int, data: bytes) -> Filled:
        filled = object.__new__(Filled)
        filled.file, filled.rows = File(self.mktemp()), self.rows
        filled.path.write_bytes(whole[: (number - 1) * PAGE] + data + whole[number * PAGE :])
        return filled

    def test_any_page(self) -> None:
        """Whichever page is damaged, at most its stanzas are lost. They are named by lane and number."""
        original = Filled(self.mktemp())
        self.rows = original.rows
        whole = original.path.read_bytes()
        per_page = PAGE // 400 + 1
        named = 0
        for number in range(1, len(whole) // PAGE + 1):
            for data in (bytes(PAGE), b"\xff" * PAGE, Random(number).randbytes(PAGE)):
                filled = self.damaged(whole, number, data)
                report = self.check(filled, per_page)
                named += bool(re.search(r"are lost: \d+ from [abc]\.example -> [abc]\.example \(numbers \d+", report))
                self.assertLessEqual(len(filled.file.aside), 1)
        self.assertGreater(named, 40)

    def test_unreadable_page(self) -> None:
        """The same holds for a page that the disk does not read while the gateway runs. After some tries the rest is saved."""
        filled = Filled(self.mktemp())
        now = [0.0]
        it = filled.file.open(clock=lambda: now[0])
        bad = self.fail_page(filled.path, it, A)
        it.spool.remove(C, 1)
        answers = []
        for _ in range(4):
            answers.append(it.ask(it.spool.read, A, 0, 1 << 20))
            now[0] += 1.0
        self.assertEqual([isinstance(answer, SpoolBroken) for answer in answers], [True, True, True, False])
        rows = drain(it)
        gone = {key for key in filled.rows if key not in {(row.pair, row.position) for row in rows}}
        self.assertEqual(gone - {(C, 1)}, bad)
        [report] = [report for report in filled.file.reports if "are lost" in report]
        numbers = ", ".join(str(position) for _, position in sorted(bad))
        self.assertIn(f"{len(bad)} are lost: {len(bad)} from a.example -> b.example (numbers {numbers})", report)
        self.assertIn(report, it.spool.alerts())
        self.assertEqual((it.append(stanza(A, 151)), filled.file.aside), (None, [".damaged-1"]))
        it.close()

    def fail_page(self, path: Path, it: Asking, pair: Pair) -> set[tuple[Pair, int]]:
        """Let the disk fail on the page in the middle of a lane, for SQLite and for direct reads of the file. Return the page's stanzas."""
        whole = path.read_bytes()
        number = whole.index(b"<message id='75'>" + str(pair).encode()) // PAGE + 1
        content = whole[(number - 1) * PAGE : number * PAGE]
        real = os.pread

        def pread(descriptor: int, size: int, offset: int) -> bytes:
            if offset == (number - 1) * PAGE and os.fstat(descriptor).st_ino == inode:
                raise OSError(5, "Input/output error")
            return real(descriptor, size, offset)

        inode = path.stat().st_ino
        self.patch(os, "pread", pread)
        read, broken = SpoolTables.read, pair

        def failing(tables: Any, pair: Pair, after: int, at_most: int) -> list[Spooled]:
            if pair == broken and path.stat().st_ino == inode:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
                raise error
            return read(tables, pair, after, at_most)

        self.patch(SpoolTables, "read", failing)
        return {(pair, int(position)) for position in re.findall(rb"<message id='(\d+)'>", content)}

    def test_a_disk_that_is_away(self) -> None:
        """If hardly any page can be read, nothing is given up. The file is tried again until the disk is back."""
        filled = Filled(self.mktemp())
        whole = filled.path.read_bytes()
        filled.path.write_bytes(b"\xff" * 100 + whole[100:])
        real = os.pread

        def pread(descriptor: int, size: int, offset: int) -> bytes:
            raise OSError(5, "Input/output error")

        away = self.patch(os, "pread", pread)
        self.assertRaises(SpoolBroken, filled.file.open)
        self.assertEqual(filled.file.aside, [])
        away.restore()
        self.assertIs(os.pread, real)
        filled.path.write_bytes(whole)
        self.assertEqual(self.check(filled, 0), "")

    def test_no_room_to_save(self) -> None:
        """A damaged spool on a full disk is not changed, and every call is an error. Once there is room it is saved."""
        filled = Filled(self.mktemp())
        whole = filled.path.read_bytes()
        filled.path.write_bytes(b"\xff" * PAGE + whole[PAGE:])

        def full(*arguments: Any) -> Any:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

        no_room = self.patch(sqlite_spool, "salvage", full)
        now = [0.0]
        it = filled.file.open(clock=lambda: now[0])
        for _ in range(3):
            now[0] += 10
            self.assertIsInstance(it.ask(it.spool.queues), SpoolBroken)
            self.assertIsInstance(it.append(stanza(A, 1)), SpoolBroken)
        self.assertEqual((filled.file.aside, filled.path.read_bytes()[PAGE:] == whole[PAGE:]), ([], True))
        self.assertIn("cannot be saved now", it.spool.alerts()[0])
        no_room.restore()
        now[0] += 31
        self.assertEqual(len(drain(it)), len(filled.rows))
        it.close()

    def test_a_kill_while_saving(self) -> None:
        """After a kill during the salvage, the partial copy is removed and made again."""
        filled = Filled(self.mktemp())
        data = bytearray(filled.path.read_bytes())
        data[:100] = b"\xff" * 100
        filled.path.write_bytes(data)

        class Killed(BaseException):
            pass

        def kill(*arguments: Any) -> None:
            raise Killed

        killed = self.patch(salvage_module, "_write_lanes", kill)
        self.assertRaises(Killed, filled.file.open)
        killed.restore()
        self.check(filled, 0)


class TotalsTests(SynchronousTestCase):
    """Tests of the totals of a file that is built anew."""

    def test_long_texts(self) -> None:
        """The totals count as the tables do, long addresses too."""
        long = Stanza("message", b"<message/>", "u@b.example", "ü" * 300 + "@a.example")
        file = File(self.mktemp())
        it = file.open()
        it.append(spooled(A, 1), Spooled(A, 2, long, 1.0, 2.0), spooled(B, 1))
        it.close()
        connection = sqlite3.connect(file.path, isolation_level=None)
        self.addCleanup(connection.close)
        counted = connection.execute("SELECT * FROM lane").fetchall()
        connection.execute("DELETE FROM lane")
        salvage_module._write_lanes(connection, {counted[0][0]: A, counted[1][0]: B})
        self.assertEqual((connection.execute("SELECT * FROM lane").fetchall(), counted[0][4]), (counted, 110 + 621))


class FailingPlaceTests(SynchronousTestCase):
    """Tests of a place of the file that SQLite cannot read, while the file itself can be read."""

    def setUp(self) -> None:
        self.bad = 0

    def fail_page(self, path: Path, number: int) -> None:
        """Let each query fail that needs page `number` of the file at `path`, whichever file that is."""
        real = sqlite3.connect
        self.bad = number
        found = self

        class Failing(sqlite3.Connection):
            """A connection that looks at the file before each query of stanzas."""

            def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
                name = self.execute_quietly("PRAGMA database_list").fetchall()[0][2]
                if "FROM stanza" in statement and Path(os.fsdecode(name)).name == path.name and found.needs(path, statement, parameters):
                    error = sqlite3.OperationalError("disk I/O error")
                    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
                    raise error
                return super().execute(statement, parameters)

            def execute_quietly(self, statement: str) -> sqlite3.Cursor:
                return super().execute(statement)

        def connect(path: Path, **options: Any) -> sqlite3.Connection:
            return real(path, factory=Failing, **options)

        self.patch(sqlite3, "connect", connect)

    def needs(self, path: Path, statement: str, parameters: Any) -> bool:
        """Return whether a query by ranges of ids, or by an id, meets a row on the bad page."""
        ids = [value for value in parameters if isinstance(value, int) and value >= POSITIONS]
        if not ids:
            return False
        pages = DatabasePages(path)
        on_page = [row.rowid for row in pages.rows(self.bad) if row is not None] if pages.is_table_leaf(self.bad) else []
        pages.close()
        low, high = ids[0], ids[1] if len(ids) > 1 else ids[0]
        return any(low <= number <= high for number in on_page)

    def test_saved_to_other_places(self) -> None:
        """Everything is saved: the file can be read, and the new file does not use that place."""
        filled = Filled(self.mktemp())
        number = filled.path.read_bytes().index(b"<message id='75'>a") // PAGE + 1
        now = [0.0]
        self.fail_page(filled.path, number)
        it = filled.file.open(clock=lambda: now[0])
        for _ in range(2):
            self.assertEqual(type(it.read(A)), SpoolBroken)
            now[0] += 2.0
        self.assertEqual(len(drain(it)), len(filled.rows))
        self.assertEqual(filled.file.aside, [".damaged-1"])
        pages = DatabasePages(filled.path)
        used = {page for root in pages.roots().values() for page in pages.leaves(root)[0]}
        pages.close()
        self.assertNotIn(number, used)
        it.close()

    def test_not_for_ever(self) -> None:
        """A disk that fails in new places again and again does not fill up with damaged files."""
        filled = Filled(self.mktemp())
        it = filled.file.open()
        assert isinstance(it.spool, sqlite_spool.SQLiteSpool)
        for _ in range(sqlite_spool.REPLACEMENTS):
            it.spool._replace_damaged("test")
        error = self.assertRaises(SpoolBroken, it.spool._replace_damaged, "test")
        self.assertIn("replace the disk", str(error))
        kept = [name for name in filled.file.aside if not name.endswith("-wal")]
        self.assertEqual(len(kept), sqlite_spool.REPLACEMENTS)
        it.close()


class AlteredTests(SynchronousTestCase):
    """Tests of changed bytes in the file."""

    def test_content(self) -> None:
        """A stanza with changed bytes is reported with its sender. One with changed addresses is reported as such."""
        for old, new, damage in ((b"<message id='75'>a", b"<message id='75'>x", "content"), (b"u@b.example/r", b"u@x.example/r", "envelope")):
            filled = Filled(self.mktemp())
            data = filled.path.read_bytes()
            at = data.index(old)
            filled.path.write_bytes(data[:at] + new + data[at + len(old) :])
            it = filled.file.open()
            rows = drain(it)
            [altered] = [row for row in rows if row.damage]
            self.assertEqual((altered.damage, len(rows), filled.file.reports), (damage, len(filled.rows), []))
            if damage == "content":
                self.assertEqual((altered.stanza.from_, altered.stanza.id, altered.position), ("v@a.example", "75", 75))
            it.close()

    def test_types(self) -> None:
        """A value that became one of another type makes its own row an altered one, and the lane is read to its end."""
        columns = ("data", "kind", "addressee", "author", "type", "ident", "payloads", "accepted", "deadline", "content_sum", "envelope_sum")
        values = (b"\xff\x00", b"text", "text", 1.5, float("inf"), 7)
        filled = Filled(self.mktemp(), (len(columns) * len(values), 0, 0))
        it = filled.file.open()
        connection = connection_of(it)
        altered = set()
        for position, (column, value) in enumerate(((column, value) for column in columns for value in values), 1):
            sql = f"UPDATE stanza SET {column} = ? WHERE id % {POSITIONS} = ?"
            connection.execute(sql, (value, position))
            altered.add(position)
        rows = drain(it)
        self.assertEqual({row.position for row in rows if row.damage}, altered)
        self.assertEqual([row.position for row in rows], list(range(1, len(altered) + 1)))
        self.assertEqual(filled.file.reports, [])
        it.close()

    def test_no_value(self) -> None:
        """A value that is missing makes its own row an altered one, and the lane is read to its end."""
        columns = ("data", "kind", "addressee", "author", "payloads", "accepted", "deadline")
        it = Filled(self.mktemp(), (len(columns), 0, 0)).file.open()
        connection = connection_of(it)
        for statement in (
            "PRAGMA writable_schema=ON", "UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE name = 'stanza'",
            "PRAGMA writable_schema=RESET",
        ):
            connection.execute(statement)
        for position, column in enumerate(columns, 1):
            connection.execute(f"UPDATE stanza SET {column} = NULL WHERE id % {POSITIONS} = ?", (position,))
        self.assertEqual([(row.position, bool(row.damage)) for row in drain(it)], [(number, True) for number in range(1, 8)])
        it.close()

    def test_types_without_checksums(self) -> None:
        """The same holds for a row of the first version, which has no checksums."""
        columns = ("kind", "addressee", "author", "type", "ident", "payloads", "accepted", "deadline")
        it = Filled(self.mktemp(), (len(columns), 0, 0)).file.open()
        connection = connection_of(it)
        connection.execute("UPDATE stanza SET content_sum = NULL, envelope_sum = NULL")
        for position, column in enumerate(columns, 1):
            connection.execute(f"UPDATE stanza SET {column} = x'ff' WHERE id % {POSITIONS} = ?", (position,))
        rows = drain(it)
        self.assertEqual([row.position for row in rows], list(range(1, len(columns) + 1)))
        self.assertEqual([row.position for row in rows if row.damage], [7, 8])
        it.close()

    def test_insert_that_fails_at_a_read(self) -> None:
        """If rows cannot be written before a read, the read fails, and they are not counted as written."""
        it = Filled(self.mktemp(), (3, 0, 0)).file.open()
        assert isinstance(it.spool, sqlite_spool.SQLiteSpool)
        tables = it.spool._tables
        assert tables is not None
        tables.begin()
        inner = Stanza("message", b"<message/>", "u@b.example", "v@a.example", None, "\ud800")  # no text for SQLite
        tables.append([Spooled(A, 50, inner, 1.0, 2.0)])
        self.assertRaises(ValueError, tables.read, A, 0, 1)
        tables.rollback()
        self.assertEqual((tables.count, len(it.read(A))), (3, 3))
        it.close()

    def test_types_in_quarantine(self) -> None:
        """A row in quarantine that cannot be shown hides no other row, and stays in the file."""
        altered = [("cause", b"\xff"), ("at", b"\xff"), ("at", 1.5), ("position", "text"), ("sender", b"\xff"), ("recipient", "@")]
        it = Filled(self.mktemp(), (1, 0, 0)).file.open()
        for position in range(10, 10 + len(altered)):
            it.spool.quarantine(stanza(A, position), "poison", 1.0)
        it.ask(it.spool.quarantined, 100)
        connection = connection_of(it)
        for position, (column, value) in enumerate(altered, 10):
            connection.execute(f"UPDATE quarantine SET {column} = ? WHERE position = ?", (value, position))
        self.assertEqual([row.cause for row in it.ask(it.spool.quarantined, 100)], ["poison", "?"])
        self.assertEqual(connection.execute("SELECT count(*) FROM quarantine").fetchall(), [(len(altered) + 1,)])
        it.close()

    def test_time_of_a_lane(self) -> None:
        """A lane whose oldest stanza has an altered time is listed."""
        it = Filled(self.mktemp(), (3, 0, 0)).file.open()
        connection_of(it).execute("UPDATE stanza SET accepted = x'ff'")
        self.assertEqual([(lane.count, lane.oldest) for lane in it.queues()], [(3, 0.0)])
        it.close()

    def test_in_quarantine(self) -> None:
        """An altered stanza is kept in quarantine as it was found."""
        filled = Filled(self.mktemp(), (1, 0, 0))
        it = filled.file.open()
        row = stanza(A, 9)._replace(damage="content")
        it.spool.quarantine(row, "altered on the disk", 1.0)
        self.assertEqual(told(it.ask(it.spool.quarantined, 1)[0].spooled)[:3], told(row)[:3])
        it.close()

    def test_random(self) -> None:
        """However bytes are changed, no altered stanza is delivered, and the spool continues."""
        original = Filled(self.mktemp(), (40, 12, 2), 300)
        whole = original.path.read_bytes()
        for seed in range(120):
            random = Random(seed)
            data = bytearray(whole)
            for _ in range(random.choice([1, 1, 2, 8])):
                data[random.randrange(PAGE, len(data))] ^= 1 << random.randrange(8)
            file = File(self.mktemp())
            file.path.write_bytes(data)
            it = file.open()
            rows = drain(it)
            for row in rows:
                if not row.damage:
                    self.assertEqual(content(row), content(original.rows[row.pair, row.position]), seed)
            lost = sum(int(number) for report in file.reports for number in re.findall(r"; (\d+) are lost", report))
            self.assertGreaterEqual(len(rows) + lost, len(original.rows), seed)
            self.assertEqual(it.append(stanza(A, 10_000)), None)
            it.close()


class HiddenTests(SynchronousTestCase):
    """Tests of a page that claims to hold fewer rows than it does, which SQLite believes."""

    def hide(self, filled: Filled, marker: bytes, fewer: int) -> None:
        """Remove the last rows from the count of the page with `marker`."""
        data = bytearray(filled.path.read_bytes())
        at = data.index(marker) // PAGE * PAGE + 3
        data[at : at + 2] = (int.from_bytes(data[at : at + 2], "big") - fewer).to_bytes(2, "big")
        filled.path.write_bytes(data)

    def test_stanzas(self) -> None:
        """The hidden stanzas are missed at the end of their lane, and named by their numbers. None counts as delivered."""
        filled = Filled(self.mktemp())
        self.hide(filled, b"<message id='75'>a", 2)
        it = filled.file.open()
        rows = drain(it)
        gone = sorted(position for pair, position in filled.rows.keys() - {(row.pair, row.position) for row in rows})
        self.assertEqual(len(gone), 2)
        numbers = ", ".join(map(str, gone))
        self.assertIn(f"2 are lost: 2 from a.example -> b.example (numbers {numbers})", filled.file.reports[-1])
        it.close()

    def test_lanes(self) -> None:
        """A hidden lane is missed at the start, and restored from the addresses of its stanzas."""
        filled = Filled(self.mktemp())
        self.hide(filled, b"c.exampleb.example", 1)
        it = filled.file.open()
        self.assertEqual({row.pair for row in it.queues()}, {A, B, C})
        self.assertEqual(len(drain(it)), len(filled.rows))
        it.close()


class LogTests(SynchronousTestCase):
    """Tests of a damaged write-ahead log, with sound commits behind the damage."""

    def filled(self, request: bool = False) -> tuple[File, list[int]]:
        """Make a file whose log has ten commits, as after a kill; return it with the end of each commit, in frames."""
        file = File(self.mktemp())
        it = file.open()
        it.append(stanza(C, 1))
        it.close()
        it = file.open()
        ends = []
        for position in range(1, 11):
            kind = spooled(A, position, kind="iq") if request else stanza(A, position)
            it.append(kind._replace(stanza=Stanza("iq", b"<iq/>", "b.example", "a.example", "get", "1")) if request else kind)
            ends.append((Path(f"{file.path}-wal").stat().st_size - HEADER) // FRAME)
        killed = file.after_a_kill()
        it.close()
        return killed, ends

    def damage(self, file: File, at: int) -> None:
        log = Path(f"{file.path}-wal")
        data = bytearray(log.read_bytes())
        data[at] ^= 0xA5
        log.write_bytes(data)

    def test_commits_behind_the_damage(self) -> None:
        """The commits behind the damage are saved, the log is kept, and the operator is informed."""
        file, ends = self.filled()
        log = Path(f"{file.path}-wal").read_bytes()
        self.damage(file, HEADER + ends[3] * FRAME + 100)
        it = file.open()
        self.assertEqual([row.position for row in drain(it) if row.pair == A], list(range(1, 11)))
        [report] = file.reports
        for words in ("write-ahead log", "6 commits behind the damage", "6 stanzas were saved", f"{file.path}-wal.damaged-1"):
            self.assertIn(words, report)
        self.assertEqual((it.spool.alerts(), len(Path(f"{file.path}-wal.damaged-1").read_bytes())), ([report], len(log)))
        self.assertEqual((it.append(stanza(A, 11)), it.held()[0], it.spool.next_position > 10), (None, 12, True))
        it.close()
        again = file.open()
        self.assertEqual((len(drain(again)), len(file.reports)), (12, 1))
        again.close()

    def test_header(self) -> None:
        """The same holds if the beginning of the log is damaged, so that SQLite would ignore all of it."""
        file, _ = self.filled()
        self.damage(file, 17)
        it = file.open()
        self.assertEqual([row.position for row in drain(it) if row.pair == A], list(range(1, 11)))
        self.assertIn("commits behind the damage", file.reports[0])
        it.close()

    def test_in_the_middle_of_a_commit(self) -> None:
        """Of a large commit only the damaged page is lost, and its stanzas are named."""
        file = File(self.mktemp())
        it = file.open()
        it.append(*(stanza(A, position) for position in range(1, 201)))
        killed = file.after_a_kill()
        it.close()
        log = Path(f"{killed.path}-wal").read_bytes()
        frame = (log.index(b"<message id='77'>") - HEADER) // FRAME
        content = log[HEADER + frame * FRAME : HEADER + (frame + 1) * FRAME]
        on_page = sorted(int(number) for number in re.findall(rb"<message id='(\d+)'>", content))
        self.damage(killed, HEADER + frame * FRAME + 100)
        it = killed.open()
        found = [row.position for row in drain(it)]
        self.assertEqual(sorted({*range(1, 201)} - set(found)), on_page)
        numbers = ", ".join(map(str, on_page))
        self.assertIn(f"{len(on_page)} are lost: {len(on_page)} from a.example -> b.example (numbers {numbers})", killed.reports[0])
        it.close()

    def test_requests(self) -> None:
        """R33: no request is sent again that may have been passed on according to a lost commit."""
        file, ends = self.filled(request=True)
        self.damage(file, HEADER + ends[3] * FRAME + 100)
        it = file.open()
        self.assertEqual([row.written for row in it.read(A)], [True] * 10)
        it.close()

    def test_torn_end(self) -> None:
        """The end of a log that a crash cut off was never confirmed: nothing is reported and nothing kept."""
        file, _ = self.filled()
        log = Path(f"{file.path}-wal")
        log.write_bytes(log.read_bytes()[:-100])
        it = file.open()
        self.assertEqual([row.position for row in drain(it) if row.pair == A], list(range(1, 10)))
        self.assertEqual((file.reports, list(log.parent.glob("*damaged*"))), ([], []))
        it.close()

    def test_no_room_to_keep_it(self) -> None:
        """If the log cannot be kept, nothing is overwritten: the spool waits for room."""
        file, ends = self.filled()
        self.damage(file, HEADER + ends[3] * FRAME + 100)
        before = Path(f"{file.path}-wal").read_bytes()
        full = self.patch(sqlite_spool, "keep_copy", lambda *arguments: os.pwrite(os.open("/dev/full", os.O_WRONLY), b"x", 0))
        now = [0.0]
        it = file.open(clock=lambda: now[0])
        self.assertIsInstance(it.append(stanza(A, 11)), SpoolBroken)
        self.assertEqual(Path(f"{file.path}-wal").read_bytes(), before)
        full.restore()
        now[0] += 2
        self.assertEqual(len(drain(it)), 11)
        it.close()


class StaleTests(SynchronousTestCase):
    """Tests of removed rows that are still on free pages."""

    def test_removed_stanzas_do_not_come_back(self) -> None:
        """If the list of free pages is lost too, a lane has no more stanzas than it held, and they are its last ones."""
        filled = Filled(self.mktemp(), (400, 0, 0))
        it = filled.file.open()
        connection_of(it).execute("PRAGMA secure_delete=OFF")  # the default of SQLite, but not of every system
        it.spool.remove(A, 300)
        it.held()
        it.close()
        data = bytearray(filled.path.read_bytes())
        data[:PAGE] = bytes(PAGE)
        filled.path.write_bytes(data)
        it = filled.file.open()
        rows = drain(it)
        self.assertEqual([row.position for row in rows], list(range(301, 401)))
        it.close()

    def test_free_pages_stay_free(self) -> None:
        """Removed rows do not come back if another page is damaged."""
        filled = Filled(self.mktemp(), (400, 0, 0))
        it = filled.file.open()
        connection_of(it).execute("PRAGMA secure_delete=OFF")  # the default of SQLite, but not of every system
        it.spool.remove(A, 300)
        it.held()
        it.close()
        data = bytearray(filled.path.read_bytes())
        page = data.index(b"<message id='350'>") // PAGE * PAGE
        data[page : page + PAGE] = bytes(PAGE)
        filled.path.write_bytes(data)
        for _ in range(2):
            it = filled.file.open()
            positions = [row.position for row in drain(it)]
            self.assertEqual((positions[0], positions[-1], len(positions) > 85), (301, 400, True))
            it.close()

    def test_what_is_in_doubt_is_not_sent_as_new(self) -> None:
        """R33: rows that may have been removed are marked as written. They are not if the numbers agree."""
        for pages, written in ((1, False), (2, True)):
            filled = Filled(self.mktemp(), (50, 0, 0))
            data = bytearray(filled.path.read_bytes())
            data[: pages * PAGE] = bytes(pages * PAGE)
            filled.path.write_bytes(data)
            it = filled.file.open()
            rows = drain(it)
            self.assertEqual((len(rows), {row.written for row in rows}), (50, {written}))
            it.close()
