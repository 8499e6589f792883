"""Items that strangers name: bounded, shared by registered domain, and written in the background."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import shared_items
from s2sgw.cluster.shared_items import PAUSE, PAUSE_AFTER_FAILURE, ItemKind, SharedItems, _Size, giving_way
from s2sgw.cluster.shared_table import NotChanged
from s2sgw.xmpp.registered_domain import registered_domain
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore


def read(name: str, words: dict[str, Any]) -> int:
    return int(words["n"])


def latest(number: int, before: int | None) -> int:
    return number


KIND: ItemKind[int] = ItemKind("test", 4, 2000, lambda item: {"n": item}, read, max, float)


class Node:
    """The items of a node."""

    def __init__(self, store: MemoryStore, clock: Clock, kind: ItemKind[int] = KIND) -> None:
        self.may_change = True
        self.reports: list[str] = []
        self.engine = MemoryEngine(store)
        self.items = SharedItems(kind, self.engine, clock, lambda: self.may_change, b"secret", self.reports.append)
        self.items.table.start()

    @property
    def all(self) -> dict[str, int | None]:
        return {name: self.items.get(name) for name in self.items.names()}


class SharedItemsTests(SynchronousTestCase):
    """Two nodes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.one, self.other = Node(self.store, self.clock), Node(self.store, self.clock)

    def settle(self) -> None:
        self.clock.pump([PAUSE] * 20)

    def test_change(self) -> None:
        """A change that is waited for is known on both nodes."""
        self.assertEqual(3, now(self.one.items.change("a.example", lambda item: 3)))
        self.assertEqual(4, now(self.other.items.change("a.example", lambda item: (item or 0) + 1)))
        self.assertEqual(({"a.example": 4}, {"a.example": 4}), (self.one.all, self.other.all))
        self.assertIsNone(now(self.one.items.change("a.example", lambda item: None)))
        self.assertEqual({}, self.other.all)

    def test_in_the_background(self) -> None:
        """An item counts here at once, and is written a little later, together with others of its bucket. Each is merged with others'."""
        for number in range(40):
            self.one.items.put(f"a{number}.example", number)
        now(self.other.items.change("a7.example", lambda item: 100))
        self.one.items.put("a8.example", 3)
        self.assertEqual((40, 8, 100), (len(self.one.all), self.one.items.get("a8.example"), self.one.items.get("a7.example")))
        self.assertEqual({"a7.example": 100}, self.other.all)
        before = next(self.store._sequences)
        self.settle()
        self.assertEqual(self.one.all, self.other.all)
        self.assertEqual((40, 100, 8), (len(self.other.all), self.other.items.get("a7.example"), self.other.items.get("a8.example")))
        self.assertLessEqual(next(self.store._sequences) - before - 1, KIND.buckets)
        self.assertEqual({}, self.one.items._waiting)

    def test_removed(self) -> None:
        """A removal counts here at once, and elsewhere a little later. What is put afterwards is there again."""
        for name in ("a.example", "b.example"):
            self.one.items.put(name, 1)
        self.settle()
        self.one.items.remove("a.example")
        self.one.items.remove("b.example")
        self.one.items.remove("c.example")
        self.assertEqual({}, self.one.all)
        self.assertEqual(2, len(self.other.all))
        self.one.items.put("b.example", 2)
        self.settle()
        self.assertEqual(({"b.example": 2}, {"b.example": 2}), (self.one.all, self.other.all))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_never_written(self) -> None:
        """An item that is removed before it was written is nothing to write."""
        self.one.items.put("a.example", 1)
        self.one.items.remove("a.example")
        self.settle()
        self.assertEqual(({}, {}), (self.one.all, self.other.all))

    def test_engine_away(self) -> None:
        """Without the engine items wait, the last ones of too many, and are written when it is back."""
        self.patch(shared_items, "WAITING", 5)
        self.one.may_change = False
        for number in range(8):
            self.one.items.put(f"a{number}.example", number)
        self.clock.advance(PAUSE)
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(PAUSE_AFTER_FAILURE, call.getTime() - self.clock.seconds())
        self.settle()
        self.assertEqual((5, {}), (len(self.one.all), self.other.all))
        self.one.may_change = True
        self.clock.pump([PAUSE_AFTER_FAILURE] * 3)
        self.settle()
        self.assertEqual({f"a{number}.example": number for number in range(3, 8)}, self.other.all)

    def test_changed_while_it_is_written(self) -> None:
        """An item that changes while it is written is written again."""
        self.one.items.put("a.example", 1)
        self.one.engine.lose_answers()
        self.clock.advance(PAUSE)
        self.one.items.put("a.example", 2)
        self.one.engine.go_on()
        self.settle()
        self.assertEqual({"a.example": 2}, self.other.all)

    def test_removed_while_it_is_written(self) -> None:
        """An item that is removed while it is written is removed again."""
        self.one.items.put("a.example", 1)
        self.one.engine.hold()
        self.clock.advance(PAUSE)
        self.one.items.remove("a.example")
        self.one.engine.go_on()
        self.settle()
        self.assertEqual(({}, {}), (self.other.all, self.one.items._waiting))

    def test_stop(self) -> None:
        """Nothing is written after the stop."""
        self.one.items.put("a.example", 1)
        self.one.items.stop()
        self.one.items.put("b.example", 1)
        self.settle()
        self.assertEqual(({}, []), (self.other.all, self.clock.getDelayedCalls()))

    def test_names_of_one_domain(self) -> None:
        """Names with one domain are listed together, those of others in the bucket are not."""
        for name in ("a.example 1", "a.example 2", "b.a.example 1", "a.example"):
            now(self.one.items.change(name, lambda item: 1))
        self.one.items.put("a.example 3", 1)
        self.one.items.remove("a.example 2")
        self.assertEqual({"a.example", "a.example 1", "a.example 3"}, set(self.one.items.beside("a.example x")))

    def test_another_public_suffix_list(self) -> None:
        """A node finds what a node with another release of the Public Suffix List has shared. So does a later release of itself."""
        names = ("a.b.co.uk", "c.a.b.co.uk", "x.mine.duckdns.org", "mine.duckdns.org", "b.example", "192.0.2.1", "[2001:db8::1]", "lan")
        for name in names:
            now(self.one.items.change(name, lambda item: 7))
        self.patch(shared_items, "registered_domain", lambda name: name)
        self.assertEqual([7] * len(names), [self.other.items.get(name) for name in names])
        self.patch(shared_items, "registered_domain", lambda name: "com")
        self.assertEqual([7] * len(names), [self.other.items.get(name) for name in names])

    def test_bounded(self) -> None:
        """Strangers fill no more than their bytes, and sub-domains of one domain push out each other first. Old ones go first."""
        now(self.one.items.change("victim.example", lambda item: 1))
        for number in range(2, 400):
            self.one.items.put(f"a{number}.evil.example", number)
            self.clock.advance(PAUSE)
        self.settle()
        self.assertEqual(1, self.other.items.get("victim.example"))
        numbers = sorted(item for name, item in self.other.all.items() if "evil" in name and item)
        self.assertEqual(list(range(400 - len(numbers), 400)), numbers)
        self.assertTrue(30 < len(numbers) < 80, len(numbers))
        for entry in self.store.content.table.values():
            self.assertLess(len(entry.data or b""), KIND.bucket_bytes + 100)
        self.assertLessEqual(len(self.store.content.table), KIND.buckets)

    def test_small_engine(self) -> None:
        """A bucket fits into a record of the engine."""
        self.patch(MemoryEngine, "max_record", shared_items.OVERHEAD + 500)
        for number in range(100):
            now(self.one.items.change(f"a{number}.evil.example", partial(latest, number)))
        self.assertLess(max(len(entry.data or b"") for entry in self.store.content.table.values()), 600)

    def test_unreadable(self) -> None:
        """A value that cannot be read is reported and not changed, and what waits for it is given up. It comes back by itself."""
        (key,) = {self.one.items._key("a.example")}
        for data in (b"x", b"{}", b'{"version":2,"items":{}}', b'{"version":1,"items":{"a.example":{}}}', b'{"version":1,"items":[]}', b'{"version":1,"items":{"a.example":{"n":Infinity}}}'):
            sequence = now(self.other.engine.put(f"test.{key}", data, None))
            self.assertIn(f"test.{key} cannot be read", self.one.reports.pop())
            self.assertEqual((False, None), (self.one.items.readable("a.example"), self.one.items.get("a.example")))
            self.assertRaises(NotChanged, now, self.one.items.change("a.example", lambda item: 1))
            self.one.items.put("a.example", 1)
            self.settle()
            self.assertEqual((data, sequence, {}), (self.store.content.table[f"test.{key}"].data, sequence, self.one.items._waiting))
        now(self.other.engine.put(f"test.{key}", b'{"version":1,"items":{"a.example":{"n":5}}}', None))
        self.assertEqual((5, True), (self.one.items.get("a.example"), self.one.items.readable("a.example")))

    def test_written_alike(self) -> None:
        """A change that changes nothing writes nothing."""
        now(self.one.items.change("a.example", lambda item: 1))
        sequence = max(entry.sequence for entry in self.store.content.table.values())
        now(self.other.items.change("a.example", lambda item: item))
        self.other.items.put("a.example", 1)
        self.settle()
        self.assertEqual(sequence, max(entry.sequence for entry in self.store.content.table.values()))
        (entry,) = self.store.content.table.values()
        self.assertEqual({"version": 1, "items": {"a.example": {"n": 1}}}, json.loads(entry.data or b""))

    def test_secret(self) -> None:
        """Another secret spreads the names in another way, and sub-domains stay together."""
        other = SharedItems(KIND, self.one.engine, self.clock, lambda: True, b"other", self.one.reports.append)
        names = [f"a{number}.example" for number in range(50)]
        self.assertNotEqual([self.one.items._key(name) for name in names], [other._key(name) for name in names])
        self.assertEqual(1, len({self.one.items._key(f"x{number}.a.example {number}") for number in range(50)}))


class GivingWayTests(SynchronousTestCase):
    """Tests of the choice of items that give way."""

    NAMES = st.builds(lambda sub, site: f"{sub}.{site}.example", st.sampled_from("abcdef"), st.sampled_from("xyz"))

    @given(st.dictionaries(NAMES, st.builds(_Size, st.integers(1, 100), st.integers(0, 20).map(float))), st.integers(0, 800))
    def test_fair(self, sizes: dict[str, _Size], most: int) -> None:
        """No more goes than must; within a domain the oldest goes; nothing goes of a domain that has much less than another keeps."""
        gone = giving_way(sizes, most)
        left = {name: sizes[name] for name in sizes if name not in gone}
        totals: dict[str, int] = {}
        for name in left:
            totals[registered_domain(name)] = totals.get(registered_domain(name), 0) + shared_items._bytes(name, left[name])
        self.assertLessEqual(sum(totals.values()), most)
        if gone:
            self.assertGreater(sum(totals.values()) + shared_items._bytes(gone[-1], sizes[gone[-1]]), most)
        for name in gone:
            site = registered_domain(name)
            self.assertTrue(all(sizes[other].used >= sizes[name].used for other in left if registered_domain(other) == site))
            self.assertLessEqual(max(totals.values(), default=0), totals.get(site, 0) + sum(
                shared_items._bytes(each, sizes[each]) for each in gone if registered_domain(each) == site
            ))

    def test_in_turn(self) -> None:
        """Of two domains that have the same, the one with the oldest name is the first; then they take turns."""
        sizes = {f"{name}.example": _Size(100, float(used)) for used, name in enumerate(("a.y", "b.y", "c.y", "a.x", "b.x", "c.x"))}
        each = shared_items._bytes("a.x.example", sizes["a.x.example"])
        self.assertEqual([f"{name}.example" for name in ("a.y", "a.x", "b.y", "b.x")], giving_way(sizes, 2 * each))

    def test_many(self) -> None:
        """Many names of one domain beside many domains are looked at some times each, not once for each that gives way."""
        class Sizes(dict[str, _Size]):
            reads = 0

            def __getitem__(self, name: str) -> _Size:
                self.reads += 1
                return super().__getitem__(name)

        sizes = Sizes({f"a{number}.evil.example": _Size(100, float(number)) for number in range(1000)})
        sizes.update({f"a{number}.example": _Size(100, 0.0) for number in range(300)})
        gone = giving_way(sizes, 50_000)
        self.assertEqual([f"a{number}.evil.example" for number in range(len(gone))], gone)
        self.assertLess(sizes.reads, 5 * len(sizes))
