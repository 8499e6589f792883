"""Tests of attempts at several priorities: their order, the time of each, and their end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s.priority_attempts import CONCURRENT, PRIORITY_DELAY, PriorityAttempts


class PriorityAttemptsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.begun: list[Deferred[str | None]] = []
        self.ended: list[int] = []

    async def attempt(self, number: int) -> str | None:
        stream: Deferred[str | None] = Deferred()
        self.begun.append(stream)
        try:
            return await stream
        except CancelledError:
            self.ended.append(number)
            raise

    def start(self, number: int, delay: float | None = PRIORITY_DELAY) -> Deferred[str | None]:
        return PriorityAttempts(self.clock, [partial(self.attempt, each) for each in range(number)], delay).start()

    def test_in_order(self) -> None:
        """The next attempt begins as soon as the one before has failed. After the last, the result is None."""
        result = self.start(3)
        for number in range(3):
            self.assertEqual(len(self.begun), number + 1)
            self.begun[number].callback(None)
        self.assertEqual((self.successResultOf(result), self.clock.getDelayedCalls()), (None, []))

    def test_nothing_to_try(self) -> None:
        """Without attempts the result is None."""
        self.assertIsNone(self.successResultOf(self.start(0)))

    def test_beside_a_slow_one(self) -> None:
        """If one takes long, the next begins beside it. The first stream wins, and the others end."""
        for winner, ended in ((0, [1]), (1, [0])):
            self.setUp()
            result = self.start(3)
            self.clock.advance(PRIORITY_DELAY - 0.1)
            self.assertEqual(len(self.begun), 1)
            self.clock.advance(0.1)
            self.begun[winner].callback("stream")
            self.assertEqual((self.successResultOf(result), self.ended, len(self.begun)), ("stream", ended, 2))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_one_fails(self) -> None:
        """The failure of a slow one begins the next at once, which gets its own time."""
        self.start(4)
        self.clock.advance(PRIORITY_DELAY)
        self.begun[0].callback(None)
        self.assertEqual(len(self.begun), 3)
        self.clock.advance(PRIORITY_DELAY)
        self.assertEqual(len(self.begun), 4)

    def test_at_once(self) -> None:
        """Only so many are under way at once."""
        result = self.start(CONCURRENT + 2)
        for _ in range(CONCURRENT + 2):
            self.clock.advance(PRIORITY_DELAY)
        self.assertEqual(len(self.begun), CONCURRENT)
        self.begun[1].callback(None)
        self.assertEqual(len(self.begun), CONCURRENT + 1)
        self.begun[0].callback("stream")
        self.assertEqual(self.successResultOf(result), "stream")

    def test_one_at_a_time(self) -> None:
        """Without a delay none begins beside another."""
        self.start(2, None)
        self.clock.advance(100)
        self.assertEqual(len(self.begun), 1)

    def test_cancelled(self) -> None:
        """A cancelled result ends all attempts."""
        result = self.start(3)
        self.clock.advance(PRIORITY_DELAY)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual((sorted(self.ended), self.clock.getDelayedCalls()), ([0, 1], []))

    def test_ended_without_an_error(self) -> None:
        """An attempt that takes its end for a failure of its own begins no further one, and is no result."""
        async def quiet() -> str | None:
            try:
                await Deferred()
            except CancelledError:
                return None
            return "never"

        attempts: list[Callable[[], Coroutine[Any, Any, str | None]]] = [quiet, *(partial(self.attempt, each) for each in range(3))]
        result = PriorityAttempts(self.clock, attempts).start()
        self.clock.advance(PRIORITY_DELAY)
        self.begun[0].callback("stream")
        self.assertEqual(("stream", 1, []), (self.successResultOf(result), len(self.begun), self.clock.getDelayedCalls()))

    def test_unexpected(self) -> None:
        """An error that an attempt does not handle is the result, and ends the others. So does a cancellation that is not ours."""
        for error in (ZeroDivisionError, CancelledError):
            self.setUp()
            result = self.start(3)
            self.clock.advance(PRIORITY_DELAY)
            self.begun[0].errback(error())
            self.failureResultOf(result, error)
            self.assertEqual((self.ended[-1], len(self.begun), self.clock.getDelayedCalls()), (1, 2, []))
