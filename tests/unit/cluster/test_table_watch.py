"""Watches: every value and change is told, in order, also where replicas are behind and hints are lost."""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineGone, Entry
from s2sgw.cluster.failures import Failures
from s2sgw.cluster.jetstream_api import Found, RecordPage
from s2sgw.cluster.table_watch import TableWatch
from tests.support.simulated_loop import SimulatedLoop


class StreamStub:
    """A stream with one record of each subject. A reading has what is older than `behind` seconds, and two records at most."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.records: dict[str, tuple[float, Found]] = {}
        self.behind = 0.0
        self.gone = False
        self.read = self.asked = 0

    def put(self, key: str, sequence: int) -> None:
        self.records[key] = (self.loop.time(), Found(f"s2sgw.book.{key}", sequence, {}, b"%d" % sequence))

    async def next_page(self, stream: str, subjects: str, after: int, at_most: int) -> RecordPage:
        self.read += 1
        if self.gone:
            raise EngineGone("gone")
        found = [found for at, found in self.records.values() if at <= self.loop.time() - self.behind]
        found = sorted((each for each in found if each.sequence > after and each.subject.startswith(subjects[:-1])), key=lambda each: each.sequence)
        return RecordPage(found[:2], len(found) > 2)


    async def leader_next(self, stream: str, subject: str, after: int) -> Found | None:
        await asyncio.sleep(0.001)
        if self.gone:
            raise EngineGone("gone")
        self.asked += 1
        found = [found for _, found in self.records.values() if found.sequence > after and found.subject.startswith(subject[:-1])]
        return min(found, key=lambda each: each.sequence, default=None)


def entry(found: Found) -> Entry:
    return Entry(found.subject, found.sequence, found.data)


class WatchTests(SynchronousTestCase):
    """A watch of "pin"."""

    def setUp(self) -> None:
        self.loop = SimulatedLoop()
        self.stub = StreamStub(self.loop)
        self.told: list[tuple[float, int]] = []
        self.watch = TableWatch(
            self.stub, "S", "s2sgw.book.pin.>", entry, lambda entry: self.told.append((self.loop.time(), entry.sequence))
        )

    def run_for(self, seconds: float, *events: tuple[float, str, int]) -> list[int]:
        """Run the watch; at each time of `events`, put a value, with a hint for a positive sequence."""
        async def run() -> None:
            for at, key, sequence in events:
                self.loop.call_at(at, self.stub.put, key, abs(sequence))
                if sequence > 0:
                    self.loop.call_at(at, self.watch.hint, f"s2sgw.book.{key}")
            task = asyncio.ensure_future(self.watch.run())
            await asyncio.sleep(seconds)
            task.cancel()

        self.loop.run(run())
        return [sequence for _, sequence in self.told]

    def test_what_is_there(self) -> None:
        """All values are told at once, in order, over several pages; others are not."""
        for sequence, key in enumerate(("pin.a", "pin.b", "pins.x", "pin.c", "pin.d"), 1):
            self.stub.put(key, sequence)
        self.assertEqual((self.run_for(0.1), self.told[-1][0]), ([1, 2, 4, 5], 0.0))

    def test_hint(self) -> None:
        """A change is told soon after it was made, by a replica that is a little behind too."""
        self.stub.behind = 0.03
        self.assertEqual(self.run_for(3, (0.5, "pin.a", 1), (1.0, "pin.a", 2), (1.05, "pin.b", 3)), [1, 2, 3])
        self.assertTrue(all(at < limit for (at, _), limit in zip(self.told, (0.6, 1.1, 1.2), strict=True)), self.told)

    def test_lost_hint(self) -> None:
        """A change without a hint is told when the watch reads by itself."""
        self.assertEqual(self.run_for(4, (0.5, "pin.a", -1)), [1])

    def test_engine_that_was_away(self) -> None:
        """Values that changed meanwhile are reported afterwards, each once, with its last change."""
        self.loop.call_at(0.1, setattr, self.stub, "gone", True)
        self.loop.call_at(9.0, setattr, self.stub, "gone", False)
        self.assertEqual(self.run_for(15, (0.05, "pin.a", 1), (1.0, "pin.a", 2), (2.0, "pin.b", 3), (3.0, "pin.a", 4)), [1, 3, 4])

    def test_fault_of_a_reading(self) -> None:
        """A reading that fails for a reason that was not expected is logged and counted, and the changes are told later."""
        failures = Failures()
        real, faults = self.stub.next_page, [ZeroDivisionError()]

        async def next_page(*arguments: Any) -> RecordPage:
            if faults:
                raise faults.pop()
            return await real(*arguments)

        self.stub.next_page = next_page  # type: ignore[method-assign, assignment]
        self.watch = TableWatch(
            self.stub, "S", "s2sgw.book.pin.>", entry, lambda entry: self.told.append((self.loop.time(), entry.sequence)), failures,
        )
        self.stub.put("pin.a", 1)
        self.assertEqual(([1], 1, 1), (self.run_for(4), failures.number, len(self.flushLoggedErrors(ZeroDivisionError))))

    def test_other_hints(self) -> None:
        """A hint of another prefix is no reason to read."""
        self.run_for(1.5, (0.5, "pins.a", 1), (0.6, "other", 2))
        self.assertEqual(self.stub.read, 1)

    def test_fault_of_the_caller(self) -> None:
        """A change that cannot be taken is logged, and the next ones are told."""
        def changed(entry: Entry) -> None:
            self.told.append((0.0, entry.sequence))
            if entry.sequence == 1:
                raise ValueError("no")

        self.watch = TableWatch(self.stub, "S", "s2sgw.book.pin.>", entry, changed)
        self.assertEqual(self.run_for(3, (0.5, "pin.a", 1), (0.5, "pin.b", 2), (1.0, "pin.a", 3)), [1, 2, 3])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_current(self) -> None:
        """All that was put before is told at once, also if replicas are behind, and values change again and again."""
        self.stub.behind = 0.4
        self.stub.put("pin.x", 1)
        known: dict[str, int] = {}
        at: list[float] = []

        async def run() -> None:
            task = asyncio.ensure_future(self.watch.run())
            await asyncio.sleep(1.0)
            for sequence in range(2, 22):
                self.stub.put(f"pin.{sequence}", sequence)
            for sequence in range(22, 500):
                self.loop.call_at(1.0 + (sequence - 21) / 250, self.stub.put, f"pin.{sequence % 22}", sequence)
            await asyncio.gather(self.watch.current(), self.watch.current())
            at.append(self.loop.time())
            known.update({f"pin.{sequence % 22}": sequence for _, sequence in self.told})
            task.cancel()

        self.loop.run(run())
        self.assertLess(at[0], 1.2)
        self.assertLessEqual({f"pin.{sequence}" for sequence in range(2, 22)}, set(known))
        sequences = [sequence for _, sequence in self.told]
        self.assertEqual(sorted(set(sequences)), sequences)

    def test_current_without_engine(self) -> None:
        """Without the engine this is not known."""
        self.stub.gone = True
        self.assertRaises(EngineGone, self.loop.run, self.watch.current())

    def test_stop(self) -> None:
        """A watch that was stopped tells nothing, also of a page that it has."""
        for sequence in range(1, 5):
            self.stub.put(f"pin.{sequence}", sequence)
        self.loop.call_at(0.5, self.watch.stop)
        self.assertEqual(self.run_for(5, (0.5, "pin.x", 9)), [1, 2, 3, 4])
