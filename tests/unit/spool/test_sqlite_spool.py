"""Tests of the spool on disk: it fulfils the contract, outlives its process, and loses nothing through disk faults."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from threading import Event
from typing import Any
from weakref import finalize

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.spool import spool_file, sqlite_spool, tables
from s2sgw.spool.interface import Replaced, Spool, SpoolBroken, Spooled, SpoolFull
from s2sgw.spool.sqlite_spool import SQLiteSpool
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.spool_contract import PATIENCE, A, Asking, B, Deliver, SpoolContract, spooled, told
from tests.support.spool_files import File, connection_of


class SQLiteSpoolTests(SpoolContract, SynchronousTestCase):
    """Tests of the SQLite spool against the spool's contract."""

    def open(self, deliver: Deliver, limit: int) -> Spool:
        return SQLiteSpool(Path(self.mktemp()), limit, deliver, durability="crash")

    @contextmanager
    def failing(self, spool: Spool) -> Iterator[None]:
        assert isinstance(spool, SQLiteSpool)
        tables = spool._tables
        assert tables is not None
        connection = tables._connection
        tables._connection = FailingConnection(connection)  # type: ignore[assignment]
        yield
        tables._connection = connection

    @contextmanager
    def hanging(self, spool: Spool) -> Iterator[None]:
        assert isinstance(spool, SQLiteSpool)
        mended = Event()
        spool._put(sqlite_spool._Job("hang", lambda tables: mended.wait(PATIENCE)))
        usual = sqlite_spool.STALLED_SECONDS
        self.patch(sqlite_spool, "STALLED_SECONDS", -1.0)
        yield
        self.patch(sqlite_spool, "STALLED_SECONDS", usual)
        mended.set()


class FailingConnection:
    """A connection whose disk fails."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.in_transaction = False
        self.total_changes = connection.total_changes

    def execute(self, statement: str, values: object = ()) -> Any:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    def close(self) -> None:
        self._connection.close()


class ThreadTests(SynchronousTestCase):
    """Tests of the thread that works on the file."""

    def test_finished_calls_leave_memory(self) -> None:
        """The thread keeps nothing of a call that it has finished, while it waits for the next."""
        it = File(self.mktemp()).open()
        left = Event()

        def ask() -> None:
            queue = frozenset((1,))  # an object that the answer refers to
            finalize(queue, left.set)
            answers: list[object] = []
            it.spool.append([spooled(A, 1)], lambda error: answers.append(queue and error))
            it.calls.get(timeout=PATIENCE)()
            self.assertEqual([None], answers)

        ask()
        self.assertTrue(left.wait(PATIENCE))
        it.close()


    def test_a_new_file_that_is_damaged_too(self) -> None:
        """If the file that replaces a damaged one cannot be read either, calls are answered, and the file is opened again later."""
        it = File(self.mktemp()).open()

        def damaged(tables_: tables.SpoolTables) -> None:
            raise tables.RowsDamaged("a test")

        it.append(spooled(A, 1))
        answers: SimpleQueue[object] = SimpleQueue()
        load, queues = tables.SpoolTables._load, tables.SpoolTables.queues
        self.patch(tables.SpoolTables, "_load", damaged)
        self.patch(tables.SpoolTables, "queues", damaged)
        it.spool.queues(answers.put)
        it.calls.get(timeout=PATIENCE)()
        self.assertIsInstance(answers.get_nowait(), SpoolBroken)
        self.patch(tables.SpoolTables, "_load", load)
        self.patch(tables.SpoolTables, "queues", queues)
        assert isinstance(it.spool, SQLiteSpool)
        self.assertTrue(it.spool.thread.is_alive())
        it.close()


class LastingTests(SynchronousTestCase):
    """Durable data outlives the process, however it ends."""

    def setUp(self) -> None:
        self.file = File(self.mktemp())

    def test_over_a_restart(self) -> None:
        """Stanzas, marks, positions, accounts and the quarantine are kept over a restart."""
        it = self.file.open()
        it.append(*(spooled(A, position) for position in range(1, 4)), spooled(B, 1))
        it.mark(A, [2])
        it.spool.remove(A, 1)
        it.spool.quarantine(spooled(B, 9), "poison", 3.0)
        before = it.queues()
        it.close()
        again = self.file.open()
        self.assertEqual((again.queues(), again.held()), (before, (3, 300)))
        self.assertEqual([(row.position, row.written) for row in again.read(A)], [(2, True), (3, False)])
        self.assertEqual([told(each.spooled) for each in again.ask(again.spool.quarantined, 9)], [told(spooled(B, 9))])
        again.close()

    def test_names_of_many_children(self) -> None:
        """Long names of children are not stored beside their stanza, which has them. A damaged stanza has none, and does no harm."""
        data = b"<message xmlns:q='" + b"u" * 90 + b"'>" + b"<q:x/>" * 80 + b"</message>"
        names, others = ("u" * 90 + "}x",) * 80, ("y" * 300,)
        rows = [Spooled(A, 1, Stanza("message", data, "to", "from", payloads=None), 1.0, 2.0)]
        rows.append(Spooled(A, 2, Stanza("message", b"<message/>", "to", "from", payloads=others), 1.0, 2.0))
        rows.append(Spooled(A, 3, Stanza("message", b"no XML <", "to", "from", payloads=others), 1.0, 2.0))
        it = self.file.open()
        it.append(*rows)
        stored = [name for (name,) in connection_of(it).execute("SELECT payloads FROM stanza ORDER BY id")]
        it.close()
        self.assertEqual([b"\x1f", *(name.encode() for name in others * 2)], stored)
        again = self.file.open()
        self.assertEqual([names, others, others], [row.stanza.payloads for row in again.read(A)])
        connection_of(again).execute("UPDATE stanza SET data = CAST('<message' AS BLOB)")
        self.assertEqual([(), others, others], [row.stanza.payloads for row in again.read(A)])
        again.close()

    def test_over_a_kill(self) -> None:
        """Everything that `done` reported is there after a kill, and so is everything else that was committed."""
        for durability in ("power-loss", "crash"):
            file = File(self.mktemp())
            it = file.open(durability=durability)
            it.append(*(spooled(A, position) for position in range(1, 101)))
            it.spool.remove(A, 10)
            it.held()
            killed = file.after_a_kill()
            again = killed.open()
            self.assertEqual((again.positions(A), again.held()), (list(range(11, 101)), (90, 9000)))
            self.assertEqual(killed.reports, [])
            it.close()
            again.close()

    def test_killed_before_anything_was_written(self) -> None:
        """An empty file is a new spool."""
        self.file.path.touch()
        it = self.file.open()
        self.assertEqual((it.append(spooled(A, 1)), self.file.reports), (None, []))
        it.close()

    def test_numbers_of_lanes_are_used_again(self) -> None:
        """The number of an emptied lane is used again, now and after the next start."""
        it = self.file.open()
        for pair in (A, B):
            it.append(spooled(pair, 1))
        it.spool.remove(A, 1)
        it.close()
        again = self.file.open()
        again.append(spooled(A.inverse, 7), spooled(A, 1))
        self.assertEqual([row for (row,) in connection_of(again).execute("SELECT id FROM lane")], [1, 2])
        again.close()

    def test_private(self) -> None:
        """Other users cannot read the file and its log."""
        it = self.file.open()
        it.append(spooled(A, 1))
        modes = {each.name.removeprefix(self.file.path.name): oct(each.stat().st_mode & 0o777) for each in self.file.path.parent.glob(f"{self.file.path.name}*")}
        self.assertEqual(modes, {"": "0o600", "-wal": "0o600"})
        it.close()

    def test_one_gateway_at_a_time(self) -> None:
        """A file that another gateway uses is not opened. The error says so."""
        it = self.file.open()
        it.append(spooled(A, 1))
        self.assertIn("cannot be opened", str(self.assertRaises(SpoolBroken, self.file.open)))
        self.assertEqual((self.file.aside, it.positions(A)), ([], [1]))
        it.close()

    def test_after_the_end(self) -> None:
        """A call of a closed spool gets an error and does not block."""
        it = self.file.open()
        it.close()
        self.assertIsInstance(it.append(spooled(A, 1)), SpoolBroken)
        self.assertIsInstance(it.read(A), SpoolBroken)
        self.assertEqual(it.ask(it.spool.close), None)
        it.spool.remove(A, 1)
        assert isinstance(it.spool, SQLiteSpool)
        it.spool.thread.join(PATIENCE)
        self.assertFalse(it.spool.thread.is_alive())

    def test_answers_in_order_at_the_end(self) -> None:
        """A call behind `close` is answered after all calls before it."""
        it, answers = self.file.open(), list[str]()
        it.spool.append([spooled(A, 1)], lambda error: answers.append("before"))
        it.spool.close(lambda: answers.append("closed"))
        for _ in range(2):
            it.spool.append([spooled(A, 2)], lambda error: answers.append(type(error).__name__))
        while len(answers) < 4:
            it.calls.get(timeout=PATIENCE)()
        self.assertEqual(answers, ["before", "closed", "SpoolBroken", "SpoolBroken"])


class RemovedTests(SynchronousTestCase):
    """The file, or its directory, is removed while the spool has it open."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.file, self.now = File(str(self.folder / "spool.db")), 0.0
        self.it = self.file.open(clock=lambda: self.now)
        self.reports = self.file.reports
        self.it.append(*(spooled(A, position) for position in range(1, 4)))

    def look(self) -> None:
        """Let the time of the next look come, and wait for it."""
        self.now += sqlite_spool.SAVE_AGAIN_SECONDS
        for _ in range(2):
            self.it.queues()

    def test_written_again(self) -> None:
        """It is written again where it was, with what it holds. That is an alert. Later stanzas are in the new file."""
        rmtree(self.folder)
        self.it.append(spooled(A, 4))
        self.look()
        self.assertEqual([0o700, 0o600], [path.stat().st_mode & 0o777 for path in (self.folder, self.file.path)])
        self.assertEqual((self.reports, 1), (self.it.spool.alerts(), len(self.reports)))
        self.assertIn("was written again, with all that it held", self.reports[0])
        self.it.append(spooled(A, 5))
        self.look()
        self.assertEqual(1, len(self.reports))
        killed = self.file.after_a_kill().open()
        self.assertEqual([1, 2, 3, 4, 5], killed.positions(A))
        killed.close()
        self.it.close()

    def test_at_the_stop(self) -> None:
        """The stop looks once more."""
        rmtree(self.folder)
        self.it.append(spooled(A, 4))
        self.it.close()
        again = self.file.open()
        self.assertEqual([1, 2, 3, 4], again.positions(A))
        again.close()

    def test_cannot_be_written(self) -> None:
        """If it cannot be written again, that is an alert, all goes on, and the stop names what is lost. The alert ends when it can be."""
        self.folder.rename(moved := Path(self.mktemp()))
        self.folder.write_bytes(b"a file")
        self.look()
        (alert,) = self.it.spool.alerts()
        self.assertIn("was removed while the gateway runs, and cannot be written again", alert)
        self.assertEqual((None, [1, 2, 3, 4]), (self.it.append(spooled(A, 4)), self.it.positions(A)))
        self.now += sqlite_spool.SAVE_AGAIN_SECONDS - 1
        self.patch(sqlite_spool, "write_again", lambda *_: self.fail("it is tried again too soon"))
        self.assertEqual(1, len(self.it.queues()))
        self.patch(sqlite_spool, "write_again", spool_file.write_again)
        self.it.close()
        self.assertEqual([alert, f"lost with {self.file.path}: 4 stanzas from {A.sender} to {A.recipient}"], self.reports)
        self.folder.unlink()
        moved.rename(self.folder)

    def test_no_room(self) -> None:
        """A copy that fails leaves nothing behind."""
        table = self.it.spool._tables  # type: ignore[attr-defined]
        self.patch(table, "copy", lambda path: path.write_bytes(b"part") and connection_of(self.it).execute("no SQL"))
        self.file.path.unlink()
        self.look()
        self.assertIn("cannot be written again", self.it.spool.alerts()[0])
        self.assertEqual([], list(self.folder.glob("*.new*")))
        self.it.close()

    def test_moved_back(self) -> None:
        """A file that is at its path again is no alert, and a file of another program is left alone."""
        self.file.path.rename(aside := self.folder / "aside")
        self.file.path.write_bytes(b"another")
        self.look()
        self.assertIn("another file is in its place", self.it.spool.alerts()[0])
        self.assertEqual(b"another", self.file.path.read_bytes())
        aside.rename(self.file.path)
        self.look()
        self.assertEqual([], self.it.spool.alerts())
        self.it.close()

    def test_many_lanes(self) -> None:
        """A loss of many lanes names the largest ones, and the sum of the others."""
        self.patch(sqlite_spool, "LANES_NAMED", 1)
        self.it.append(spooled(B, 1))
        self.file.path.rename(self.folder / "aside")
        self.file.path.write_bytes(b"another")
        self.it.close()
        self.assertIn("3 stanzas from", self.reports[1])
        self.assertIn("1 stanzas of 1 more pairs", self.reports[2])


class ShareTests(SynchronousTestCase):
    """Tests of the shares of peers. Each stanza counts 1,000 bytes."""

    def setUp(self) -> None:
        self.file = File(self.mktemp())

    def open(self, limit: int = 100_000, share: int = 20_000, local: Collection[Domain] = (B.sender,)) -> Asking:
        """Open a spool of which one registered domain may use a fifth."""
        return Asking(lambda deliver: SQLiteSpool(
            self.file.path, limit, deliver, share=share, peer_of=lambda pair: pair.sender if pair.recipient in local else pair.recipient,
        ))

    def fill(self, it: Asking, pair: Pair, first: int, number: int) -> Any:
        return it.append(*(spooled(pair, position, 840) for position in range(first, first + number)))

    def test_refused_stanzas_leave_memory(self) -> None:
        """The answer of a refused call keeps no stanza of the call, also without the search for reference cycles."""
        it = self.open()
        self.addCleanup(gc.enable)
        gc.collect()
        gc.disable()
        held = len([each for each in gc.get_objects() if type(each) is Spooled])
        refused = [self.fill(it, A, 1, 30) for _ in range(3)]
        self.assertEqual([each.bound for each in refused], ["share"] * 3)
        it.close()
        self.assertEqual(len([each for each in gc.get_objects() if type(each) is Spooled]), held)

    def test_full_share(self) -> None:
        """Stanzas to a peer and from it count together. If its share is full, only its stanzas are refused."""
        it = self.open()
        self.assertEqual((self.fill(it, A, 1, 10), self.fill(it, B, 1, 10)), (None, None))
        for pair in (A, B):
            refused = self.fill(it, pair, 11, 1)
            self.assertIsInstance(refused, SpoolFull)
            self.assertEqual((refused.bound, "a.example" in str(refused)), ("share", True))
        other = Pair(B.sender, Domain.parse("other.example"))
        self.assertEqual(self.fill(it, other, 1, 20), None)
        self.assertEqual((it.spool.used_by(A.sender), it.spool.used_by(other.recipient), it.spool.share), (20_000, 20_000, 20_000))
        it.close()

    def sub_domains(self, number: int, registered: str = "much.example.co.uk") -> list[Pair]:
        """Return pairs with so many sub-domains of a registered domain, to them and from them by turns."""
        peers = [Domain.parse(f"n{each}.{registered}") for each in range(number)]
        return [Pair(B.sender, peer) if each % 2 else Pair(peer, B.sender) for each, peer in enumerate(peers)]

    def test_sub_domains(self) -> None:
        """All names below a registered domain are one peer: together they have one share, also in one batch."""
        it, pairs = self.open(), self.sub_domains(40)
        answers = [self.fill(it, pair, 1, 1) for pair in pairs]
        self.assertEqual((answers[:20], {each.bound for each in answers[20:]}), ([None] * 20, {"share"}))
        self.assertIn("example.co.uk, with all its sub-domains,", str(answers[20]))
        refused = it.append(*(spooled(pair, 1, 840) for pair in self.sub_domains(21, "more.example.net")))
        self.assertEqual((refused.bound, it.held()[0]), ("share", 20))
        self.assertEqual(it.append(*(spooled(pair, 1, 840) for pair in self.sub_domains(20, "more.example.net"))), None)
        for name, used in (("example.co.uk", 20_000), ("else.example.co.uk", 20_000), ("other.co.uk", 0), ("example.net", 20_000)):
            self.assertEqual(it.spool.used_by(Domain.parse(name)), used, name)
        it.close()

    def test_several_domains_in_one_batch(self) -> None:
        """In one batch, each stanza counts for its own registered domain, in whatever order they are."""
        it, much = self.open(), self.sub_domains(21)
        few = self.sub_domains(5, "few.example.net")
        mixed = [pair for row in zip_longest(few, much) for pair in row if pair is not None]
        refused = it.append(*(spooled(pair, 1, 840) for pair in mixed))
        self.assertEqual((refused.bound, it.held()[0]), ("share", 0))
        self.assertIn("example.co.uk, with all its sub-domains,", str(refused))
        self.assertEqual(it.append(*(spooled(pair, 1, 840) for pair in mixed[:-1])), None)
        self.assertEqual([it.spool.used_by(each[0].recipient) for each in (much[1:], few[1:])], [20_000, 5_000])
        it.close()

    def test_sub_domains_over_a_restart(self) -> None:
        """A restart counts what is held by registered domain, also where more of it is held than the share that is now in force."""
        it, pairs = self.open(share=40_000), self.sub_domains(30)
        for pair in pairs:
            self.fill(it, pair, 1, 1)
        it.close()
        it, peer = self.open(), pairs[0].sender
        self.assertEqual((it.spool.used_by(peer), it.held()[0]), (30_000, 30))
        self.assertEqual((self.fill(it, pairs[0], 2, 1).bound, self.fill(it, self.sub_domains(31)[30], 1, 1).bound), ("share", "share"))
        self.assertEqual(it.ask(lambda done: it.spool.append([spooled(pairs[1], 2, 840)], done, [Replaced(pairs[2], [1])])).bound, "share")
        for pair in pairs[:11]:
            it.spool.remove(pair, 1)
        self.assertEqual((self.fill(it, pairs[0], 2, 1), self.fill(it, pairs[1], 2, 1).bound), (None, "share"))
        self.assertEqual(it.ask(lambda done: it.spool.append([spooled(pairs[1], 2, 840)], done, [Replaced(pairs[29], [1])])), None)
        self.assertEqual(it.spool.used_by(peer), 20_000)
        it.close()

    def test_sub_domains_on_a_full_disk(self) -> None:
        """A stanza that a full disk refuses counts for no sub-domain, before a restart and after it."""
        it, pairs = self.open(), self.sub_domains(40)
        answers = [self.fill(it, pair, 1, 1) for pair in pairs[:10]]
        ((pages,),) = connection_of(it).execute("PRAGMA page_count").fetchall()
        connection_of(it).execute(f"PRAGMA max_page_count={pages}").fetchall()
        bounds = [each.bound for each in (self.fill(it, pair, 1, 1) for pair in pairs[10:]) if each is not None]
        self.assertEqual((answers, set(bounds)), ([None] * 10, {"disk"}))
        used = it.spool.used_by(pairs[0].sender)
        self.assertEqual((used, used < 20_000), (it.held()[0] * 1000, True))
        it.close()
        it = self.open()
        self.assertEqual(it.spool.used_by(pairs[0].sender), used)
        later = [self.fill(it, pair, 2, 1) for pair in pairs]
        self.assertEqual((it.spool.used_by(pairs[0].sender), later[-1].bound), (20_000, "share"))
        it.close()

    def test_a_domain_of_ours_that_is_given_up(self) -> None:
        """A lane counts for the domain that was its peer when it began, until it is empty. Nothing is left over."""
        local = {B.sender}
        it = self.open(local=local)
        self.assertEqual(self.fill(it, A, 1, 15), None)
        local.clear()
        self.assertEqual((self.fill(it, A, 16, 5), self.fill(it, A, 21, 1).bound), (None, "share"))
        self.assertEqual((it.spool.used_by(A.sender), it.spool.used_by(B.sender)), (20_000, 0))
        replaced = it.ask(lambda done: it.spool.append([spooled(A, 21, 840)], done, [Replaced(A, [1])]))
        it.spool.remove(A, 21)
        self.assertEqual((replaced, it.held()), (None, (0, 0)))
        self.fill(it, A, 22, 1)
        self.assertEqual((it.spool.used_by(A.sender), it.spool.used_by(B.sender)), (0, 1000))
        it.close()

    def long(self, position: int, to: str = "u@b.example", id: str = "1") -> Spooled:
        """Return a stanza of 100 bytes with long texts. They are in the file twice, in the stanza and beside it."""
        return Spooled(A, position, Stanza("message", b"x" * 100, to, "ü" * 200 + "@a.example", None, id), 1.0, 600.0)

    def test_long_texts(self) -> None:
        """Long addresses and ids count as often as they are in the file, until the stanza is removed. Usual ones are in the overhead."""
        it, usual = self.open(), spooled(A, 1)
        self.assertEqual(it.append(usual, self.long(2), self.long(3, "b.example/" + "r" * 990), self.long(4, id="1" * 1000)), None)
        each = [260, 260 + 422, 260 + 410 + 1001, 260 + 421 + 1000]
        self.assertEqual((it.spool.used_by(A.sender), it.spool.used, it.queues()[0].bytes), (sum(each), sum(each), sum(each) - 640))
        self.assertEqual(it.append(*(self.long(position, id="1" * 1000) for position in range(5, 17))).bound, "share")
        it.close()
        it = self.open()
        self.assertEqual(it.spool.used_by(A.sender), sum(each))
        it.ask(lambda done: it.spool.append([spooled(A, 5)], done, [Replaced(A, [3])]))
        self.assertEqual(it.spool.used_by(A.sender), sum(each) - each[2] + 260)
        it.spool.remove(A, 2)
        self.assertEqual((it.held(), it.spool.used_by(A.sender)), ((2, each[3] + 100 - 160), each[3] + 260))
        it.spool.remove(A, 5)
        self.assertEqual((it.held(), it.spool.used_by(A.sender)), ((0, 0), 0))
        it.close()

    def test_long_texts_in_a_full_spool(self) -> None:
        """Long texts count against the size of the spool, and a stanza that is replaced makes room for as many."""
        it = self.open(4_000, 4_000)
        self.assertEqual(it.append(*(self.long(position, id="1" * 1000) for position in (1, 2))), None)
        another = [self.long(3, id="1" * 1000)]
        self.assertEqual(it.append(*another).bound, "spool")
        self.assertEqual(it.ask(lambda done: it.spool.append(another, done, [Replaced(A, [1])])), None)
        it.close()

    def test_long_texts_of_an_older_version(self) -> None:
        """A file in which long texts are not counted is read. Its lanes never count less than nothing, and nothing is left over."""
        it = self.open()
        it.append(self.long(1), self.long(2), spooled(A, 3), spooled(B, 1))
        connection_of(it).execute("UPDATE lane SET bytes = 100 * count")
        it.close()
        it = self.open()
        self.assertEqual(it.held(), (4, 400))
        it.spool.remove(A, 2)
        self.assertEqual(it.held(), (2, 100))
        it.spool.remove(A, 3)
        self.assertEqual((it.held(), it.spool.used_by(A.sender)), ((1, 100), 260))
        it.close()

    def test_many_peers_that_are_away(self) -> None:
        """However many peers fill their shares, another one has half of the rest."""
        it = self.open()
        for number in range(60):
            position = 1
            while self.fill(it, Pair(B.sender, Domain.parse(f"away-{number}.example")), position, 1) is None:
                position += 1
        left = it.spool.limit - it.spool.used
        self.assertGreater(left, 0)
        self.assertLessEqual(it.spool.used_by(Domain.parse("away-0.example")), 20_000)
        sizes = [it.spool.used_by(Domain.parse(f"away-{number}.example")) for number in range(60)]
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        it.close()

    def test_over_a_restart(self) -> None:
        """Shares are counted anew at the start and go down with each removal. They do not apply to a stop."""
        it = self.open()
        self.fill(it, A, 1, 20)
        it.close()
        it = self.open()
        self.assertEqual(self.fill(it, A, 21, 1).bound, "share")
        it.spool.remove(A, 1)
        self.assertEqual((self.fill(it, A, 21, 1), self.fill(it, A, 22, 1).bound), (None, "share"))
        it.spool.raise_limit(10_000)
        self.assertEqual((self.fill(it, A, 22, 90), it.spool.used_by(A.sender)), (None, 110_000))
        self.assertEqual(self.fill(it, A, 200, 1).bound, "spool")
        it.close()

    def test_a_commit_that_fails(self) -> None:
        """Stanzas of a failed commit do not count."""
        it = self.open()
        connection_of(it).execute("PRAGMA query_only=ON")
        self.assertIsInstance(self.fill(it, A, 1, 10), SpoolBroken)
        connection_of(it).execute("PRAGMA query_only=OFF")
        self.assertEqual((it.spool.used_by(A.sender), self.fill(it, A, 1, 20)), (0, None))
        it.close()


class FaultTests(SynchronousTestCase):
    """Tests of disk faults: nothing that is held is lost."""

    def setUp(self) -> None:
        self.file = File(self.mktemp())
        self.it = self.file.open()
        self.it.append(*(spooled(A, position, 4000) for position in range(1, 11)))

    def tearDown(self) -> None:
        self.it.close()

    def limit_pages(self, more: int | None) -> None:
        connection = connection_of(self.it)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages + more if more is not None else 1 << 30}").fetchall()

    def test_full_disk(self) -> None:
        """Stanzas that do not fit are refused, those that fit are held, and earlier ones stay. Once there is room, new ones are held again."""
        self.limit_pages(2)
        outcomes: list[Exception | None] = []
        self.it.spool.append([spooled(B, 1, 1000)], outcomes.append)
        self.it.spool.append([spooled(B, position, 4000) for position in range(2, 12)], outcomes.append)
        self.assertEqual(self.it.positions(A), list(range(1, 11)))
        self.assertEqual([type(each) for each in outcomes], [type(None), SpoolFull])
        self.assertIn("disk is full", str(outcomes[1]))
        self.assertEqual((self.it.positions(B), self.it.held()), ([1], (11, 41_000)))
        self.limit_pages(None)
        self.assertEqual(self.it.append(spooled(B, 2, 4000)), None)
        killed = self.file.after_a_kill().open()
        self.assertEqual((killed.positions(A), killed.positions(B), killed.held()), (list(range(1, 11)), [1, 2], (12, 45_000)))
        killed.close()

    def test_full_disk_is_an_alert(self) -> None:
        """Small commits that succeed do not end the alert. It ends a while after the last refusal, and its end is reported."""
        self.it.close()
        now = [0.0]
        self.it = self.file.open(clock=lambda: now[0])
        large = [spooled(B, position, 4000) for position in range(2, 12)]
        for _ in range(3):
            now[0] += sqlite_spool.ROOM_SECONDS - 1
            self.limit_pages(0)
            self.assertIsInstance(self.it.append(*large), SpoolFull)
            self.limit_pages(None)
            self.assertIsNone(self.it.append(spooled(A, 100 + int(now[0]), 1)))
            (alert,) = self.it.spool.alerts()
            self.assertIn("the disk is full", alert)
        now[0] += sqlite_spool.ROOM_SECONDS - 1
        self.it.positions(A)
        self.assertEqual(1, len(self.it.spool.alerts()))
        said = len(self.file.reports)
        now[0] += 1
        self.it.positions(A)
        self.it.positions(A)
        self.assertEqual([], self.it.spool.alerts())
        (line,) = self.file.reports[said:]
        self.assertIn("has room again", line)
        self.limit_pages(0)
        self.assertIsInstance(self.it.append(*large), SpoolFull)
        self.assertEqual((1, 2), (len(self.it.spool.alerts()), len(self.file.reports[said:])))
        self.limit_pages(None)

    def test_room_is_noticed_at_rest(self) -> None:
        """New room is noticed without any call, too."""
        self.it.close()
        self.patch(sqlite_spool, "REOPEN_SECONDS", 0.001)
        now, noticed = [0.0], Event()
        self.it = Asking(lambda deliver: SQLiteSpool(self.file.path, 1 << 26, deliver, report=lambda text: noticed.set() if "again" in text else None, clock=lambda: now[0]))
        self.limit_pages(0)
        self.assertIsInstance(self.it.append(*(spooled(B, position, 4000) for position in range(2, 12))), SpoolFull)
        now[0] = sqlite_spool.ROOM_SECONDS
        self.assertTrue(noticed.wait(PATIENCE))
        self.assertEqual([], self.it.spool.alerts())

    def test_debts_are_paid(self) -> None:
        """Rows that cannot be removed are removed as soon as the disk permits. Appends are refused meanwhile."""
        connection_of(self.it).execute("PRAGMA query_only=ON")
        self.it.spool.remove(A, 5)
        self.assertIsInstance(self.it.mark(A, [6]), SpoolBroken)
        self.assertIsInstance(self.it.append(spooled(B, 1)), SpoolBroken)
        self.assertEqual((self.it.positions(A), self.it.held()), (list(range(1, 11)), (10, 40_000)))
        self.assertIn("readonly", self.file.reports[0])
        connection_of(self.it).execute("PRAGMA query_only=OFF")
        self.assertEqual((self.it.positions(A), self.it.held()), (list(range(6, 11)), (5, 20_000)))
        self.assertFalse(self.it.read(A)[0].written)

    def test_debts_are_bounded(self) -> None:
        """A disk that never recovers does not fill the memory."""
        self.patch(sqlite_spool, "RETRIES", 2)
        connection_of(self.it).execute("PRAGMA query_only=ON")
        for position in (1, 2, 3):
            self.it.spool.remove_each(A, [position])
            self.it.held()
        connection_of(self.it).execute("PRAGMA query_only=OFF")
        self.assertEqual(self.it.positions(A), list(range(3, 11)))

    def test_a_job_that_breaks(self) -> None:
        """An internal error in one job affects only that job, and is reported."""
        outcomes: list[Any] = []
        self.it.spool.append([spooled(B, 1)], outcomes.append)
        self.it.spool.append([spooled(B, 2)._replace(deadline="soon")], outcomes.append)  # type: ignore[arg-type]
        self.assertEqual((self.it.positions(B), self.it.spool.count), ([1], 11))
        self.assertEqual([type(each) for each in outcomes], [type(None), SpoolBroken])
        self.assertIn("TypeError", self.file.reports[0])

    def test_an_answer_that_breaks(self) -> None:
        """An answer that raises does not affect those behind it."""
        def breaks(outcome: object) -> None:
            raise ZeroDivisionError

        calls: SimpleQueue[Any] = SimpleQueue()
        seen: list[object] = []
        assert isinstance(self.it.spool, SQLiteSpool)
        self.patch(self.it.spool, "_deliver", calls.put)
        self.it.spool._answers.extend([lambda: breaks(0), lambda: seen.append(1)])
        self.assertRaises(ZeroDivisionError, self.it.spool._call)
        calls.get(timeout=PATIENCE)()
        self.assertEqual(seen, [1])

    def test_answers_of_many_commits(self) -> None:
        """However many commits ended in one turn of the reactor, one call gives their answers within one call's time."""
        self.patch(sqlite_spool, "GROUP", 1)
        calls: list[Any] = []
        answers: list[object] = []
        spool = SQLiteSpool(self.file.path.with_name("other.db"), 1 << 26, calls.append)
        for _ in range(3):
            spool.read(A, 0, 1, answers.append)
        spool.close(lambda: answers.append("closed"))
        spool.thread.join(PATIENCE)
        self.assertEqual(len(calls), 1)
        calls.pop()()
        self.assertEqual((answers, calls), ([[], [], [], "closed"], []))

    def test_strange_rows(self) -> None:
        """Rows of a lane without an account belong to no lane."""
        connection_of(self.it).execute(
            f"INSERT INTO stanza SELECT 77 * {tables.POSITIONS} + 1, kind, data, addressee, author, type, ident, payloads, accepted, 0, 0, 0, 0 "
            "FROM stanza LIMIT 1"
        )
        self.assertEqual(self.it.ask(self.it.spool.expired, 1.0, 9), [])

    def test_too_many_lanes(self) -> None:
        """The number of lanes is bounded."""
        self.patch(tables, "LANES", 2)
        self.assertIsInstance(self.it.append(spooled(B, 1), spooled(B.inverse, 20), spooled(A, 11)), SpoolFull)
        self.assertEqual(self.it.append(spooled(A, 11), spooled(A, 12)), None)
        self.assertEqual(self.it.held()[0], 12)
