"""Tests of the deletion of old home records, on the engine in memory with several nodes."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import old_homes
from s2sgw.cluster.engine import EngineGone, HomesPage, LaneRecord
from s2sgw.cluster.node_records import HomeRecord
from s2sgw.cluster.old_homes import OLD, PASS_SECONDS, chosen_for_part
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.cluster_node import Nodes
from tests.support.memory_engine import MemoryEngine

P, Q, R, LOCAL = (Domain.parse(f"{name}.example") for name in "pqrl")


class OldHomesTests(SynchronousTestCase):
    """Two nodes. A look at all records is due after 60 seconds, and a record is old after 300."""

    def setUp(self) -> None:
        for name, value in (("PASS_SECONDS", 60.0), ("OLD", 300.0)):
            patcher = mock.patch.object(old_homes, name, value)
            patcher.start()
            self.addCleanup(patcher.stop)
        self.nodes = Nodes("ab")

    def own(self, name: str, *peers: Domain) -> None:
        for peer in peers:
            self.assertEqual([None], self.nodes[name].claim(peer))

    def left(self) -> set[Domain]:
        return set(self.nodes.store.content.records)

    def deleted(self) -> int:
        return sum(node.homes.old_homes.deleted for node in self.nodes.nodes.values())

    def test_times(self) -> None:
        """A day, as a late copy of a claim needs, and a look now and then."""
        with mock.patch.object(old_homes, "OLD", OLD):
            self.assertEqual(86400, old_homes.OLD)
        self.assertLessEqual(PASS_SECONDS, 3600)

    def test_released(self) -> None:
        """A record is deleted when it was released long ago, and not sooner. One that is in use stays. The peer is free then."""
        self.own("a", P, Q, R)
        self.nodes["a"].custody.used.add(R)
        self.nodes.pass_time(300)
        self.assertEqual((set(), {P, Q, R}), (set(self.nodes["a"].table.owned) - {R}, self.left()))
        self.nodes.pass_time(200)
        self.assertEqual(({R}, 2), (self.left(), self.deleted()))
        self.own("b", P)
        self.assertEqual(["b"], self.nodes.owners(P))
        self.nodes.pass_time(20)
        self.assertEqual({P, R}, self.left())

    def test_dead(self) -> None:
        """So is the record of a dead node, and that of an earlier session. Stanzas that wait are not touched."""
        self.own("a", P, Q)
        fence = self.nodes["a"].table.fence(Q)
        assert fence is not None
        record = LaneRecord(Pair(LOCAL, Q), {}, b"stanza")
        Deferred.fromCoroutine(self.nodes["a"].engine.append(fence, [record], "1"))
        self.nodes.die("a")
        self.nodes["b"].custody.used.add(Q)
        self.nodes.pass_time(400)
        self.assertEqual(({Q}, ["b"], 2), (self.left(), self.nodes.owners(Q), len(self.nodes.store.content.records[Q])))

    def test_newer_version(self) -> None:
        """A record that this release does not understand stays."""
        self.nodes.store.claim(P, b'{"version":2}', 0)
        self.nodes.store.claim(Q, b'{"version":1}', 0)
        self.nodes.pass_time(400)
        self.assertEqual({P}, self.left())

    def test_many(self) -> None:
        """Records are looked at page by page, one page in a quarter of a second."""
        for number in range(21):
            self.nodes.store.claim(Domain.parse(f"d{number}.example"), HomeRecord(None).encode(), 0)
        self.nodes.pass_time(300)
        while not self.deleted():
            self.nodes.pass_time(0.05)
        self.assertEqual(2, self.deleted())
        self.nodes.pass_time(1)
        self.assertLess(self.deleted(), 12)
        self.nodes.pass_time(3)
        self.assertEqual((set(), 21), (self.left(), self.deleted()))

    def test_faults(self) -> None:
        """A look that fails is made again, also after an unexpected error, which is logged."""
        self.nodes.store.claim(P, HomeRecord(None).encode(), 0)
        engines = [node.engine for node in self.nodes.nodes.values()]
        for error, logged in ((EngineGone("no"), 0), (RuntimeError("broken"), 1)):
            with mock.patch.object(self.nodes.store, "old_homes", side_effect=error) as reading:
                self.nodes.pass_time(130)
            self.assertGreater(reading.call_count, 1)
            self.assertEqual(bool(logged), bool(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual({P}, self.left())
        for engine in engines:
            engine.cut()
        self.nodes.pass_time(120)
        for engine in engines:
            engine.go_on()
        self.nodes.pass_time(120)
        self.assertEqual(set(), self.left())

    def test_stop(self) -> None:
        """A node that has stopped looks no more, and gives up the page that it reads."""
        reading: list[Deferred[HomesPage]] = []

        async def read(part: int, after: int, age: float) -> HomesPage:
            reading.append(Deferred())
            return await reading[-1]

        looks = [node.homes.old_homes for node in self.nodes.nodes.values()]
        for node in self.nodes.nodes.values():
            self.patch(node.engine, "old_homes", read)
        self.nodes.pass_time(130)
        self.assertEqual([False], [each.called for each in reading])
        for look in looks:
            look.stop()
        self.assertEqual(([True], [None, None]), ([each.called for each in reading], [look._call for look in looks]))
        self.nodes.pass_time(200)
        self.assertEqual(1, len(reading))

    def test_pauses(self) -> None:
        """All parts are looked at in turn, a failed one, too, and then there is a pause."""
        self.patch(MemoryEngine, "parts", 4)
        parts: list[int] = []

        async def read(part: int, after: int, age: float) -> HomesPage:
            parts.append(part)
            if part == 1:
                raise EngineGone("no")
            return HomesPage([], 0)

        for node in self.nodes.nodes.values():
            self.patch(node.engine, "old_homes", read)
        self.nodes.pass_time(60)
        self.assertEqual([0, 1, 2, 3], sorted(parts))
        self.nodes.pass_time(40)
        self.assertEqual(4, len(parts))
        self.nodes.pass_time(30)
        self.assertEqual(8, len(parts))


class PartsTests(SynchronousTestCase):
    def test_shared(self) -> None:
        """Each part has one of the nodes, each node has some parts, and a node that leaves changes nothing for the other parts."""
        before: dict[int, Any] = {part: chosen_for_part(part, "abc") for part in range(32)}
        self.assertEqual(set("abc"), set(before.values()))
        after = {part: chosen_for_part(part, "ab") for part in range(32)}
        self.assertEqual({part: node for part, node in before.items() if node != "c"}, {
            part: node for part, node in after.items() if before[part] != "c"
        })  # fmt: skip
        self.assertEqual(None, chosen_for_part(0, []))
