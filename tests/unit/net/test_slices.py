"""Tests of long work in slices, with turns of the reactor between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.slices import LEAST_SECONDS, SlicedWork, Slices, each, emptied, few_at_once, in_order
from s2sgw.net.turn_budget import TurnBudget
from tests.support.turn_clock import TurnClock


class SlicesTests(SynchronousTestCase):
    """Tests of slices of ten seconds, on a stopwatch that the work moves."""

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
        """Return what is done in the next turn of the reactor."""
        self.done.clear()
        self.clock.turn()
        return "".join(self.done)

    def test_slices(self) -> None:
        """The work is interrupted when its time is over and continues in the next turn. Its result comes with its last step."""
        result = self.slices.run(self.work("a", 7))
        self.assertEqual(([self.turn() for _ in range(2)], self.noResult(result)), (["aaa", "aaa"], True))
        self.assertEqual((self.turn(), self.successResultOf(result)), ("a", "result of a"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def noResult(self, result: Deferred[Any]) -> bool:
        self.assertNoResult(result)
        return True

    def test_shared(self) -> None:
        """Several pieces of work share the time of a turn, step by step: a long one does not delay a short one."""
        self.slices.run(self.work("a", 9))
        self.slices.run(self.work("b", 2))
        self.assertEqual([self.turn() for _ in range(4)], ["aba", "baa", "aaa", "aa"])

    def test_a_turn_that_is_over(self) -> None:
        """If the turn is over, only a little is done, in each turn."""
        budget = TurnBudget(1, lambda: self.now)
        self.slices = Slices(self.clock, 10, lambda: self.now, budget=budget)
        self.slices.run(self.work("a", 6, LEAST_SECONDS * 0.6))
        budget.begin()
        self.now += 0.9999
        self.assertEqual(self.turn(), "aa")
        self.now += 5
        self.assertEqual([self.turn(), self.turn(), self.turn()], ["aa", "aa", ""])
        self.slices.run(self.work("b", 20, 0.3))
        budget.begin()
        self.assertEqual(self.turn(), "bbbb")

    def test_waits(self) -> None:
        """Work that waits for something takes no time until it arrives."""
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
        """The awaited call may fail, and the work may continue."""
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
        """The failure of a piece of work is its result. Other work continues."""
        def breaks() -> SlicedWork[None]:
            yield None
            raise ValueError("broken")

        result, other = self.slices.run(breaks()), self.slices.run(self.work("a", 2))
        while self.clock.getDelayedCalls():
            self.turn()
        self.failureResultOf(result, ValueError)
        self.assertEqual(self.successResultOf(other), "result of a")

    def test_cancelled(self) -> None:
        """Cancelled work ends where it is, and so does the call that it waits for."""
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
        """Work that is cancelled before it begins never begins."""
        result = self.slices.run(self.work("a", 1))
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.turn(), "")

    def test_each(self) -> None:
        """A fixed number of calls is one step."""
        steps = list(each("abcdefg", self.done.append, 3))
        self.assertEqual((len(steps), "".join(self.done)), (2, "abcdefg"))

    def test_in_order(self) -> None:
        """A list is sorted in steps, and equal items keep their order."""
        rows = [(number * 7919 % 101, number) for number in range(500)]
        result = self.slices.run(in_order(rows, lambda row: row[0], 50))
        while self.clock.getDelayedCalls():
            self.turn()
        found: Any = self.successResultOf(result)
        self.assertEqual(list(found), sorted(rows, key=lambda row: row[0]))

    def test_emptied(self) -> None:
        """Large tables are emptied in parts."""
        tables: list[dict[Any, Any]] = [dict.fromkeys(range(250)), {}, {"a": 1}]
        sizes = [len(tables[0]) for _ in emptied(tables)]
        self.assertEqual((sizes, tables), ([150, 50, 0, 0], [{}, {}, {}]))

    def run_few(self, calls: Iterable[Callable[[], Deferred[Any]]], most: int) -> Deferred[list[Any]]:
        result = self.slices.run(few_at_once(calls, most))
        self.turn()
        return result

    def test_few_at_once(self) -> None:
        """The number of unanswered calls is limited. The answers are in their order of arrival, without failures."""
        asked: list[Deferred[str]] = []

        def ask() -> Deferred[str]:
            asked.append(Deferred())
            return asked[-1]

        result = self.run_few([ask] * 5, 2)
        self.assertEqual(len(asked), 2)
        asked[1].callback("b")
        self.turn()
        self.assertEqual(len(asked), 3)
        asked[0].errback(ValueError())
        asked[2].callback("c")
        self.turn()
        self.assertEqual((len(asked), self.noResult(result)), (5, True))
        asked[4].callback("e")
        asked[3].callback("d")
        self.turn()
        self.assertEqual(self.successResultOf(result), ["b", "c", "e", "d"])

    def test_few_answered_at_once(self) -> None:
        """Calls that are answered at once are steps all the same."""

        def ask() -> Deferred[float]:
            self.now += 4
            return succeed(self.now)

        result = self.run_few([ask] * 7, 2)
        self.assertEqual((self.now, self.noResult(result)), (12, True))
        self.turn()
        self.turn()
        self.assertEqual(len(self.successResultOf(result)), 7)

    def test_few_cancelled(self) -> None:
        """A call that is answered after the cancellation has no effect."""
        asked: list[Deferred[str]] = []

        def ask() -> Deferred[str]:
            asked.append(Deferred())
            return asked[-1]

        result = self.run_few([ask] * 5, 1)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        asked[0].callback("a")
        self.assertEqual((self.turn(), len(asked)), ("", 1))

    def test_few_of_none(self) -> None:
        """Without calls there is nothing to wait for."""
        self.assertEqual(self.successResultOf(self.run_few([], 3)), [])
