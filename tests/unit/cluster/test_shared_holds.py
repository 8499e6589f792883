"""Operators' holds on several nodes. What the queues do with them: tests/unit/composition/test_peer_custody.py."""

from __future__ import annotations

import json

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import shared_holds
from s2sgw.cluster.shared_holds import PEER_BYTES, SharedHolds
from s2sgw.cluster.shared_table import NotChanged
from s2sgw.delivery.holds import HoldTarget, TooManyHolds
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore

HERE, PEER, OTHER = (Domain.parse(f"{name}.example") for name in ("here", "peer", "other"))
OUT, IN, OUT_OTHER = Pair(HERE, PEER), Pair(PEER, HERE), Pair(HERE, OTHER)


def home(pair: Pair) -> Domain:
    return pair.recipient if pair.sender == HERE else pair.sender


class Node:
    """A node's holds, and what was told of them."""

    def __init__(self, store: MemoryStore) -> None:
        self.may_change = True
        self.reports: list[str] = []
        self.changed: list[Domain] = []
        self.engine = MemoryEngine(store)
        self.holds = SharedHolds(self.engine, Clock(), lambda: self.may_change, home, self.reports.append)
        self.holds.changed = self.changed.append
        self.holds.table.start()


class SharedHoldsTests(SynchronousTestCase):
    """Two nodes."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.one, self.other = Node(self.store), Node(self.store)

    def test_hold_and_release(self) -> None:
        """A hold on one node is known on the other; the release of a peer ends all that it covers; each peer has its own value."""
        targets = [HoldTarget(peer=PEER), HoldTarget(pair=OUT), HoldTarget(pair=OUT, position=3), HoldTarget(pair=IN, position=2)]
        for target in targets:
            now(self.one.holds.add(target))
        now(self.one.holds.add(HoldTarget(pair=OUT)))
        now(self.other.holds.add(HoldTarget(peer=OTHER)))
        for node in (self.one, self.other, Node(self.store)):
            holds = node.holds
            self.assertEqual({*targets, HoldTarget(peer=OTHER)}, set(holds))
            self.assertEqual((True, True, True), (holds.holds(OUT), holds.holds(IN), holds.holds(OUT_OTHER)))
            self.assertEqual(({3}, {2}, set()), (holds.positions(OUT), holds.positions(IN), holds.positions(OUT_OTHER)))
            self.assertEqual(({OUT, IN}, set()), (holds.lanes(PEER), holds.lanes(OTHER)))
        self.assertEqual([PEER] * 4 + [OTHER], self.other.changed)
        self.assertEqual(2, now(self.other.holds.discard(HoldTarget(pair=OUT))))
        self.assertEqual((True, set(), {IN}), (self.one.holds.holds(OUT), self.one.holds.positions(OUT), self.one.holds.lanes(PEER)))
        self.assertEqual(2, now(self.other.holds.discard(HoldTarget(peer=PEER))))
        self.assertEqual(0, now(self.other.holds.discard(HoldTarget(peer=PEER))))
        self.assertEqual([HoldTarget(peer=OTHER)], list(self.one.holds))
        now(self.one.holds.add(HoldTarget(pair=OUT_OTHER)))
        self.assertEqual(set(), self.one.holds.lanes(OTHER))

    def test_together(self) -> None:
        """Two operators who change the holds of one peer at the same time: both have their way."""
        now(self.one.holds.add(HoldTarget(pair=IN)))
        self.one.engine.fall_behind()
        now(self.other.holds.discard(HoldTarget(pair=IN)))
        now(self.other.holds.add(HoldTarget(pair=OUT, position=1)))
        now(self.one.holds.add(HoldTarget(pair=OUT, position=2)))
        for node in (self.one, self.other):
            self.assertEqual({HoldTarget(pair=OUT, position=number) for number in (1, 2)}, set(node.holds))

    def test_engine_away(self) -> None:
        """A node that cannot reach the engine holds and releases nothing."""
        now(self.one.holds.add(HoldTarget(peer=PEER)))
        self.one.may_change = False
        self.assertRaises(NotChanged, now, self.one.holds.add(HoldTarget(peer=OTHER)))
        self.assertRaises(NotChanged, now, self.one.holds.discard(HoldTarget(peer=PEER)))
        self.assertEqual([HoldTarget(peer=PEER)], list(self.one.holds))
        self.assertEqual([HoldTarget(peer=PEER)], list(self.other.holds))

    def test_ended(self) -> None:
        """A hold ends with its stanza. It is no hold here at once, and none elsewhere when the engine answers."""
        for position in (1, 2, 3):
            now(self.one.holds.add(HoldTarget(pair=OUT, position=position)))
        now(self.one.holds.add(HoldTarget(pair=OUT)))
        self.one.may_change = False
        self.one.holds.ended(OUT, {1, 7})
        self.assertEqual(({2, 3}, 3), (self.one.holds.positions(OUT), len(list(self.one.holds))))
        self.assertEqual({1, 2, 3}, self.other.holds.positions(OUT))
        now(self.other.holds.add(HoldTarget(pair=OUT, position=4)))  # the value is another one now
        self.one.holds.write_again()
        self.one.may_change = True
        self.one.holds.write_again()
        self.assertEqual(({2, 3, 4}, True), (self.other.holds.positions(OUT), self.other.holds.holds(OUT)))
        self.one.holds.forget(OUT)
        self.assertEqual([HoldTarget(pair=OUT)], list(self.other.holds))
        self.assertEqual({}, self.one.holds._ended)

    def test_ended_and_ended_again(self) -> None:
        """While a removal is under way it is not made a second time. One that another node has made is done."""
        now(self.one.holds.add(HoldTarget(pair=OUT, position=1)))
        self.one.engine.cut()
        self.one.holds.ended(OUT, {1})
        now(self.other.holds.discard(HoldTarget(pair=OUT, position=1)))
        for _ in range(3):
            self.one.holds.write_again()
        self.assertEqual(1, len(self.one.engine._waiting))
        self.one.engine.go_on()
        self.assertEqual(({}, []), (self.one.holds._ended, list(self.other.holds)))

    def test_held_again(self) -> None:
        """A hold that an operator sets again is one."""
        now(self.one.holds.add(HoldTarget(pair=OUT, position=1)))
        self.one.may_change = False
        self.one.holds.ended(OUT, {1})
        self.one.may_change = True
        now(self.one.holds.add(HoldTarget(pair=OUT, position=1)))
        self.one.holds.write_again()
        self.assertEqual(({1}, {1}), (self.one.holds.positions(OUT), self.other.holds.positions(OUT)))

    def test_abandoned(self) -> None:
        """Ends of holds are forgotten with the queues of their peer, also one that is under way, and no other."""
        now(self.one.holds.add(HoldTarget(pair=OUT, position=1)))
        now(self.one.holds.add(HoldTarget(pair=OUT_OTHER, position=1)))
        self.one.engine.fall_behind()
        now(self.other.holds.add(HoldTarget(pair=OUT, position=2)))
        self.one.engine.hold()
        self.one.holds.ended(OUT, {1})
        self.one.holds.ended(OUT_OTHER, {1})
        self.one.holds.abandon(PEER)
        self.one.engine.go_on()
        self.assertEqual(({1, 2}, set()), (self.other.holds.positions(OUT), self.other.holds.positions(OUT_OTHER)))

    def test_bounded(self) -> None:
        """The number of holds is bounded for all nodes together, and their bytes for each peer."""
        self.patch(shared_holds, "HOLDS", 2)
        now(self.one.holds.add(HoldTarget(peer=PEER)))
        now(self.other.holds.add(HoldTarget(peer=OTHER)))
        self.assertRaises(TooManyHolds, now, self.one.holds.add(HoldTarget(pair=OUT)))
        now(self.one.holds.add(HoldTarget(peer=PEER)))
        self.patch(shared_holds, "HOLDS", 10_000)
        names = [Domain.parse(".".join(["x" * 60] * 3) + f".{number}.example") for number in range(PEER_BYTES // 190 + 1)]
        self.assertRaises(TooManyHolds, lambda: [now(self.one.holds.add(HoldTarget(pair=Pair(PEER, name)))) for name in names])

    def test_unreadable(self) -> None:
        """A value that cannot be read holds the whole peer on each node, and says so, until an operator releases it."""
        for number, data in enumerate((
            b"x", b"[]", b"{}", b'{"version":1}', b'{"version":2,"holds":[]}', b'{"version":1,"holds":[[]]}', b'{"version":1,"holds":[["a b"]]}',
            b'{"version":1,"holds":[["peer.example","here.example",0]]}', b'{"version":1,"holds":7}',
        ), 1):
            now(self.other.engine.put("hold.peer_example", data, None))
            self.assertEqual([HoldTarget(peer=PEER)], list(self.one.holds), data)
            self.assertEqual(number, len(self.one.reports))
            self.assertIn("all of the peer is held", self.one.reports[-1])
            self.assertEqual(0, now(self.one.holds.discard(HoldTarget(pair=OUT))))
            self.one.holds.ended(OUT, {1})
            self.assertEqual(1, now(self.one.holds.discard(HoldTarget(peer=PEER))))
            self.assertEqual([], list(self.other.holds))

    def test_strange_keys(self) -> None:
        """A key that is of no peer has no effect."""
        now(self.other.engine.put("hold.=20", json.dumps({"version": 1, "holds": [["peer.example"]]}).encode(), 0))
        self.assertEqual(([], []), (list(self.one.holds), self.one.changed))
