"""Tests of the spool's file: it is made, migrated, opened without a write, and replaced."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.spool import spool_file, tables
from s2sgw.spool.interface import SpoolBroken, SpoolFull
from s2sgw.spool.spool_file import begin_replacement, commit_replacement, finish_replacement
from tests.support.spool_contract import A, B, spooled, told
from tests.support.spool_files import File, connection_of

#: Statements that write.
WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "BEGIN IMMEDIATE", "PRAGMA user_version=", "PRAGMA application_id=")
#: A process that may write no byte to any file opens the spool, prints its content, and that it stores nothing.
_ON_A_FULL_DISK = """\
import resource, sys
from pathlib import Path
from queue import SimpleQueue
sys.path.insert(0, {root!r})
from tests.support.spool_files import File
from tests.support.spool_contract import A, B, spooled
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
it = File({path!r}).open()
print(it.positions(A), type(it.append(spooled(B, 1))).__name__, it.positions(A), it.held())
it.spool.remove(A, 1)
it.close()
"""


class FullDisk(sqlite3.Connection):
    """A connection to a file on a disk without room."""

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        if statement.startswith(WRITES):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(statement, *arguments)


class OpenTests(SynchronousTestCase):
    """Tests of a file that is opened unchanged."""

    def setUp(self) -> None:
        self.file = File(self.mktemp())

    def fill_disk(self) -> Any:
        real = sqlite3.connect

        def connect(path: Path, **options: Any) -> sqlite3.Connection:
            return real(path, factory=sqlite3.Connection if str(path) == ":memory:" else FullDisk, **options)

        return self.patch(sqlite3, "connect", connect)

    def test_on_a_full_disk(self) -> None:
        """The spool is opened without a write: its content is delivered, and new stanzas are bounced."""
        it = self.file.open()
        it.append(*(spooled(A, position) for position in range(1, 4)))
        it.close()
        full = self.fill_disk()
        it = self.file.open()
        self.assertEqual((it.positions(A), it.held()), ([1, 2, 3], (3, 300)))
        refused = it.append(spooled(B, 1))
        self.assertIsInstance(refused, SpoolFull)
        self.assertEqual((refused.bound, len(it.spool.alerts())), ("disk", 1))
        full.restore()
        it.close()

    def test_no_byte_is_written(self) -> None:
        """The same holds if the system permits no write to any file, after an orderly stop and after a kill."""
        it = self.file.open()
        it.append(*(spooled(A, position) for position in range(1, 4)))
        killed = self.file.after_a_kill()
        it.close()
        for file in (self.file, killed):
            root = str(Path(__file__).resolve().parents[3])
            script = _ON_A_FULL_DISK.format(root=root, path=str(file.path.resolve()))
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
            self.assertEqual(done.stdout, "[1, 2, 3] SpoolBroken [1, 2, 3] (3, 300)\n")
            again = file.open()
            self.assertEqual(again.positions(A), [1, 2, 3])
            again.close()

    def test_no_file_and_no_room(self) -> None:
        """If the file is absent and cannot be made, the spool is empty and full until there is room."""
        full = self.fill_disk()
        now = [0.0]
        it = self.file.open(clock=lambda: now[0])
        refused = it.append(spooled(A, 1))
        self.assertEqual((it.queues(), it.held(), type(refused), refused.bound), ([], (0, 0), SpoolFull, "disk"))
        self.assertIn("nothing is held on the disk until there is room", it.spool.alerts()[0])
        self.assertEqual(len(self.file.reports), 1)
        full.restore()
        now[0] = 1.5
        self.assertEqual((it.append(spooled(A, 1)), it.positions(A), it.spool.alerts()), (None, [1], []))
        self.assertIn("has room again", self.file.reports[1])
        it.close()
        again = self.file.open()
        self.assertEqual(again.positions(A), [1])
        again.close()

    def test_cannot_be_read_at_first(self) -> None:
        """A disk that fails at the start is not an empty spool: every call is an error until it can be read."""
        it = self.file.open()
        it.append(spooled(A, 1))
        it.close()
        real = spool_file._opened

        def fail(*arguments: Any) -> sqlite3.Connection:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

        self.patch(spool_file, "_opened", fail)
        now = [0.0]
        it = self.file.open(clock=lambda: now[0])
        for answer in (it.ask(it.spool.queues), it.append(spooled(A, 1))):
            self.assertIsInstance(answer, SpoolBroken)
        self.assertIn("no peer is admitted", it.spool.alerts()[0])
        self.patch(spool_file, "_opened", real)
        self.assertIsInstance(it.ask(it.spool.queues), SpoolBroken)
        now[0] = 1.5
        self.assertEqual((it.positions(A), it.spool.next_position > 1), ([1], True))
        it.close()

    def test_nowhere_to_go(self) -> None:
        """A missing directory is an error at the start."""
        self.assertIn("cannot be made", str(self.assertRaises(SpoolBroken, File(f"{self.mktemp()}/no/where").open)))

    def test_newer_version(self) -> None:
        """A file of a newer version is neither guessed at nor called damaged. Under that version all of it is still there."""
        it = self.file.open()
        it.append(spooled(A, 1))
        it.close()
        self.set_version(99)
        it = self.file.open()
        self.assertEqual((it.held(), it.append(spooled(A, 1)), it.positions(A)), ((0, 0), None, [1]))
        it.close()
        [report], aside = self.file.reports, Path(f"{self.file.path}.newer-1")
        for word in ("newer version", "99", str(aside), "nothing is lost", f"to {self.file.path}", "stop"):
            self.assertIn(word, report)
        self.assertEqual(self.file.aside, [])
        aside.rename(self.file.path)
        self.set_version(len(spool_file.MIGRATIONS))
        it = self.file.open()
        self.assertEqual(it.held()[0], 1)
        it.close()

    def set_version(self, number: int) -> None:
        with sqlite3.connect(self.file.path) as connection:
            connection.execute(f"PRAGMA user_version={number}")
        connection.close()


class MigrationTests(SynchronousTestCase):
    """Tests of files of older versions."""

    def setUp(self) -> None:
        self.file = File(self.mktemp())

    def first_version(self) -> None:
        """Make a file as the first version made it, with two stanzas in lane 3."""
        connection = sqlite3.connect(self.file.path)
        connection.executescript(";".join(spool_file.MIGRATIONS[0]))
        connection.execute("INSERT INTO lane VALUES (3, 'a.example', 'b.example', 2, 200)")
        for position in (41, 42):
            row = spooled(A, position)
            values = row.stanza.kind, row.stanza.data, row.stanza.to, row.stanza.from_, None, row.stanza.id, "x}y\x1fx}z"
            times = 1_700_000_000_000_000, 1_700_000_600_000_000
            statement = f"INSERT INTO stanza VALUES ({3 * tables.POSITIONS + position}, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
            connection.execute(statement, (*values, *times))
        poison = ("a.example", "b.example", 7, *values, *times, 1, "poison", 1_700_000_000_000_000)
        connection.execute(f"INSERT INTO pen VALUES (1, {', '.join('?' * len(poison))})", poison)
        connection.execute("PRAGMA application_id=0x53325347")
        connection.execute("PRAGMA user_version=1")
        connection.commit()
        connection.close()

    def test_first_version(self) -> None:
        """A file of the first version is migrated. Its rows have no checksums, and are delivered as they are."""
        self.first_version()
        it = self.file.open(clock=lambda: 50.0, wall=lambda: 1_700_000_060.0, boot=lambda: "this boot")
        self.assertEqual((it.positions(A), it.held(), it.spool.next_position, self.file.reports), ([41, 42], (2, 200), 43, []))
        first = it.read(A)[0]
        self.assertEqual((told(first)[2], first.accepted_at, first.deadline), (told(spooled(A, 41))[2], -10.0, 590.0))
        [poison] = it.ask(it.spool.quarantined, 9)
        self.assertEqual((poison.spooled.position, poison.cause, poison.at), (7, "poison", 1_700_000_000.0))
        self.assertEqual(it.append(spooled(A, 43)), None)
        it.close()
        again = self.file.open()
        self.assertEqual((again.positions(A), self.file.reports), ([41, 42, 43], []))
        again.close()

    def test_damaged_first_version(self) -> None:
        """A damaged file of the first version is saved and migrated at once."""
        self.first_version()
        data = bytearray(self.file.path.read_bytes())
        data[100:4096] = b"\xff" * 3996
        self.file.path.write_bytes(data)
        it = self.file.open()
        self.assertEqual((it.positions(A), it.append(spooled(A, 43)), it.held()[0]), ([41, 42], None, 3))
        self.assertEqual([each.spooled.position for each in it.ask(it.spool.quarantined, 9)], [7])
        it.close()

    def test_all_or_nothing(self) -> None:
        """A migration that fails leaves the file as it was."""
        it = self.file.open()
        it.append(spooled(A, 1))
        it.close()
        steps = (*spool_file.MIGRATIONS, ("ALTER TABLE quarantine ADD COLUMN note TEXT", "NO SQL"))
        self.assertRaises(SpoolBroken, spool_file.open_database, self.file.path, "crash", steps)
        again = self.file.open()
        self.assertEqual((again.positions(A), self.file.reports), ([1], []))
        again.close()

    def test_later_version(self) -> None:
        """A migration step that is added later runs once."""
        it = self.file.open()
        it.append(spooled(A, 1))
        it.close()
        self.patch(spool_file.open_database, "__defaults__", ((*spool_file.MIGRATIONS, ("ALTER TABLE quarantine ADD COLUMN note TEXT",)),))
        for _ in range(2):
            again = self.file.open()
            self.assertEqual((again.positions(A), self.file.reports), ([1], []))
            self.assertEqual(connection_of(again).execute("PRAGMA user_version").fetchone(), (3,))
            again.close()


class ReplacementTests(SynchronousTestCase):
    """Tests of the replacement of a file, interrupted by a crash at any point."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder / "spool.db"
        for ending in ("", "-wal"):
            Path(f"{self.path}{ending}").write_text(f"old{ending}")

    def files(self) -> dict[str, str]:
        return {each.name: each.read_text() for each in self.path.parent.iterdir()}

    def test_at_the_start(self) -> None:
        """A start finishes what a crash left, before it opens the file."""
        file = File(self.mktemp())
        it = file.open()
        it.append(spooled(A, 1))
        it.close()
        file.path.rename(f"{file.path}.built")
        file.path.write_text("damaged")
        it = file.open()
        self.assertEqual((it.positions(A), file.aside), ([1], [".damaged-1"]))
        it.close()

    def test_in_order(self) -> None:
        """The old file and its log are kept under another name."""
        begin_replacement(self.path).write_text("new")
        self.assertEqual(commit_replacement(self.path), Path(f"{self.path}.damaged-1"))
        kept = {"spool.db": "new", "spool.db.damaged-1": "old", "spool.db.damaged-1-wal": "old-wal"}
        self.assertEqual(self.files(), kept)
        self.assertEqual((finish_replacement(self.path), self.files()), (None, kept))

    def test_crash_before_the_decision(self) -> None:
        """A partial copy is made again, and the old file stays until the decision."""
        new = begin_replacement(self.path)
        for ending in ("", "-wal", "-shm"):
            Path(f"{new}{ending}").write_text("half")
        self.assertIsNone(finish_replacement(self.path))
        self.assertEqual(begin_replacement(self.path), new)
        self.assertEqual(self.files(), {"spool.db": "old", "spool.db-wal": "old-wal"})

    def test_crash_behind_it(self) -> None:
        """After a crash at any step behind the decision the next start does the remaining steps. The old log is never applied to the new file."""
        for crash in range(3):
            self.setUp()
            begin_replacement(self.path).write_text("new")
            renames = [0]
            real = Path.rename

            def rename(path: Path, target: Path, renames: list[int] = renames, crash: int = crash, real: Any = real) -> Path:
                renames[0] += 1
                if renames[0] > crash + 1:
                    raise InterruptedError
                return real(path, target)  # type: ignore[no-any-return]

            crashed = self.patch(Path, "rename", rename)
            self.assertRaises(InterruptedError, commit_replacement, self.path)
            crashed.restore()
            finish_replacement(self.path)
            files = self.files()
            self.assertEqual((files.pop("spool.db"), sorted(files.values())), ("new", ["old", "old-wal"]))
