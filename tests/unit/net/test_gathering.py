"""Tests of several answers, awaited at once or one after another."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.gathering import gather_until, try_in_turn


class SettleTests(SynchronousTestCase):
    """Tests of when `settle` ends, and with which results."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cancelled: list[int] = []
        self.awaited: list[Deferred[str]] = [Deferred(partial(self.note, number)) for number in range(3)]
        self.done = gather_until(self.clock, self.awaited, deadline=10, grace=1, enough=lambda result: result == "enough")

    def note(self, number: int, cancelled: Deferred[str]) -> None:
        self.cancelled.append(number)

    def ended(self) -> list[str | None]:
        """Return the results; check that no timer is left."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return self.successResultOf(self.done)

    def test_all(self) -> None:
        """When everything has arrived it ends at once. The results are in the order of the calls."""
        for number in (2, 0, 1):
            self.awaited[number].callback(str(number))
        self.assertEqual(self.ended(), ["0", "1", "2"])

    def test_none(self) -> None:
        """Without calls there is nothing to wait for."""
        self.assertEqual(self.successResultOf(gather_until(Clock(), [], deadline=10, grace=1, enough=bool)), [])

    def test_deadline(self) -> None:
        """At the deadline the missing calls are cancelled."""
        self.awaited[1].callback("1")
        self.clock.advance(9)
        self.assertNoResult(self.done)
        self.clock.advance(1)
        self.assertEqual(self.ended(), [None, "1", None])
        self.assertEqual(self.cancelled, [0, 2])

    def test_past_deadline(self) -> None:
        """A deadline in the past still accepts results that are there already."""
        self.clock.advance(20)
        ready: Deferred[str] = Deferred()
        ready.callback("x")
        done = gather_until(self.clock, [ready, Deferred()], deadline=10, grace=1, enough=bool)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(done), ["x", None])

    def test_grace(self) -> None:
        """After enough results the rest has only the grace time, counted from the first."""
        self.clock.advance(3)
        self.awaited[1].callback("enough")
        self.clock.advance(0.75)
        self.awaited[0].callback("enough")
        self.clock.advance(0.25)
        self.assertEqual(self.ended(), ["enough", "enough", None])

    def test_grace_before_deadline(self) -> None:
        """The grace time never exceeds the deadline."""
        self.clock.advance(9.5)
        self.awaited[1].callback("enough")
        self.clock.advance(0.5)
        self.assertEqual(self.ended(), [None, "enough", None])

    def test_failures(self) -> None:
        """A failure counts as a missing result."""
        for awaited in self.awaited:
            awaited.errback(ValueError())
        self.assertEqual(self.ended(), [None, None, None])

    def test_cancelled(self) -> None:
        """Cancelling it cancels the calls that it waits for."""
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.assertEqual(self.cancelled, [0, 1, 2])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class InTurnTests(SynchronousTestCase):
    """Tests of calls that are made one after another."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.begun: list[Deferred[str]] = []
        self.cancelled: list[int] = []
        self.done = self.tried(3)

    def tried(self, number: int) -> Deferred[list[str | None]]:
        calls = [partial(self.begin, index) for index in range(number)]
        return try_in_turn(self.clock, calls, deadline=10, stagger=2, enough=lambda result: result == "enough")

    def begin(self, number: int) -> Deferred[str]:
        self.begun.append(Deferred(lambda _: self.cancelled.append(number)))
        return self.begun[-1]

    def ended(self) -> list[str | None]:
        """Return the results; check that no timer is left."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return self.successResultOf(self.done)

    def test_first(self) -> None:
        """If the first result is enough, no other call begins."""
        self.begun[0].callback("enough")
        self.assertEqual((self.ended(), len(self.begun)), (["enough"], 1))

    def test_next(self) -> None:
        """The next call begins if one was not enough, or failed."""
        self.begun[0].callback("little")
        self.begun[1].errback(KeyError())
        self.begun[2].callback("enough")
        self.assertEqual(self.ended(), ["little", None, "enough"])

    def test_stagger(self) -> None:
        """If a call is slow, the next one begins too. Unfinished calls are cancelled once one result is enough."""
        self.clock.advance(1.5)
        self.assertEqual(len(self.begun), 1)
        self.clock.advance(0.5)
        self.assertEqual(len(self.begun), 2)
        self.begun[1].callback("enough")
        self.assertEqual((self.ended(), self.cancelled), ([None, "enough"], [0]))

    def test_slow_first(self) -> None:
        """A slow result that is enough ends it."""
        self.clock.advance(2)
        self.begun[0].callback("enough")
        self.assertEqual((self.ended(), self.cancelled), (["enough", None], [1]))

    def test_none(self) -> None:
        """If no result is enough, it ends with the last one, or at the deadline."""
        self.begun[0].callback("a")
        self.begun[1].callback("b")
        self.begun[2].callback("c")
        self.assertEqual(self.ended(), ["a", "b", "c"])
        self.setUp()
        self.clock.pump([2, 2, 2, 4])
        self.assertEqual((self.ended(), self.cancelled), ([None, None, None], [0, 1, 2]))

    def test_no_calls(self) -> None:
        """Without calls there is nothing to wait for."""
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.done = self.tried(0)
        self.assertEqual(self.ended(), [])

    def test_cancelled(self) -> None:
        """Cancelling it ends the running calls, and no other begins."""
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.clock.advance(20)
        self.assertEqual((self.cancelled, len(self.begun), self.clock.getDelayedCalls()), ([0], 1, []))
