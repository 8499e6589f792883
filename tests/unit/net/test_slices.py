"""Long work in slices, with turns of the reactor between."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.slices import SlicedWork, Slices, each, in_order
from tests.support.turn_clock import TurnClock


class SlicesTests(SynchronousTestCase):
    """Slices of ten seconds, on a stopwatch that the work moves."""

    def setUp(self) -> None:
        self.clock = TurnClock()
        self.now = 0.0
        self.slices = Slices(self.clock, 10, lambda: self.now)
        self.done: list[str] = []
        self.closed: list[str] = []

    def work(self, name: str, steps: int, seconds: float = 4) -> SlicedWork[str]:
        try:
            for _ in range(steps):
                self.done.append(name)
                self.now += seconds
                yield None
        finally:
            self.closed.append(name)
        return f"result of {name}"

    def turn(self) -> str:
        """What is done in the next turn of the reactor."""
        self.done.clear()
        self.clock.turn()
        return "".join(self.done)

    def test_slices(self) -> None:
        """SlicedWork is interrupted when its time is over and goes on in the next turn; its result comes with its last step."""
        result = self.slices.run(self.work("a", 7))
        self.assertEqual(([self.turn() for _ in range(2)], self.noResult(result)), (["aaa", "aaa"], True))
        self.assertEqual((self.turn(), self.successResultOf(result)), ("a", "result of a"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def noResult(self, result: Deferred[str]) -> bool:
        self.assertNoResult(result)
        return True

    def test_shared(self) -> None:
        """Several pieces of work share the time of a turn, step by step: a long one does not delay a short one."""
        self.slices.run(self.work("a", 9))
        self.slices.run(self.work("b", 2))
        self.assertEqual([self.turn() for _ in range(4)], ["aba", "baa", "aaa", "aa"])

    def test_waits(self) -> None:
        """SlicedWork that waits for something takes no time until that is there."""
        there: Deferred[str] = Deferred()

        def waiting() -> SlicedWork[str]:
            answer = yield there
            yield None
            return f"it is {answer}"

        result = self.slices.run(waiting())
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        there.callback("there")
        self.assertNoResult(result)
        self.turn()
        self.assertEqual(self.successResultOf(result), "it is there")

    def test_waits_in_vain(self) -> None:
        """What it waits for may fail, and the work may go on."""
        there: Deferred[str] = Deferred()

        def waiting() -> SlicedWork[str]:
            try:
                yield there
            except KeyError:
                return "without"
            return "with"

        result = self.slices.run(waiting())
        self.turn()
        there.errback(KeyError("there"))
        self.turn()
        self.assertEqual(self.successResultOf(result), "without")

    def test_breaks(self) -> None:
        """SlicedWork that fails tells whoever asked for it; other work goes on."""
        def breaks() -> SlicedWork[None]:
            yield None
            raise ValueError("broken")

        result, other = self.slices.run(breaks()), self.slices.run(self.work("a", 2))
        while self.clock.getDelayedCalls():
            self.turn()
        self.failureResultOf(result, ValueError)
        self.assertEqual(self.successResultOf(other), "result of a")

    def test_cancelled(self) -> None:
        """SlicedWork whose result nobody wants ends where it stands, and so does what it waits for."""
        result = self.slices.run(self.work("a", 100))
        self.turn()
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual((self.closed, self.turn(), self.clock.getDelayedCalls()), (["a"], "", []))
        there: Deferred[None] = Deferred()
        there.addErrback(lambda failure: failure.trap(CancelledError) and None)
        waiting = self.slices.run(deferred for deferred in [there])
        self.turn()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertTrue(there.called)

    def test_cancelled_before_it_begins(self) -> None:
        """It never begins."""
        result = self.slices.run(self.work("a", 1))
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.turn(), "")

    def test_each(self) -> None:
        """So many calls are one step."""
        steps = list(each("abcdefg", self.done.append, 3))
        self.assertEqual((len(steps), "".join(self.done)), (2, "abcdefg"))

    def test_in_order(self) -> None:
        """Sorted in steps, equal ones as they came."""
        rows = [(number * 7919 % 101, number) for number in range(500)]
        result = self.slices.run(in_order(rows, lambda row: row[0], 50))
        while self.clock.getDelayedCalls():
            self.turn()
        found: Any = self.successResultOf(result)
        self.assertEqual(list(found), sorted(rows, key=lambda row: row[0]))
