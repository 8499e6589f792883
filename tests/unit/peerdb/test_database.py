"""Tests of the peer database: written by a thread, on disks that are slow, full, failing or damaged."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import Mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.peerdb import database as module
from s2sgw.peerdb.database import Content, DatabaseUnusable, PeerDatabase, Statement
from tests.support.peer_database import PeerDatabaseTestCase, database

T = TypeVar("T")
#: Seconds after which a missing answer fails the test.
PATIENCE = 30
TABLE = "CREATE TABLE IF NOT EXISTS t (x INTEGER UNIQUE)"
#: A process that may write no byte to any file opens the database, and reads what is in it.
_ON_A_FULL_DISK = """\
import resource, sys
sys.path.insert(0, {root!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
from s2sgw.peerdb.database import PeerDatabase
complaints = []
store = PeerDatabase({path!r}, complaints.append)
store.define({table!r})
store.write(("INSERT INTO t VALUES (9)", ()))
print(store.rows("SELECT x FROM t"), len(complaints))
"""


def insert(number: int) -> Statement:
    return "INSERT INTO t VALUES (?)", (number,)


class Numbers:
    """A part that keeps numbers, in memory and in the database."""

    def __init__(self, store: PeerDatabase) -> None:
        self.store = store
        self.numbers: set[int] = set()
        store.define(TABLE, lambda: Content("t", sorted(self.numbers), insert))

    def add(self, number: int) -> None:
        self.numbers.add(number)
        self.store.write(insert(number))


class Threaded:
    """A database with its thread. The test waits for its answers. Whenever the clock is read, long time has passed."""

    def __init__(self, path: str, **options: Any) -> None:
        self.path = Path(path)
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.complaints: list[str] = []
        clock = options.pop("clock", SimpleNamespace(seconds=count(0, module.REWRITE_SECONDS + 1).__next__))
        self.store = PeerDatabase(self.path, self.complaints.append, self.calls.put, clock=clock, **options)
        self.part = Numbers(self.store)
        self.store.begin()

    def result(self, asked: Deferred[T]) -> T:
        """Return the answer, or raise its failure."""
        found: list[Any] = []
        asked.addBoth(found.append)
        while not found:
            self.calls.get(timeout=PATIENCE)()
        if hasattr(found[0], "raiseException"):
            found[0].raiseException()
        return found[0]  # type: ignore[no-any-return]

    def stored(self) -> list[int]:
        return [number for (number,) in self.result(self.store.ask("SELECT x FROM t ORDER BY x"))]

    @property
    def connection(self) -> sqlite3.Connection:
        assert self.store._connection is not None
        return self.store._connection


class FileTests(PeerDatabaseTestCase):
    def test_private(self) -> None:
        """The file, and those that SQLite puts beside it, are private."""
        path = Path(self.mktemp())
        store = database(str(path))
        store.define(TABLE)
        self.assertEqual({0o600}, {each.stat().st_mode & 0o777 for each in path.parent.glob(f"{path.name}*")})
        self.result(store.close())
        with self.assertRaisesRegex(DatabaseUnusable, "No such file or directory"):
            database(f"{self.mktemp()}/x")

    def test_garbled(self) -> None:
        """A file that is not a database, or is damaged, is not overwritten: the start ends with one line and the remedy."""
        path = Path(self.mktemp())
        path.write_bytes(b"something else, of some length, at least a hundred bytes " * 9)
        before = path.read_bytes()
        with self.assertRaisesRegex(DatabaseUnusable, "not a database; restore it from a backup, or move it away"):
            database(str(path))
        self.assertEqual(path.read_bytes(), before)
        path.unlink()
        store = database(str(path))
        store.define(TABLE)
        store.write(*map(insert, range(2000)))
        self.result(store.close())
        data = path.read_bytes()
        path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
        store = database(str(path))
        with self.assertRaisesRegex(DatabaseUnusable, "malformed; restore it"):
            store.rows("SELECT x FROM t")

    def test_in_use(self) -> None:
        """A second gateway with the same state gets an error, and does no harm."""
        path = self.mktemp()
        first = database(path)
        first.define(TABLE)
        with self.assertRaisesRegex(DatabaseUnusable, "another gateway runs with this state"):
            database(path).define(TABLE)
        first.write(insert(1))
        self.assertEqual(first.rows("SELECT x FROM t"), [(1,)])

    def test_no_byte_is_written(self) -> None:
        """On a full disk the file is opened and read. A write that fails is reported once."""
        path = self.mktemp()
        store = database(path)
        store.define(TABLE)
        store.write(insert(1))
        self.result(store.close())
        script = _ON_A_FULL_DISK.format(root=str(Path(__file__).resolve().parents[3]), path=path, table=TABLE)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "[(1,)] 1\n")

    def test_all_or_nothing(self) -> None:
        """A write that fails leaves nothing, and is reported once. A decision that fails is an error."""
        complaints: list[str] = []
        store = PeerDatabase(module.MEMORY, complaints.append)
        store.define(TABLE)
        bad = ("INSERT INTO missing VALUES (1)", ())
        store.write(insert(1), bad)
        store.write(insert(1), bad)
        self.assertEqual((1, [], 2), (len(complaints), store.rows("SELECT * FROM t"), store.given_up))
        self.assertIn("no such table", str(self.failure(store.write_durably(insert(1), bad))))
        store.write(insert(1))
        self.assertEqual((1, []), (self.result(store.write_durably(("UPDATE t SET x = 2", ()))), store.alerts()))
        self.assertEqual([(2,)], self.result(store.ask("SELECT x FROM t")))
        self.result(store.close())
        self.result(store.close())
        self.failure(store.ask("SELECT 1"))


class ThreadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.it = Threaded(self.mktemp())

    def test_order(self) -> None:
        """Everything takes effect in order, and each answer includes what was written before it."""
        self.it.part.add(1)
        first = self.it.store.ask("SELECT x FROM t")
        self.it.part.add(2)
        self.assertEqual((self.it.result(first), self.it.stored()), ([(1,)], [1, 2]))
        self.assertEqual(self.it.result(self.it.store.write_durably(("DELETE FROM t", ()))), 2)
        self.assertGreater(self.it.store.bytes, 4096)
        self.it.result(self.it.store.close())

    def test_many_share_a_commit(self) -> None:
        """A slow disk delays only the thread. Everything written meanwhile is one transaction."""
        go_on = Event()
        commits: list[int] = []
        self.it.connection.create_function("wait", 0, lambda: go_on.wait(PATIENCE))
        self.it.connection.set_trace_callback(lambda text: commits.append(1) if text == "COMMIT" else None)  # before `wait` holds its lock
        self.it.store.write(("INSERT INTO t SELECT -1 WHERE wait() IS NOT NULL", ()))
        for number in range(400):
            self.it.part.add(number)
        go_on.set()
        self.assertEqual((len(self.it.stored()), len(commits) <= 3), (401, True))
        self.it.result(self.it.store.close())

    def test_later(self) -> None:
        """Records that may be written later wake the thread with the next record, when there are enough, and at the end."""
        self.patch(module, "LATER", 3)
        self.it.store.write_later(insert(1), insert(2))
        self.assertEqual(self.it.store._put_jobs, 0)
        self.it.store.write(insert(3))
        self.assertEqual((self.it.store._put_jobs, self.it.stored()), (2, [1, 2, 3]))
        self.it.store.write_later(insert(4), insert(5), insert(6))
        self.assertEqual(self.it.store._put_jobs, 4)
        self.it.store.write_later(insert(7))
        self.assertEqual(self.it.stored(), list(range(1, 8)))
        self.it.store.write_later(insert(8))
        self.it.result(self.it.store.close())
        with closing(sqlite3.connect(self.it.path)) as connection:
            self.assertEqual(connection.execute("SELECT count(*) FROM t").fetchone(), (8,))

    def test_no_call_without_a_question(self) -> None:
        """A write calls the caller's thread only if an answer is awaited."""
        begun, go_on = Event(), Event()

        def wait() -> bool:
            begun.set()
            return go_on.wait(PATIENCE)

        self.it.connection.create_function("wait", 0, wait)
        self.it.store.write(("INSERT INTO t SELECT -1 WHERE wait() IS NOT NULL", ()))
        self.assertTrue(begun.wait(PATIENCE))
        self.it.part.add(1)
        called = Mock(side_effect=self.it.calls.put)
        self.patch(self.it.store, "_deliver", called)
        go_on.set()
        self.assertEqual(([-1, 1], 1), (self.it.stored(), called.call_count))
        self.it.result(self.it.store.close())

    def test_bounded(self) -> None:
        """The writes that wait for a disk that does not answer are bounded. When the disk continues, everything is written from memory."""
        self.patch(module, "WAITING", 50)
        go_on = Event()
        self.it.connection.create_function("wait", 0, lambda: go_on.wait(PATIENCE))
        self.it.store.write(("DELETE FROM t WHERE wait() IS NULL", ()))
        for number in range(200):
            self.it.part.add(number)
        self.assertEqual(self.it.store.given_up, 151)
        go_on.set()
        self.assertLessEqual(len(self.it.stored()), 50)
        self.assertEqual(self.it.stored(), list(range(200)))
        self.it.result(self.it.store.close())

    def test_full_disk(self) -> None:
        """While the disk is full nothing in memory is lost. Once there is room all of it is written. The error is reported once."""
        self.it.part.add(1)
        self.assertEqual(self.it.stored(), [1])
        self.it.connection.execute("PRAGMA max_page_count=3")
        for number in range(2, 3000):
            self.it.part.add(number)
        with self.assertRaises(OSError):
            self.it.result(self.it.store.write_durably(*map(insert, range(5000, 9000))))
        self.assertEqual((len(self.it.complaints), len(self.it.store.alerts())), (1, 1))
        self.assertIn("full", self.it.complaints[0])
        self.it.connection.execute("PRAGMA max_page_count=10000")
        self.it.part.add(3000)
        self.it.stored()
        self.assertEqual((self.it.stored(), self.it.store.alerts()), (list(range(1, 3001)), []))
        self.it.result(self.it.store.close())

    def test_nearly_full_disk(self) -> None:
        """If there is room for small writes alone, everything is written anew only now and then. Reading does not end the alert."""
        clock = Clock()
        self.it = Threaded(self.mktemp(), clock=clock)
        self.it.connection.execute("PRAGMA max_page_count=4")
        for number in range(3000):
            self.it.part.add(number)
        self.it.stored()
        self.it.stored()
        self.assertEqual(len(self.it.store.alerts()), 1)
        deletions: list[str] = []
        self.it.connection.set_trace_callback(lambda text: deletions.append(text) if text == "DELETE FROM t" else None)
        self.it.result(self.it.store.write_durably(("DELETE FROM t WHERE x >= 10", ())))
        for _ in range(20):
            self.it.result(self.it.store.write_durably(("UPDATE t SET x = x", ())))
        self.assertEqual(len(deletions), 2)  # in a transaction with others, and alone
        clock.advance(module.REWRITE_SECONDS)
        for _ in range(20):
            self.it.result(self.it.store.write_durably(("UPDATE t SET x = x", ())))
        self.assertEqual(len(deletions), 4)
        self.it.connection.execute("PRAGMA max_page_count=10000")
        clock.advance(module.REWRITE_SECONDS)
        self.it.result(self.it.store.write_durably(("UPDATE t SET x = x", ())))
        self.it.stored()
        self.assertEqual((self.it.stored(), self.it.store.alerts()), (list(range(3000)), []))
        self.it.result(self.it.store.close())

    def test_written_at_the_end(self) -> None:
        """Rows that a full disk did not store are written at a stop, if there is room by then."""
        self.it.connection.execute("PRAGMA max_page_count=3")
        for number in range(3000):
            self.it.part.add(number)
        self.it.stored()
        self.it.connection.execute("PRAGMA max_page_count=10000")
        self.it.result(self.it.store.close())
        again = Threaded(str(self.it.path))
        self.assertEqual(again.stored(), list(range(3000)))
        again.result(again.store.close())

    def damage_pages(self) -> None:
        """Overwrite all but the first pages of the file, and let SQLite read them again."""
        self.it.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.it.connection.execute("PRAGMA shrink_memory")
        data = bytearray(self.it.path.read_bytes())
        data[8192:] = b"\xff" * (len(data) - 8192)
        with self.it.path.open("r+b") as file:
            file.write(data)

    def test_damaged_page(self) -> None:
        """Damage found at work: the file is set aside, the damage is reported, and a new file is written from memory."""
        for number in range(5000):
            self.it.part.add(number)
        self.it.stored()
        self.damage_pages()
        with self.assertRaises(OSError):
            self.it.stored()
        self.it.part.add(5000)
        self.it.stored()
        self.assertEqual(self.it.stored(), list(range(5001)))
        [complaint] = self.it.complaints
        for words in ("is damaged", f"{self.it.path}.damaged-1", "written anew from memory"):
            self.assertIn(words, complaint)
        self.it.result(self.it.store.close())
        again = Threaded(str(self.it.path))
        self.assertEqual(len(again.stored()), 5001)
        again.result(again.store.close())

    def test_damaged_again_and_again(self) -> None:
        """A disk that damages each new file does not fill with old ones: after some the file stays, and the report says so."""
        self.patch(module, "REPLACEMENTS", 1)
        for number in range(5000):
            self.it.part.add(number)
        for _ in range(2):
            self.it.stored()
            self.it.stored()
            self.damage_pages()
            with self.assertRaises(OSError):
                self.it.stored()
            self.it.part.add(5000)
        self.assertIn("after 1 new files: replace the disk", self.it.complaints[-1])
        self.assertEqual(len(list(self.it.path.parent.glob(f"{self.it.path.name}.damaged-?"))), 1)
        self.it.result(self.it.store.close())


class AbsentTests(SynchronousTestCase):
    def test_no_file_and_no_room(self) -> None:
        """If the disk has no room for a new file, the gateway starts all the same. The file is made when there is room."""
        real = sqlite3.connect

        def full(*arguments: Any, **options: Any) -> sqlite3.Connection:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

        patch = self.patch(sqlite3, "connect", full)
        it = Threaded(self.mktemp())
        self.assertEqual(it.store.rows("SELECT x FROM t"), [])
        it.part.add(1)
        with self.assertRaises(OSError):
            it.stored()
        self.assertIn("when there is room", it.complaints[0])
        patch.restore()
        self.assertIs(sqlite3.connect, real)
        it.part.add(2)
        it.stored()
        self.assertEqual(it.stored(), [1, 2])
        it.result(it.store.close())
