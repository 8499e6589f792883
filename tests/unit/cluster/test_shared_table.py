"""The shared table: reads of a copy, changes by compare-and-set, and a node that cannot reach the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineFull, EngineGone
from s2sgw.cluster.shared_table import ATTEMPTS, CHANGE_SECONDS, NotChanged, NotKnown, SharedTable
from tests.support.coroutines import now
from tests.support.memory_engine import MemoryEngine, MemoryStore


def appended(text: bytes) -> Callable[[bytes | None], bytes | None]:
    """Return an edit that appends `text`, unless it is there."""
    def edit(data: bytes | None) -> bytes | None:
        return None if text in (data or b"") else (data or b"") + text

    return edit


class Node:
    """A node with a table of the values below "pin"."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.may_change = True
        self.told: list[tuple[str, bytes | None]] = []
        self.own: list[bool] = []
        self.engine = MemoryEngine(store)
        self.table = SharedTable(self.engine, "pin", clock, lambda: self.may_change, self.taken)
        self.table.start()

    def taken(self, key: str, data: bytes | None, own: bool) -> None:
        self.told.append((key, data))
        self.own.append(own)


class SharedTableTests(SynchronousTestCase):
    """Two nodes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.one, self.other = Node(self.store, self.clock), Node(self.store, self.clock)

    def start(self, coroutine: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(coroutine)

    def test_change(self) -> None:
        """A change is known on both nodes, once each, and to a node that comes later. Other values are none of the table."""
        self.assertTrue(now(self.one.table.change("a", appended(b"1"))))
        self.assertTrue(now(self.other.table.change("a", appended(b"2"))))
        self.assertFalse(now(self.one.table.change("a", appended(b"2"))))
        self.assertEqual(({}, {}), (self.one.table._locks, self.one.table._writing))
        now(self.one.engine.put("pins.a", b"x", 0))
        late = Node(self.store, self.clock)
        for node in (self.one, self.other):
            self.assertEqual([("a", b"1"), ("a", b"12")], node.told)
        self.assertEqual(([True, False], [False, True], [False]), (self.one.own, self.other.own, late.own))
        self.assertEqual(([("a", b"12")], b"12", None, ["a"]), (late.told, late.table.get("a"), late.table.get("b"), late.table.keys()))
        now(self.one.engine.put("pin.a", None, None))
        self.assertEqual((None, [], ("a", None)), (late.table.get("a"), late.table.keys(), late.told[-1]))
        self.assertTrue(now(late.table.change("a", appended(b"3"))))
        self.assertEqual(b"3", self.one.table.get("a"))

    def test_lost_race(self) -> None:
        """A change that meets a newer value, which this node was not told yet, is judged again with it."""
        self.one.engine.fall_behind()
        now(self.other.table.change("a", appended(b"2")))
        self.assertIsNone(self.one.table.get("a"))
        self.assertTrue(now(self.one.table.change("a", appended(b"1"))))
        self.assertEqual((b"21", b"21"), (self.one.table.get("a"), self.other.table.get("a")))
        self.one.engine.fall_behind()
        now(self.other.table.change("a", appended(b"3")))
        self.assertFalse(now(self.one.table.change("a", lambda data: None if b"3" in (data or b"") else b"x")), "it was judged with the old value")

    def test_refused_by_the_edit(self) -> None:
        """An error of the edit is raised, and nothing is written."""
        def edit(data: bytes | None) -> bytes | None:
            raise OSError("no")

        self.assertRaises(OSError, now, self.one.table.change("a", edit))
        self.assertEqual([], self.other.told)

    def test_endless_races(self) -> None:
        """A value that changes each time is given up in words."""
        def edit(data: bytes | None) -> bytes | None:
            seen.append(data)
            now(self.other.engine.put("pin.a", b"%d" % len(seen), None))
            return b"x"

        seen: list[bytes | None] = []
        self.one.engine.fall_behind()
        error = self.assertRaises(NotChanged, now, self.one.table.change("a", edit))
        self.assertIn("again and again", str(error))
        self.assertEqual(ATTEMPTS, len(seen))

    def test_engine_away(self) -> None:
        """Without the engine nothing is decided: at once without the right to write, otherwise after a bounded time. It may be done later."""
        self.one.may_change = False
        self.assertEqual("the engine does not answer", str(self.assertRaises(NotChanged, now, self.one.table.change("a", appended(b"1")))))
        self.assertEqual([], self.other.told)
        self.one.may_change = True
        self.one.engine.cut()
        call = self.start(self.one.table.change("a", appended(b"1")))
        self.clock.advance(CHANGE_SECONDS - 0.1)
        self.assertNoResult(call)
        self.clock.advance(0.2)
        self.assertIn("may still do it", str(self.failureResultOf(call, NotKnown).value))
        self.assertEqual([], self.one.told)
        self.one.engine.go_on()
        self.assertEqual(b"1", self.one.table.get("a"))
        self.one.engine.refuse(EngineFull("the engine is full"))
        self.assertEqual("the engine is full", str(self.assertRaises(NotChanged, now, self.one.table.change("a", appended(b"2")))))

    def test_lost_answer(self) -> None:
        """A change whose answer is late is told once."""
        self.one.engine.lose_answers()
        call = self.start(self.one.table.change("a", appended(b"1")))
        self.one.engine.go_on()
        self.assertTrue(self.successResultOf(call))
        self.assertEqual([("a", b"1")], self.one.told)

    def test_old_values(self) -> None:
        """A value that is told behind a newer one is no news."""
        now(self.one.table.change("a", appended(b"1")))
        now(self.one.table.change("a", appended(b"2")))
        entry = self.store.content.table["pin.a"]
        self.one.table._told(entry._replace(sequence=entry.sequence - 1, data=b"1"))
        self.assertEqual(b"12", self.one.table.get("a"))

    def test_current(self) -> None:
        """All that was changed before is known. Callers share a reading, but never one that began before their call."""
        readings = []
        watch = self.one.table._watch
        assert watch is not None

        async def current() -> None:
            readings.append(Deferred[None]())
            await readings[-1]

        self.patch(watch, "current", current)
        calls = [self.start(self.one.table.current()) for _ in range(3)]
        self.assertEqual(1, len(readings))
        readings[0].callback(None)
        self.assertEqual([True, False, False], [call.called for call in calls])
        self.assertEqual(2, len(readings))
        calls[2].addErrback(lambda failure: None)
        readings[1].errback(EngineGone("away"))
        self.failureResultOf(calls[1], EngineGone)
        self.assertTrue(calls[2].called)
        last = self.start(self.one.table.current())
        last.cancel()
        last.addErrback(lambda failure: None)
        readings[2].callback(None)
        self.assertEqual(3, len(readings))

    def test_not_started(self) -> None:
        """A table that is not watched yet is not current."""
        table = SharedTable(self.one.engine, "pin", self.clock, lambda: True, lambda key, data, own: None)
        self.assertRaises(EngineGone, now, table.current())

    def test_same_change_twice(self) -> None:
        """The second of two equal changes has nothing to do, and the first one is answered. A change that follows at once is made."""
        self.one.engine.hold()
        calls = [self.start(self.one.table.change("a", appended(b"1"))) for _ in range(2)]
        calls[1].addCallback(lambda made: (made, now(self.one.table.change("a", appended(b"2")))))
        self.one.engine.go_on()
        self.assertEqual([True, (False, True)], list(map(self.successResultOf, calls)))
        self.assertEqual((b"12", {}, {}), (self.other.table.get("a"), self.one.table._locks, self.one.table._writing))

    def test_lock_of_a_later_change(self) -> None:
        """A change that begins before the former ones have ended keeps its lock."""
        later: list[Deferred[bool]] = []

        def change(made: bool) -> None:
            self.one.engine.hold()
            later.extend(self.start(self.one.table.change("a", appended(text))) for text in (b"2", b"3"))

        self.one.engine.hold()
        calls = [self.start(self.one.table.change("a", appended(b"1"))) for _ in range(2)]
        calls[1].addCallback(change)
        self.one.engine.go_on()
        later.append(self.start(self.one.table.change("a", appended(b"4"))))
        self.one.engine.go_on()
        self.assertEqual([True, True, True], list(map(self.successResultOf, later)))
        self.assertEqual((b"1234", {}), (self.other.table.get("a"), self.one.table._locks))

    def test_in_the_background(self) -> None:
        """A change that cannot be made is reported to its caller, and an unexpected fault is logged."""
        done: list[bool] = []
        for _ in range(2):
            self.one.table.begin_change("a", appended(b"1"), done.append)
        self.assertEqual((b"1", [True, True]), (self.other.table.get("a"), done))
        self.one.may_change = False
        self.one.table.begin_change("a", appended(b"2"), done.append)
        self.one.may_change = True
        self.one.table.begin_change("a", lambda data: bytes(-1), done.append)
        self.assertEqual([False, False], done[2:])
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
