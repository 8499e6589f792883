"""Tests of slots that are shared fairly."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.fair_slots import BEGUN_AT_ONCE, JOSTLE_SECONDS, LOOK_SECONDS, SLOW_SECONDS, FairSlots, SlotLost


class Call:
    """One call that the test ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running: Deferred[str] | None = None
        self.cancelled = False
        self.result: Deferred[str]

    def begin(self) -> Deferred[str]:
        self.running = Deferred(self._cancel)
        return self.running

    def _cancel(self, _: Any) -> None:
        self.cancelled = True

    @property
    def waits(self) -> bool:
        return self.running is None and not self.result.called

    @property
    def runs(self) -> bool:
        return self.running is not None and not self.result.called


class SlotsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.slots = self.made(4)

    def made(self, limit: int, per_owner: int = 100, per_line: int = 100, waiting: int = 1000) -> FairSlots[str]:
        return FairSlots(self.clock, limit, per_owner=per_owner, per_line=per_line, waiting=waiting)

    def call(self, *owner: str) -> Call:
        call = Call("/".join(owner))
        call.result = self.slots.run(owner, call.begin)
        return call

    def lost(self, call: Call) -> str:
        reason: str = self.failureResultOf(call.result, SlotLost).value.reason
        return reason

    def end(self, call: Call) -> None:
        assert call.running is not None
        call.running.callback("done")
        self.assertEqual(self.successResultOf(call.result), "done")


class SlotsTests(SlotsCase):
    """Tests of the order of slots."""

    def test_free(self) -> None:
        """Calls begin at once while there are free slots."""
        calls = [self.call("a") for _ in range(4)]
        self.assertEqual((self.slots.in_flight, self.slots.in_line), (4, 0))
        for call in calls:
            self.end(call)
        self.assertEqual((self.slots.in_flight, self.clock.getDelayedCalls()), (0, []))

    def test_results(self) -> None:
        """The result may come at once, and may be a failure. A call that cannot begin fails."""
        self.assertEqual(self.successResultOf(self.slots.run(("a",), lambda: succeed("x"))), "x")
        self.failureResultOf(self.slots.run(("a",), lambda: fail(KeyError())), KeyError)
        self.failureResultOf(self.slots.run(("a",), lambda: {}["x"]), KeyError)  # type: ignore[index]
        self.assertEqual(self.slots.in_flight, 0)

    def test_per_owner(self) -> None:
        """One owner has a limited number of slots. Its other calls wait in its own line, and other owners continue."""
        self.slots = self.made(4, per_owner=2)
        first = [self.call("a") for _ in range(4)]
        self.assertEqual([call.runs for call in first], [True, True, False, False])
        self.assertTrue(self.call("b").runs)
        self.end(first[0])
        self.assertEqual([call.runs for call in first[2:]], [True, False])

    def test_fewest_first(self) -> None:
        """A free slot goes to the group with the fewest, in it to the owner with the fewest, and in turns."""
        running = [self.call("a", "1"), self.call("a", "1"), self.call("a", "2"), self.call("b", "1")]
        waiting = [self.call("a", "1"), self.call("a", "3"), self.call("b", "1"), self.call("b", "2"), self.call("a", "2")]
        order = []
        for call in running:
            self.end(call)
            order += [each.name for each in waiting if each.runs and each.name not in order]
        self.assertEqual(order, ["b/2", "a/3", "a/1", "b/1"])

    def test_crowd_gives_way(self) -> None:
        """If all slots are taken, the group with the most gives up its oldest call, if that has had its time."""
        crowd = [self.call("a", str(number % 2)) for number in range(4)]
        newcomer = self.call("b", "1")
        self.assertTrue(newcomer.waits)
        self.clock.advance(JOSTLE_SECONDS - 0.01)
        self.assertTrue(newcomer.waits)
        self.clock.advance(LOOK_SECONDS)
        self.assertTrue(newcomer.runs)
        self.assertEqual((self.lost(crowd[0]), crowd[0].cancelled), ("displaced", True))
        self.assertEqual([call.runs for call in crowd[1:]], [True] * 3)
        self.assertTrue(self.call("c", "1").runs)
        self.assertEqual((self.lost(crowd[1]), self.slots.given_up), ("displaced", {"displaced": 2}))

    def test_crowd_within(self) -> None:
        """The same holds among the owners of one group."""
        crowd = [self.call("a", "1") for _ in range(4)]
        self.clock.advance(JOSTLE_SECONDS)
        self.assertTrue(self.call("a", "2").runs)
        self.assertEqual(self.lost(crowd[0]), "displaced")

    def test_equals_wait(self) -> None:
        """Among equals no call gives way, unless it is slow."""
        calls = [self.call(name) for name in "abcd"]
        newcomer = self.call("e")
        self.clock.advance(SLOW_SECONDS - 0.01)
        self.assertTrue(newcomer.waits)
        self.clock.advance(LOOK_SECONDS)
        self.assertTrue(newcomer.runs)
        self.assertEqual(self.lost(calls[0]), "displaced")

    def test_own_crowd(self) -> None:
        """An owner displaces its own calls only if they are slow."""
        crowd = [self.call("a") for _ in range(5)]
        self.clock.advance(SLOW_SECONDS - 0.01)
        self.assertEqual([call.runs for call in crowd], [True] * 4 + [False])

    def test_lines_are_bounded(self) -> None:
        """If a line is full, the call that has waited longest is removed: from its owner's line, or from the longest line of all."""
        self.slots = self.made(1, per_line=2, waiting=4)
        self.call("x")
        line = [self.call("a") for _ in range(3)]
        self.assertEqual([self.lost(line[0]), line[1].waits, line[2].waits], ["line-full", True, True])
        others = [self.call(name) for name in "bcd"]
        self.assertEqual([self.lost(line[1]), line[2].waits], ["line-full", True])
        self.assertTrue(all(call.waits for call in others))
        self.assertEqual((self.slots.in_line, self.slots.given_up), (4, {"line-full": 2}))

    def test_leaving(self) -> None:
        """A caller that cancels removes its call from the line or from its slot, which the next call gets."""
        self.slots = self.made(1)
        first, second, third = self.call("a"), self.call("a"), self.call("a")
        second.result.cancel()
        self.failureResultOf(second.result, CancelledError)
        first.result.cancel()
        self.failureResultOf(first.result, CancelledError)
        self.assertTrue(first.cancelled and third.runs)
        self.end(third)
        self.assertEqual((self.slots.in_flight, self.slots.in_line, self.slots.given_up), (0, 0, {}))

    def test_nothing_is_left(self) -> None:
        """When all calls have ended there is no timer, and no owner is remembered."""
        calls = [self.call(f"a{number}", "x") for number in range(20)]
        self.clock.advance(SLOW_SECONDS)
        for call in calls:
            call.result.addErrback(lambda _: None).cancel()
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((self.clock.getDelayedCalls(), self.slots._root.children), ([], {}))

    def test_few_begin_at_once(self) -> None:
        """If many slow calls have to give way, a few do in each turn of the reactor, and finally all of them."""
        self.slots = self.made(100)
        slow = [self.call("a", str(number)) for number in range(100)]
        for _ in range(10):
            self.clock.advance(0)
        self.assertTrue(all(call.runs for call in slow))
        self.clock.advance(SLOW_SECONDS)
        fast = [self.call("b", str(number)) for number in range(60)]
        for call in slow:
            call.result.addErrback(lambda _: None)
        self.clock.advance(LOOK_SECONDS)
        begun = sum(call.runs for call in fast)
        turns = 0
        while sum(call.runs for call in fast) < 50 and turns < 20:
            self.clock.advance(0)
            self.assertLessEqual(sum(call.runs for call in fast) - begun, BEGUN_AT_ONCE)
            begun, turns = sum(call.runs for call in fast), turns + 1
        self.assertGreaterEqual(begun, 50)

    def test_many_results_at_once(self) -> None:
        """A long line of calls with immediate results causes no deep recursion."""
        self.slots = self.made(1, per_line=5000, waiting=5000)
        first = self.call("a")
        rest = [self.slots.run(("a",), lambda: succeed("x")) for _ in range(4000)]
        self.end(first)
        for _ in range(len(rest) // BEGUN_AT_ONCE + 1):
            self.clock.advance(0)
        self.assertEqual(self.successResultOf(rest[-1]), "x")


class InvariantTests(SlotsCase):
    """Tests with calls and ends in any order."""

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("rrrecat"), st.integers(0, 5), st.integers(0, 2)), max_size=120))
    def test_invariants(self, steps: list[tuple[str, int, int]]) -> None:
        """No limit is exceeded, every call ends once, and no slot is free while a call may take it."""
        self.clock = Clock()
        self.slots = self.made(4, per_owner=3, per_line=4, waiting=10)
        calls: list[Call] = []
        for what, wide, narrow in steps:
            runs = [call for call in calls if call.runs]
            if what == "r":
                calls.append(self.call(str(wide), str(narrow)))
                calls[-1].result.addErrback(lambda failure: failure.trap(SlotLost, CancelledError) and "lost")
            elif what == "e" and runs:
                runs[wide % len(runs)].running.callback("done")  # type: ignore[union-attr]
            elif what == "c" and calls:
                calls[wide % len(calls)].result.cancel()
            else:
                self.clock.advance(narrow + 0.1)
            self.check(calls)
        for call in calls:
            if call.runs or call.waits:
                call.result.cancel()
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((self.slots.in_flight, self.slots.in_line, self.slots._root.children), (0, 0, {}))

    def check(self, calls: list[Call]) -> None:
        runs = [call.name for call in calls if call.runs]
        waits = [call.name for call in calls if call.waits]
        self.assertEqual((self.slots.in_flight, self.slots.in_line), (len(runs), len(waits)))
        self.assertLessEqual(len(runs), 4)
        self.assertLessEqual(len(waits), 10)
        self.assertTrue(all(runs.count(name) <= 3 for name in runs) and all(waits.count(name) <= 4 for name in waits))
        if len(runs) < 4:
            self.assertTrue(all(runs.count(name) == 3 for name in waits))
