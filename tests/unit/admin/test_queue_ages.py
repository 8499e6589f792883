"""Tests of the number of waiting stanzas by age."""

from __future__ import annotations

from math import inf, nan
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin import queue_ages
from s2sgw.admin.server import VerbError
from s2sgw.spool.interface import SpoolBroken
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.queue_verbs import LANE, Tools
from tests.unit.delivery.test_queue import HERE, stanza


class AgesTests(SynchronousTestCase):
    """Tests of `ages`, and of `drop` with an age."""

    def setUp(self) -> None:
        self.tools = Tools(self.mktemp())

    def fill(self, resident: int) -> None:
        """Add one stanza of each of three ages. `resident` is the number of their bytes that stay in memory."""
        for name, seconds in (("1", 400.0), ("2", 100.0), ("3", 30.0)):
            self.tools.accept(name)
            self.tools.spool_all_but(resident)
            self.tools.world.clock.advance(seconds)

    def test_ages(self) -> None:
        """Each stanza is counted once, in memory or on disk."""
        for resident in (0, 1 << 20):
            self.tools = Tools(self.mktemp())
            self.fill(resident)
            answer = self.tools.ask("ages")
            self.assertEqual([60.0, 300.0, 600.0], answer["bounds"][:3])
            (row,) = answer["rows"]
            self.assertEqual(("there.example", 3, [1, 1, 1, 0, 0, 0, 0, 0], 0), (row["peer"], row["stanzas"], row["ages"], row["unread"]))
        self.assertEqual(([], 1), (self.tools.ask("ages", peer="x.example")["rows"], len(self.tools.ask("ages", peer="there.example")["rows"])))

    def test_too_many(self) -> None:
        """Stanzas that are too many to be read are counted as such."""
        self.patch(queue_ages, "MOST_READ", 1)
        self.patch(queue_ages, "PAGE_BYTES", 1)
        self.fill(0)
        (row,) = self.tools.ask("ages")["rows"]
        self.assertEqual((3, 3), (row["stanzas"], sum(row["ages"]) + row["unread"]))
        self.assertGreater(row["unread"], 0)

    def test_silent_spool(self) -> None:
        """A spool that does not answer is waited for once. What it has is counted as not read."""
        self.fill(0)
        self.tools.accept("4")
        spool = self.tools.world.custody.services.spool
        asked: list[Any] = []
        self.patch(spool, "read", lambda *arguments: asked.append(arguments))
        answer = self.tools.verbs["queue ages"]({})
        self.tools.world.clock.pump([0.0, spool.table_seconds - 0.1, 0.2, 0.0])
        (row,) = self.successResultOf(answer)["rows"]
        self.assertEqual((4, 1, 3, 1), (row["stanzas"], sum(row["ages"]), row["unread"], len(asked)))

    def test_silent_spool_and_many_queues(self) -> None:
        """A spool that does not answer is asked for one queue only."""
        self.tools.world.accept(stanza("1"), stanza("2"))
        other = self.tools.world.custody.queues.queue(Pair(HERE, Domain.parse("other.example")))
        other.accept([stanza("3")])
        self.tools.spool_all_but(0)
        spool, asked = self.tools.world.custody.services.spool, list[Any]()
        self.patch(spool, "read", lambda *arguments: asked.append(arguments))
        answer = self.tools.verbs["queue ages"]({})
        self.tools.world.clock.pump([0.0, spool.table_seconds, 0.0, spool.table_seconds, 0.0])
        rows = self.successResultOf(answer)["rows"]
        self.assertEqual((3, 3, 1), (sum(row["stanzas"] for row in rows), sum(row["unread"] for row in rows), len(asked)))

    def test_drop_older(self) -> None:
        """Only stanzas that have waited long enough are dropped, in memory or on disk, and bounced. Younger ones stay in order."""
        for resident, page in ((0, 1), (0, 1 << 20), (1 << 20, 1)):
            self.patch(queue_ages, "PAGE_BYTES", page)
            self.tools = Tools(self.mktemp())
            self.fill(resident)
            self.assertEqual({"lanes": 1, "stanzas": 2}, self.tools.ask("drop", *LANE, older_than=120))
            self.assertEqual(["3"], [row["id"] for row in self.tools.ask("show", *LANE)])
            self.assertEqual({"lanes": 0, "stanzas": 0}, self.tools.ask("drop", "there.example", older_than=120))
            self.assertEqual({"lanes": 1, "stanzas": 1}, self.tools.ask("drop", "there.example", older_than=0, quietly=True))
            self.assertEqual([120, 120, 0], [row["older_than"] for row in self.tools.noted])

    def test_in_flight(self) -> None:
        """Stanzas in flight stay, however old."""
        self.tools.world.next_hop.ready = True
        self.tools.accept("1")
        self.tools.world.clock.advance(1000)
        self.assertEqual(0, self.tools.ask("drop", *LANE, older_than=1)["stanzas"])

    def test_wrong(self) -> None:
        """An invalid age, or an age for one stanza, is refused without an audit entry."""
        for seconds in (-1, "1h", True, nan, inf, -inf, 10**400, [1]):
            words = self.assertRaises(VerbError, self.tools.ask, "drop", *LANE, older_than=seconds)
            self.assertEqual(("usage", "older_than must be a number of seconds from 0 to 10000000000"), (words.kind, str(words)))
        self.assertRaises(VerbError, self.tools.ask, "drop", *LANE, 1, older_than=5)
        self.assertFalse((self.tools.state / "audit.log").exists())

    def test_broken_spool(self) -> None:
        """A spool that cannot be read is reported."""
        self.fill(0)
        self.patch(self.tools.world.spool, "read", lambda pair, after, most, done: done(SpoolBroken("the disk")))
        self.assertIn("cannot be read", str(self.assertRaises(VerbError, self.tools.ask, "ages")))
