"""Names that operators denied, on several nodes."""

from __future__ import annotations

import json
from collections.abc import Collection

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import shared_denials
from s2sgw.cluster.shared_denials import SharedDenials
from s2sgw.cluster.shared_items import OVERHEAD
from s2sgw.cluster.shared_table import NotChanged
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore


class Node:
    """The names of a node, and those on its disk."""

    def __init__(self, store: MemoryStore, clock: Clock, *kept: str, **times: float) -> None:
        self.names: tuple[str, ...] = kept
        self.times = {f"{name}.example": at for name, at in times.items()}
        self.may_change = True
        self.reports: list[str] = []
        self.changes = 0
        self.engine = MemoryEngine(store)
        self.shared = SharedDenials(self.engine, Clock(), lambda: self.may_change, self.reports.append, clock)
        self.shared.kept, self.shared.apply = self.kept, self.apply
        self.shared.table.start()

    def kept(self) -> dict[str, float]:
        return {**dict.fromkeys(self.names, 0.0), **self.times}

    def apply(self, names: Collection[str]) -> None:
        self.names = tuple(names)
        self.changes += 1


class SharedDenialsTests(SynchronousTestCase):
    """Two nodes, and some that come later."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.clock = Clock()
        self.one, self.other = self.node(), self.node()

    def node(self, *kept: str, **times: float) -> Node:
        node = Node(self.store, self.clock, *kept, **times)
        now(node.shared.restore())
        node.changes = 0
        return node

    def test_both(self) -> None:
        """A name that is denied on one node is denied on the other, until either denies it no longer. Each change is one."""
        self.assertEqual((True, False), (now(self.one.shared.add("a.example")), now(self.other.shared.add("a.example"))))
        now(self.other.shared.add("*.b.example"))
        self.assertEqual([("a.example", "*.b.example")] * 2, [self.one.names, self.other.names])
        self.assertEqual((2, 2), (self.one.changes, self.other.changes))
        self.assertEqual((True, False), (now(self.other.shared.remove("a.example")), now(self.one.shared.remove("a.example"))))
        self.assertEqual([("*.b.example",)] * 2, [self.one.names, self.other.names])

    def test_away(self) -> None:
        """A node that was away learns what was denied meanwhile, and does not bring back what was undone."""
        for name in ("a.example", "b.example"):
            now(self.one.shared.add(name))
        now(self.one.shared.remove("a.example"))
        self.assertEqual(("b.example",), self.node("a.example").names)
        now(self.one.shared.add("a.example"))
        self.assertEqual(("b.example", "a.example"), self.node().names)
        self.assertEqual([], json.loads(self.one.shared.table.get("all") or b"")["undone"])

    def test_alone_before(self) -> None:
        """A gateway that was alone brings its names, and so does a node whose engine has lost its store."""
        self.assertEqual(("a.example",), self.node("a.example").names)
        self.assertEqual([("a.example",)] * 2, [self.one.names, self.other.names])
        self.store = MemoryStore()
        for kept in (self.one.names, ("c.example",)):
            last = self.node(*kept)
        self.assertEqual({"a.example", "c.example"}, set(last.names))

    def test_denied_alone_later(self) -> None:
        """A name that was denied on a gateway alone counts if it was undone before that, and not if it was undone later."""
        for name in ("a.example", "b.example", "c.example"):
            now(self.one.shared.add(name))
        self.clock.advance(100.0)
        for name in ("a.example", "b.example"):
            now(self.one.shared.remove(name))
        self.assertEqual({"a.example", "c.example"}, set(self.node(a=101.0, b=99.0).names))
        self.assertEqual({"a.example", "c.example"}, set(self.one.names))
        value = json.loads(self.one.shared.table.get("all") or b"")
        self.assertEqual((["b.example"], [100]), (value["undone"], value["undone_at"]))
        now(self.one.shared.remove("a.example"))
        self.assertEqual(("c.example",), self.node("a.example").names)

    def test_undone_by_older_release(self) -> None:
        """A name that a node of an older release has undone has no time there: it is not brought back."""
        for undone_at, names in (("", ()), (',"undone_at":[null]', ()), (',"undone_at":[100]', ("a.example",))):
            self.store = MemoryStore()
            data = '{"version":1,"denied":[],"undone":["a.example"]' + undone_at + "}"
            now(MemoryEngine(self.store).put("deny.all", data.encode(), None))
            self.assertEqual(names, self.node(a=101.0).names)
        now(self.one.engine.put("deny.all", b'{"version":1,"denied":[],"undone":["a.example"]}', None))
        now(self.one.shared.add("b.example"))
        self.assertEqual([None], json.loads(self.one.shared.table.get("all") or b"")["undone_at"])

    def test_not_restored(self) -> None:
        """Before a node has shared what it has on its disk, nothing there is replaced."""
        late = Node(self.store, self.clock, "kept.example")
        now(self.one.shared.add("a.example"))
        self.assertEqual(("kept.example",), late.names)
        now(late.shared.restore())
        self.assertEqual({"a.example", "kept.example"}, set(late.names))

    def test_undone_are_bounded(self) -> None:
        """The last names that were undone are remembered, and not more."""
        self.patch(shared_denials, "UNDONE", 2)
        for name in "abc":
            now(self.one.shared.add(f"{name}.example"))
            now(self.one.shared.remove(f"{name}.example"))
        self.assertEqual(["b.example", "c.example"], json.loads(self.one.shared.table.get("all") or b"")["undone"])

    def test_bounded(self) -> None:
        """The number and the bytes of names are bounded, in words. An undo is always possible."""
        self.patch(shared_denials, "MOST_BY_HAND", 2)
        for name in ("a.example", "b.example"):
            now(self.one.shared.add(name))
        self.assertIn("at most 2 names", str(self.assertRaises(NotChanged, now, self.one.shared.add("c.example"))))
        now(self.one.shared.remove("b.example"))
        self.patch(MemoryEngine, "max_record", OVERHEAD + 80)
        self.assertIn("deny_lists", str(self.assertRaises(NotChanged, now, self.one.shared.add("much.longer.than.that.example"))))
        late = Node(self.store, self.clock, "b.example", "much.longer.than.that.example")
        now(late.shared.restore())
        self.assertEqual((("a.example",), 1), (late.names, len(late.reports)))
        self.patch(MemoryEngine, "max_record", OVERHEAD)
        self.assertTrue(now(self.one.shared.remove("a.example")))

    def test_as_many_as_fit(self) -> None:
        """Of the names on the disk of a node, those are shared that fit, to the last byte. The others are counted in a report."""
        names = [f"{letter}.example" for letter in "abcd"]
        value = json.dumps({"version": 1, "denied": names[:3], "undone": []}, separators=(",", ":"))
        for spare, number in ((-1, 2), (0, 3)):
            self.store = MemoryStore()
            self.patch(MemoryEngine, "max_record", OVERHEAD + len(value) + spare)
            late = self.node(*names)
            self.assertEqual(([*late.names], [report.split()[0] for report in late.reports]), (names[:number], [str(4 - number)]))

    def test_no_engine(self) -> None:
        """A node that may change nothing says so."""
        self.one.may_change = False
        self.assertRaises(NotChanged, now, self.one.shared.add("a.example"))
        self.assertEqual((), self.other.names)

    def test_nothing_to_share(self) -> None:
        """A node that has nothing to share need not write anything before it opens its listeners."""
        now(self.one.shared.add("a.example"))
        late = Node(self.store, self.clock)
        late.may_change = False
        now(late.shared.restore())
        self.assertEqual(("a.example",), late.names)

    def test_unreadable(self) -> None:
        """A value of a newer release, or a damaged one, is reported and not changed. Each node goes on with the names that it knew."""
        now(self.one.shared.add("a.example"))
        for number, data in enumerate((b"{", b'{"version":2,"denied":[],"undone":[]}', b'{"version":1,"denied":[7],"undone":[]}', b'{"version":1,"denied":["no domain"],"undone":[]}', b'{"version":1,"denied":[],"undone":[],"undone_at":[1]}', b'{"version":1,"denied":[],"undone":["b.example"],"undone_at":[NaN]}', b'{"version":1,"denied":[],"undone":["b.example"],"undone_at":[1' + b"0" * 400 + b"]}"), 1):
            now(self.one.engine.put("deny.all", data, None))
            self.assertEqual((("a.example",), number), (self.other.names, len(self.other.reports)))
            self.assertIn("cannot be read", str(self.assertRaises(NotChanged, now, self.other.shared.add("b.example"))))
        late = self.node("kept.example")
        self.assertEqual(("kept.example",), late.names)
        now(self.one.engine.put("deny.all", b'{"version":1,"denied":["c.example"],"undone":[]}', None))
        self.assertEqual([("c.example", "kept.example")] * 3, [self.one.names, self.other.names, late.names])

    def test_other_keys(self) -> None:
        """Another value below the prefix is left alone."""
        now(self.one.engine.put("deny.more", b"{", None))
        self.assertEqual(([], 0), (self.one.reports, self.one.changes))
