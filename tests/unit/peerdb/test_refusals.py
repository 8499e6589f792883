"""Tests of the record of refusals on disk."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

from s2sgw.peerdb import refusals
from s2sgw.peerdb.refusals import StoredRefusals
from s2sgw.reporting.record import PER_NAME, RefusalRecord
from s2sgw.xmpp.ending import Cause, Ending
from tests.support.peer_database import PeerDatabaseTestCase, database

SELF_SIGNED = Ending(Cause.SELF_SIGNED, "self-signed")


class RefusalsTests(PeerDatabaseTestCase):
    """Tests of the record on disk."""

    def setUp(self) -> None:
        self.path = self.mktemp()
        self.store = database(self.path)
        self.refusals = StoredRefusals(self.store)

    def past(self) -> list[RefusalRecord]:
        """Return what the next start reads."""
        return StoredRefusals(self.store, self.refusals._is_known).past()

    def refused(self, number: int = 0, **changes: object) -> RefusalRecord:
        facts = {"peer": "friend.example", "local": "here.example", "address": f"192.0.2.{number}:1", "ending": SELF_SIGNED, "reasons": ("a reason",), **changes}
        return RefusalRecord(1000.0 + number, "inbound", "federation", **facts)  # type: ignore[arg-type]

    def test_survives(self) -> None:
        """A new gateway reads what the last one wrote, in order."""
        rows = [self.refused(number) for number in range(3)]
        for each in reversed(rows):
            self.refusals.keep(each)
        self.result(self.store.close())
        again = StoredRefusals(database(self.path))
        self.assertEqual((again.past(), again.past()), (rows, []))

    def test_again(self) -> None:
        """The same refusal again replaces the first."""
        self.refusals.keep(self.refused())
        again = self.refused().after(self.refused())
        self.refusals.keep(again)
        self.assertEqual([again], self.past())

    def test_again_later(self) -> None:
        """A repeated refusal waits for the next record. The first one is written at once."""
        written: list[str] = []
        self.patch(self.store, "write", lambda *_: written.append("at once"))
        self.patch(self.store, "write_later", lambda *_: written.append("later"))
        self.refusals.keep(self.refused())
        self.refusals.keep(self.refused().after(self.refused()))
        self.assertEqual(written, ["at once", "later"])

    def test_bounded(self) -> None:
        """The number is limited per name."""
        for number in range(PER_NAME + 3):
            self.refusals.keep(self.refused(number))
        self.assertEqual(list(range(3, PER_NAME + 3)), [int(each.at - 1000) for each in self.past()])

    def test_claims_of_a_name(self) -> None:
        """Repeated claims of a name remove neither the refusals of our own attempts nor those with other causes."""
        self.refusals.keep(replace(self.refused(0), direction="outbound"))
        self.refusals.keep(self.refused(1, ending=Ending(Cause.EXPIRED)))
        for number in range(2, PER_NAME + 30):
            self.refusals.keep(self.refused(number))
        past = self.past()
        self.assertEqual((PER_NAME, "outbound", Cause.EXPIRED), (len(past), past[0].direction, past[1].ending.cause))

    def test_strangers_have_a_part(self) -> None:
        """However many names are invented, the refusals of known peers and of those that we contact stay."""
        self.patch(refusals, "KEPT", 50)
        self.patch(refusals, "TRIM_EVERY", 1)
        self.refusals = StoredRefusals(self.store, "friend.example".__eq__)
        self.refusals.keep(self.refused(0))
        self.refusals.keep(replace(self.refused(1, peer="wanted.example"), direction="outbound"))
        for number in range(2, 300):
            self.refusals.keep(self.refused(number, peer=f"made-up-{number}.example"))
        names = [each.peer for each in self.past()]
        self.assertEqual((names[:2], len(names), names[-1]), (["friend.example", "wanted.example"], 12, "made-up-299.example"))

    def test_each_domain_has_its_turn(self) -> None:
        """The same holds among strangers: many names under one domain leave room for one of another."""
        self.patch(refusals, "KEPT", 50)
        self.patch(refusals, "TRIM_EVERY", 1)
        self.refusals.keep(self.refused(0, peer="small.example"))
        for number in range(1, 300):
            self.refusals.keep(self.refused(number, peer=f"a{number}.large.example"))
        names = [each.peer for each in self.past()]
        self.assertEqual((len(names), names[0]), (10, "small.example"))

    def test_bytes(self) -> None:
        """All refusals may use a quarter of the database."""
        self.store.room = 4 * 50_000
        self.patch(refusals, "TRIM_EVERY", 1)
        self.refusals = StoredRefusals(self.store, lambda name: True)
        for number in range(200):
            self.refusals.keep(self.refused(number, peer=f"p{number}.example", reasons=("x" * 600,)))
        [(size,)] = self.store.rows("SELECT sum(size) FROM refusal")
        self.assertTrue(35_000 < size <= 40_000, size)

    def test_read_at_a_start(self) -> None:
        """A start reads a limited number, those of known peers first."""
        self.patch(refusals, "READ", 3)
        self.refusals = StoredRefusals(self.store, "friend.example".__eq__)
        for number in range(2):
            self.refusals.keep(self.refused(number))
        for number in range(2, 9):
            self.refusals.keep(self.refused(number, peer=f"p{number}.example"))
        self.assertEqual([each.peer for each in self.past()], ["friend.example", "friend.example", "p8.example"])

    def test_sub_domains_at_a_start(self) -> None:
        """If there are more than a start reads, registered domains take turns: many sub-domains of one keep out no others."""
        self.patch(refusals, "READ", 5)
        for number in range(3):
            self.refusals.keep(self.refused(number, peer=f"friend{number}.example"))
        for number in range(3, 20):
            self.refusals.keep(self.refused(number, peer=f"s{number}.many.example"))
        names = [each.peer for each in self.past()]
        self.assertEqual(names, ["friend0.example", "friend1.example", "friend2.example", "s18.many.example", "s19.many.example"])

    def test_first_version(self) -> None:
        """The newest rows of a file of the first version are read and moved."""
        rows = [self.refused(number) for number in range(5)]
        path = self.mktemp()
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE refusals (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, peer TEXT, last REAL, refusal TEXT)")
        for row in rows:
            content = json.dumps(refusals._written(row))
            connection.execute("INSERT INTO refusals VALUES (NULL, ?, ?, ?, ?)", (refusals._digest(row), row.peer, row.at, content))
        connection.commit()
        connection.close()
        self.patch(refusals, "READ", 4)
        store = database(path)
        self.assertEqual(sorted(each.at for each in StoredRefusals(store).past()), [1001.0, 1002.0, 1003.0, 1004.0])
        self.result(store.close())
        store = database(path)
        self.assertEqual(StoredRefusals(store).past(), rows[1:])
        self.assertEqual(store.rows("SELECT 1 FROM sqlite_master WHERE name = 'refusals'"), [])
