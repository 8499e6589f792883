"""Tests of calls that several callers make at the same time."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.joined_calls import JoinedCalls


class JoinedCallsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls: JoinedCalls[str, int] = JoinedCalls()
        self.begun: list[Deferred[int]] = []
        self.cancelled: list[Deferred[int]] = []

    def begin(self) -> Deferred[int]:
        self.begun.append(Deferred(self.cancelled.append))
        return self.begun[-1]

    def test_once(self) -> None:
        """The call is made once, and every caller gets the result. After it a new call is made."""
        waiting = [self.calls.join("a", self.begin) for _ in range(3)]
        self.assertTrue("a" in self.calls and "b" not in self.calls)
        self.begun[0].callback(7)
        self.assertEqual([self.successResultOf(each) for each in waiting], [7, 7, 7])
        self.assertEqual(len(self.calls), 0)
        self.calls.join("a", self.begin)
        self.assertEqual(len(self.begun), 2)

    def test_many(self) -> None:
        """However many callers wait, none is answered from within the answer of another."""
        waiting = [self.calls.join("a", self.begin) for _ in range(20_000)]
        self.begun[0].callback(7)
        self.assertEqual({self.successResultOf(each) for each in waiting}, {7})

    def test_failure(self) -> None:
        """Every caller gets the failure."""
        waiting = [self.calls.join("a", self.begin) for _ in range(2)]
        self.begun[0].errback(KeyError("x"))
        for each in waiting:
            self.failureResultOf(each, KeyError)

    def test_at_once(self) -> None:
        """A call may have its result at once."""
        self.assertEqual(self.successResultOf(self.calls.join("a", lambda: succeed(1))), 1)
        self.failureResultOf(self.calls.join("a", lambda: fail(KeyError())), KeyError)
        self.assertEqual(len(self.calls), 0)

    def test_leaving(self) -> None:
        """A caller that cancels affects no other. When the last has cancelled, the call is cancelled, and the next one begins anew."""
        one, other = self.calls.join("a", self.begin), self.calls.join("a", self.begin)
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertEqual(self.cancelled, [])
        other.cancel()
        self.failureResultOf(other, CancelledError)
        self.assertEqual((self.cancelled, len(self.calls)), (self.begun, 0))
        again = self.calls.join("a", self.begin)
        self.begun[1].callback(2)
        self.assertEqual(self.successResultOf(again), 2)

    def test_coming_while_leaving(self) -> None:
        """A caller that joins while the call is being cancelled does not get that cancellation."""
        came: list[Deferred[int]] = []
        first: Deferred[int] = Deferred(lambda _: came.append(self.calls.join("a", self.begin)))
        lone = self.calls.join("a", lambda: first)
        lone.cancel()
        self.failureResultOf(lone, CancelledError)
        self.assertNoResult(came[0])
        self.begun[0].callback(3)
        self.assertEqual(self.successResultOf(came[0]), 3)

    def test_joining_in_a_callback(self) -> None:
        """A caller that calls again in its callback begins a new call."""
        again: list[Deferred[int]] = []
        waiting = self.calls.join("a", self.begin)
        waiting.addCallback(lambda _: again.append(self.calls.join("a", self.begin)))
        self.begun[0].callback(1)
        self.begun[1].callback(2)
        self.assertEqual(self.successResultOf(again[0]), 2)
