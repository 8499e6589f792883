"""Tests of reading SQLite files page by page: the result equals SQLite's, and more is read if SQLite reads nothing."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.storage import sqlite_pages
from s2sgw.storage.sqlite_pages import DatabasePages, PageUnreadable, read_log, record

#: Bytes of a page, of a frame of the log with its header, and of the log's own header.
PAGE, FRAME, HEADER = 4096, 4120, 32


class Database:
    """A database that the test fills, and damages."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.log = Path(f"{path}-wal")
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA wal_autocheckpoint=0")
        self.connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b BLOB, c, d)")
        self.connection.execute("CREATE INDEX by_c ON t (c)")
        self.random = Random(7)

    def fill(self, number: int, size: int = 400) -> None:
        random = self.random
        for _ in range(number):
            values: tuple[Any, ...] = (
                random.randrange(-5, 1 << 50), "ü" * random.randrange(20), random.randbytes(random.randrange(size)),
                random.choice([None, 0, 1, -1, 300, -70_000, 1 << 33, -(1 << 60), "text"]), random.choice([0.5, 2.0, None, b""]),
            )
            self.connection.execute("INSERT OR REPLACE INTO t VALUES (?, ?, ?, ?, ?)", values)

    def rows(self) -> list[tuple[Any, ...]]:
        return self.connection.execute("SELECT * FROM t ORDER BY id").fetchall()

    def checkpoint(self) -> None:
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def pages(self, behind: bool = False) -> DatabasePages:
        return DatabasePages(self.path, behind)

    def flip(self, path: Path, at: int) -> None:
        """Change one byte."""
        data = bytearray(path.read_bytes())
        data[at] ^= 0xA5
        path.write_bytes(data)


def read(pages: DatabasePages) -> list[tuple[Any, ...]]:
    """Return the rows of table t."""
    leaves, _ = pages.leaves(pages.roots().get("t", 0))
    return [(row.rowid, *row.values[1:]) for number in leaves for row in pages.rows(number) if row is not None]


class ReadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.database = Database(self.mktemp())

    def tearDown(self) -> None:
        self.database.connection.close()

    def assertSame(self) -> None:
        pages = self.database.pages()
        rows = self.database.rows()
        self.assertEqual(read(pages), rows)
        entries, whole = pages.entries(pages.roots()["by_c"])
        self.assertEqual((sorted(entry[-1] for entry in entries), whole), ([row[0] for row in rows], True))  # type: ignore[type-var]
        pages.close()

    def test_the_same_as_sqlite(self) -> None:
        """Values of every type, rows larger than a page, and trees of several levels are read, from the log, the file and both."""
        self.database.fill(800)
        self.assertSame()
        self.database.checkpoint()
        self.assertSame()
        self.database.fill(20, 40_000)
        self.database.connection.execute("DELETE FROM t WHERE id % 3 = 0")
        self.assertSame()
        self.database.fill(100)
        self.assertSame()

    def test_free_pages(self) -> None:
        """Free pages are known, and no others."""
        self.database.fill(300)
        self.database.connection.execute("DELETE FROM t WHERE id % 2 = 0")
        self.database.connection.execute("DELETE FROM t WHERE id > (SELECT max(id) FROM t) / 4")
        self.database.checkpoint()
        pages = self.database.pages()
        free, whole = pages.free_pages()
        self.assertEqual((len(free), whole), (self.database.connection.execute("PRAGMA freelist_count").fetchone()[0], True))
        self.assertGreater(len(free), 10)
        self.assertEqual(free & set(pages.leaves(2)[0]), set())
        pages.close()

    def test_empty(self) -> None:
        """An empty file has no pages, and reading one is an error."""
        path = Path(self.mktemp())
        path.touch()
        pages = DatabasePages(path)
        self.assertEqual((len(pages), pages.free_pages()), (0, (set(), False)))
        self.assertRaises(PageUnreadable, pages.page, 1)
        self.assertEqual(pages.roots(), {})
        pages.close()

    def test_other_page_size(self) -> None:
        """The first page gives the page size."""
        path = Path(self.mktemp())
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA page_size=65536")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
        connection.execute("INSERT INTO t VALUES (5, 'x')")
        connection.commit()
        connection.close()
        pages = DatabasePages(path)
        self.assertEqual((len(pages), read(pages)), (2, [(5, "x")]))
        pages.close()


class DamageTests(SynchronousTestCase):
    """Rows on the other pages can be read."""

    def setUp(self) -> None:
        self.database = Database(self.mktemp())
        self.database.fill(300)
        self.database.checkpoint()
        self.rows = self.database.rows()
        self.database.connection.close()

    def test_any_page(self) -> None:
        """Whichever page is overwritten, every row read was written, and only rows on that page are missing."""
        whole = self.database.path.read_bytes()
        for number in range(1, len(whole) // PAGE + 1):
            for data in (bytes(PAGE), b"\xff" * PAGE, Random(number).randbytes(PAGE)):
                self.database.path.write_bytes(whole[: (number - 1) * PAGE] + data + whole[number * PAGE :])
                pages = self.database.pages()
                rows = read(pages)
                self.assertEqual(set(rows) - set(self.rows), set())
                if number > 3:
                    self.assertGreaterEqual(len(rows), len(self.rows) - 60)
                pages.free_pages()
                pages.close()

    def test_unreadable(self) -> None:
        """A page that the disk does not read is reported, and the others are read."""
        real = os.pread
        bad = 9

        def pread(descriptor: int, size: int, offset: int) -> bytes:
            if offset == (bad - 1) * PAGE:
                raise OSError(5, "Input/output error")
            return real(descriptor, size, offset)

        self.patch(os, "pread", pread)
        pages = self.database.pages()
        self.assertEqual(pages.unreadable_pages(), {bad})
        self.assertGreater(len(read(pages)), 200)
        self.assertEqual(pages.is_table_leaf(bad), False)
        pages.close()

    def test_random_damage(self) -> None:
        """After random damage other rows or none are read, and the only errors are the declared ones."""
        whole = self.database.path.read_bytes()
        for seed in range(150):
            random = Random(seed)
            data = bytearray(whole)
            for _ in range(random.randrange(1, 20)):
                data[random.randrange(len(data))] = random.randrange(256)
            self.database.path.write_bytes(data)
            pages = self.database.pages()
            for number in range(1, len(pages) + 1):
                if pages.is_table_leaf(number):
                    list(pages.rows(number))
            pages.free_pages()
            for root in pages.roots().values():
                pages.leaves(root)
                pages.entries(root)
            pages.close()

    def test_records(self) -> None:
        """Bytes that are not a record are reported as such."""
        for data in (b"\x02\x01", b"\x02\x0a", b"\x02\x21abc", b"\x03\x01\x00\x05\x00"):
            self.assertRaises((ValueError, IndexError), record, data)


class LogTests(SynchronousTestCase):
    """Tests of a write-ahead log with damage in the middle."""

    def setUp(self) -> None:
        self.database = Database(self.mktemp())
        self.database.fill(50)
        self.database.checkpoint()
        self.commits: list[int] = []
        for _ in range(10):
            self.database.fill(1)
            self.commits.append((self.database.log.stat().st_size - HEADER) // FRAME)
        self.rows = self.database.rows()

    def tearDown(self) -> None:
        self.database.connection.close()

    def copy(self) -> Database:
        """Copy the files as a kill leaves them."""
        copy = object.__new__(Database)
        copy.path = Path(f"{self.database.path}-copy")
        copy.log = Path(f"{copy.path}-wal")
        copy.path.write_bytes(self.database.path.read_bytes())
        copy.log.write_bytes(self.database.log.read_bytes())
        return copy

    def recovered(self, copy: Database) -> int:
        """Return the number of rows that SQLite finds."""
        connection = sqlite3.connect(copy.path)
        (number,) = connection.execute("SELECT count(*) FROM t").fetchone()
        connection.close()
        return int(number)

    def test_sound(self) -> None:
        """A sound log has no commits behind a damage."""
        log = read_log(self.database.log)
        assert log is not None
        self.assertEqual((log.commits_behind, log.behind, log.pages), (0, {}, len(self.database.pages())))

    def test_damaged_frame(self) -> None:
        """The commits before the damage are those that SQLite recovers. Those behind it are known, and can be read."""
        for commit, end in enumerate(self.commits[:-1]):
            copy = self.copy()
            copy.flip(copy.log, HEADER + end * FRAME + 24 + 2000)
            log = read_log(copy.log)
            assert log is not None
            behind = copy.pages(behind=True)
            found = read(behind)
            self.assertEqual(log.commits_behind, 9 - commit)
            self.assertGreater(len(found), len(self.rows) - 12)
            behind.close()
            before = copy.pages()
            self.assertEqual(len(read(before)), self.recovered(copy))
            before.close()

    def test_damaged_header(self) -> None:
        """SQLite ignores such a log completely: all commits except those of its first frame are behind the damage."""
        for at in (0, 8, 17, 30):
            copy = self.copy()
            copy.flip(copy.log, at)
            log = read_log(copy.log)
            assert log is not None
            self.assertEqual((log.committed, log.commits_behind >= 9), ({}, True))
            self.assertEqual(self.recovered(copy), len(self.rows) - 10)

    def test_torn_end(self) -> None:
        """A commit without its end, after a crash, was never confirmed: it is not damage."""
        for cut in (1, FRAME - 1, FRAME, FRAME + 7):
            copy = self.copy()
            copy.log.write_bytes(copy.log.read_bytes()[:-cut])
            log = read_log(copy.log)
            assert log is not None
            self.assertEqual((log.commits_behind, log.behind), (0, {}))

    def test_old_frames(self) -> None:
        """Frames left by an earlier round of the log are not part of it."""
        self.database.connection.execute("PRAGMA wal_checkpoint(RESTART)")
        self.database.fill(1)
        log = read_log(self.database.log)
        assert log is not None
        self.assertEqual((log.commits_behind, log.behind), (0, {}))
        self.assertLess(len(log.committed), 8)

    def test_none(self) -> None:
        """A missing log, an empty one and one of zeros have no commits."""
        path = Path(self.mktemp())
        self.assertIsNone(read_log(path))
        for data, empty in ((b"", None), (bytes(40), None), (bytes(HEADER + 3 * FRAME), {})):
            path.write_bytes(data)
            log = read_log(path)
            self.assertEqual(log if log is None else log.behind, empty)

    def test_both_orders(self) -> None:
        """The checksum is the one of §4.2, in both byte orders."""
        self.assertEqual(sqlite_pages._checksum("<", (0, 0), b"\1\0\0\0\2\0\0\0"), (1, 3))
        self.assertEqual(sqlite_pages._checksum(">", (0, 0), b"\0\0\0\1\0\0\0\2"), (1, 3))
