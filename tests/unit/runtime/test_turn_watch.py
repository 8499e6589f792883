"""Tests of the measured turns of the reactor, and of the code that runs in a long one."""

from __future__ import annotations

import gc
import sys
import threading
from types import FrameType
from typing import Any

from twisted.logger import LogEvent, Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.printable import printable
from s2sgw.runtime.turn_watch import LOG_SECONDS, LONG_SECONDS, LOOK, LOOKED_AT, TurnWatch, collector_off, described


class TurnWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now, self.cpu = 100.0, 7.0
        self.watch = TurnWatch(lambda: self.now, lambda: self.cpu)
        self.events: list[LogEvent] = []
        self.watch.log = Logger("watch", observer=self.events.append)  # type: ignore[arg-type]

    def turn(self, seconds: float, looks: bool = False, cpu: float | None = None) -> None:
        self.watch.began()
        self.now += seconds
        self.cpu += seconds if cpu is None else cpu
        if looks:
            self.watch.look(sys._getframe())
        self.watch.ended()

    def metric(self, name: str = "s2sgw_reactor_turn_seconds") -> dict[str, float]:
        family = next(each for each in self.watch.collect() if each.name == name)
        return {sample.labels.get("le", sample.name): sample.value for sample in family.samples}

    def test_histogram(self) -> None:
        """Each turn is counted in its buckets."""
        self.watch.ended()  # before the first one
        for seconds in (0.0005, 0.0009, 0.02, 0.06, 9.0):
            self.turn(seconds)
        metric = self.metric()
        self.assertEqual([2, 2, 2, 3, 3, 4, 5], [metric[bound] for bound in ("0.001", "0.005", "0.01", "0.025", "0.05", "0.1", "+Inf")])
        self.assertAlmostEqual(9.0814, metric["s2sgw_reactor_turn_seconds_sum"])

    def test_cpu_time(self) -> None:
        """The CPU time of each turn is counted separately. The thread's work between two turns is not."""
        self.turn(0.2, cpu=0.004)
        self.now, self.cpu = self.now + 1, self.cpu + 1
        self.turn(0.2, cpu=0.06)
        metric = self.metric("s2sgw_reactor_turn_cpu_seconds")
        self.assertEqual([0, 1, 1, 2], [metric[bound] for bound in ("0.001", "0.005", "0.05", "0.1")])
        self.assertAlmostEqual(0.064, metric["s2sgw_reactor_turn_cpu_seconds_sum"])
        self.assertEqual([0, 2], [self.metric()[bound] for bound in ("0.1", "0.25")])

    def test_cpu_time_of_the_caller(self) -> None:
        """A reading of the caller takes the place of one of our own."""
        self.watch.began(self.cpu - 0.06)
        self.watch.ended()
        self.assertAlmostEqual(0.06, self.metric("s2sgw_reactor_turn_cpu_seconds")["s2sgw_reactor_turn_cpu_seconds_sum"])

    def test_long_turn(self) -> None:
        """A long turn is logged with the code that ran in it. A short one is not, nor is one spent waiting."""
        self.turn(LONG_SECONDS / 2)
        self.now += 50  # nothing was to be done
        self.turn(LONG_SECONDS + 0.001, looks=True)
        (event,) = self.events
        self.assertEqual(("long turn", 0.101, 0.101, None), (event["event"], event["seconds"], event["cpu_seconds"], event["more"]))
        self.assertIn("test_turn_watch.TurnWatchTests.turn:", event["ran"])

    def test_rate(self) -> None:
        """One long turn a minute is logged, with the number of further ones."""
        for _ in range(5):
            self.turn(0.2)
        self.now += LOG_SECONDS
        self.turn(0.2)
        self.assertEqual([None, 4], [event["more"] for event in self.events])

    def test_seen_in_another_turn(self) -> None:
        """An observation in an earlier turn does not count for this one."""
        self.turn(0.06, looks=True)
        self.turn(0.2)
        self.assertEqual("", self.events[0]["ran"])

    def test_first_sight(self) -> None:
        """The first observation of a turn counts, once the turn is long enough to be observed."""
        self.watch.began()
        self.watch.look(sys._getframe())
        self.assertEqual((0, ""), self.watch._seen)
        self.now += LOOKED_AT + 0.001
        self.watch.look(sys._getframe())
        seen = self.watch._seen
        self.now += 1
        self.watch.look(sys._getframe(1))
        self.watch.look(None)
        self.assertEqual((1, seen), (seen[0], self.watch._seen))
        self.watch.ended()
        self.watch.look(sys._getframe())
        self.assertEqual(seen, self.watch._seen)

    def test_collector(self) -> None:
        """A long garbage collection is named, because no other thread can observe it. One of another thread is not named."""
        self.patch(self.watch, "look", lambda frame: None)  # the observing thread would report the long turn too
        self.watch.start()
        self.addCleanup(self.watch.stop)
        self.watch.began()
        self.collect(0.2)
        self.watch.ended()
        self.assertIn("cyclic collector, generation 2", self.events[0]["ran"])
        other = threading.Thread(target=self.collect, args=(0.2,))
        self.watch.began()
        other.start()
        other.join()
        self.assertEqual(1, self.watch._seen[0])

    def collect(self, seconds: float) -> None:
        self.watch._collects("start", {"generation": 2})
        self.now += seconds
        self.watch._collects("stop", {"generation": 2})

    def test_thread(self) -> None:
        """The thread observes the one that started it. It and the collector's callback are removed at the end."""
        looked, collects = threading.Event(), []

        def look(frame: FrameType | None) -> None:
            collects.append(gc.isenabled())
            if frame is not None:
                looked.set()

        self.patch(self.watch, "look", look)
        self.watch.began()
        self.now += LOOKED_AT + 0.001
        before = list(gc.callbacks)
        self.watch.start()
        self.assertTrue(looked.wait(20))
        self.watch.stop()
        self.watch.stop()
        self.assertEqual(before, gc.callbacks)
        self.assertEqual(({False}, True), (set(collects), gc.isenabled()))

    def test_short_turns(self) -> None:
        """While no turn is long, the thread reads no frames. A long turn is examined before it counts as long."""
        times = threading.Semaphore(0)
        looks: list[object] = []

        def stopwatch() -> float:
            if threading.get_ident() != here:
                times.release()
            return 100.0

        here = threading.get_ident()
        watch = TurnWatch(stopwatch)
        self.patch(watch, "look", looks.append)
        watch.began()
        watch.start()
        self.assertTrue(times.acquire(timeout=20) and times.acquire(timeout=20))
        watch.stop()
        self.assertEqual([], looks)
        self.assertLess(LOOK + LOOKED_AT, LONG_SECONDS)

    def test_again(self) -> None:
        """The watch can begin again after it has ended."""
        for _ in range(2):
            self.watch.start()
            self.assertTrue(self.watch._thread is not None and self.watch._thread.is_alive())
            self.watch.stop()
            self.assertIsNone(self.watch._thread)

    def test_collector_off(self) -> None:
        """The collector is off while frames are read, and afterwards as it was before, also after an exception."""
        for enabled in (gc.enable, gc.disable):
            self.addCleanup(gc.enable)
            enabled()
            before = gc.isenabled()
            with self.assertRaises(KeyError), collector_off():
                self.assertFalse(gc.isenabled())
                raise KeyError
            self.assertEqual(before, gc.isenabled())


class DescribedTests(SynchronousTestCase):
    """Tests of the description of where a thread is."""

    def frame(self) -> FrameType:
        return sys._getframe()

    def test_without_ours(self) -> None:
        """Without any function of ours the innermost one is named."""
        self.assertRegex(described(self.frame()), r"test_turn_watch\.DescribedTests\.frame:\d+\Z")
        self.assertEqual("", described(None))

    def test_ours(self) -> None:
        """Our innermost function is named, with the function that it called."""
        seen: list[Any] = []

        class Text(str):
            def isprintable(self) -> bool:
                seen.append(described(sys._getframe()))
                return True

        printable(Text("x"))
        self.assertRegex(seen[0], r"s2sgw\.reporting\.printable\.\w+:\d+, in .*Text\.isprintable:\d+\Z")
