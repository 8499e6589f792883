"""Several answers, awaited at once or one after another."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.gathering import gather_until, try_in_turn


class SettleTests(SynchronousTestCase):
    """When it ends, and with what."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cancelled: list[int] = []
        self.awaited: list[Deferred[str]] = [Deferred(partial(self.note, number)) for number in range(3)]
        self.done = gather_until(self.clock, self.awaited, deadline=10, grace=1, enough=lambda result: result == "enough")

    def note(self, number: int, cancelled: Deferred[str]) -> None:
        self.cancelled.append(number)

    def ended(self) -> list[str | None]:
        """The results, with no timer left."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return self.successResultOf(self.done)

    def test_all(self) -> None:
        """Everything has come: it ends at once, in the order of what was awaited."""
        for number in (2, 0, 1):
            self.awaited[number].callback(str(number))
        self.assertEqual(self.ended(), ["0", "1", "2"])

    def test_none(self) -> None:
        """Nothing awaited is nothing missing."""
        self.assertEqual(self.successResultOf(gather_until(Clock(), [], deadline=10, grace=1, enough=bool)), [])

    def test_deadline(self) -> None:
        """At the deadline what is missing is cancelled."""
        self.awaited[1].callback("1")
        self.clock.advance(9)
        self.assertNoResult(self.done)
        self.clock.advance(1)
        self.assertEqual(self.ended(), [None, "1", None])
        self.assertEqual(self.cancelled, [0, 2])

    def test_past_deadline(self) -> None:
        """A deadline that is over still lets in what is there already."""
        self.clock.advance(20)
        ready: Deferred[str] = Deferred()
        ready.callback("x")
        done = gather_until(self.clock, [ready, Deferred()], deadline=10, grace=1, enough=bool)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(done), ["x", None])

    def test_grace(self) -> None:
        """After enough has come the rest gets but the grace, counted from the first."""
        self.clock.advance(3)
        self.awaited[1].callback("enough")
        self.clock.advance(0.75)
        self.awaited[0].callback("enough")
        self.clock.advance(0.25)
        self.assertEqual(self.ended(), ["enough", "enough", None])

    def test_grace_before_deadline(self) -> None:
        """The grace never goes beyond the deadline."""
        self.clock.advance(9.5)
        self.awaited[1].callback("enough")
        self.clock.advance(0.5)
        self.assertEqual(self.ended(), [None, "enough", None])

    def test_failures(self) -> None:
        """A failure is but a missing result."""
        for awaited in self.awaited:
            awaited.errback(ValueError())
        self.assertEqual(self.ended(), [None, None, None])

    def test_cancelled(self) -> None:
        """Cancelled, it cancels what it waits for."""
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.assertEqual(self.cancelled, [0, 1, 2])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class InTurnTests(SynchronousTestCase):
    """Calls that are made one after another."""

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
        """The results, with no timer left."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return self.successResultOf(self.done)

    def test_first(self) -> None:
        """Where the first is enough no other begins."""
        self.begun[0].callback("enough")
        self.assertEqual((self.ended(), len(self.begun)), (["enough"], 1))

    def test_next(self) -> None:
        """The next begins when one was not enough, or failed."""
        self.begun[0].callback("little")
        self.begun[1].errback(KeyError())
        self.begun[2].callback("enough")
        self.assertEqual(self.ended(), ["little", None, "enough"])

    def test_stagger(self) -> None:
        """The next begins beside one that is slow; what has not come when one is enough is cancelled."""
        self.clock.advance(1.5)
        self.assertEqual(len(self.begun), 1)
        self.clock.advance(0.5)
        self.assertEqual(len(self.begun), 2)
        self.begun[1].callback("enough")
        self.assertEqual((self.ended(), self.cancelled), ([None, "enough"], [0]))

    def test_slow_first(self) -> None:
        """A slow one that is enough after all ends it."""
        self.clock.advance(2)
        self.begun[0].callback("enough")
        self.assertEqual((self.ended(), self.cancelled), (["enough", None], [1]))

    def test_none(self) -> None:
        """Where none is enough it ends when the last has come, or at the deadline."""
        self.begun[0].callback("a")
        self.begun[1].callback("b")
        self.begun[2].callback("c")
        self.assertEqual(self.ended(), ["a", "b", "c"])
        self.setUp()
        self.clock.pump([2, 2, 2, 4])
        self.assertEqual((self.ended(), self.cancelled), ([None, None, None], [0, 1, 2]))

    def test_no_calls(self) -> None:
        """Nothing to call is nothing missing."""
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.done = self.tried(0)
        self.assertEqual(self.ended(), [])

    def test_cancelled(self) -> None:
        """Cancelling ends what is under way, and nothing more begins."""
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.clock.advance(20)
        self.assertEqual((self.cancelled, len(self.begun), self.clock.getDelayedCalls()), ([0], 1, []))
