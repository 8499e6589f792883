"""Removals: made once each, later where they fail, some at a time."""

from __future__ import annotations

import asyncio
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.failures import Failures
from s2sgw.cluster.jetstream_api import RequestRefused
from s2sgw.cluster.removals import Removals
from s2sgw.cluster.requests import Unanswered
from tests.support.simulated_loop import SimulatedLoop


class RemovalsTests(SynchronousTestCase):
    """Removals that take a second each. `failures`: how often each fails."""

    def setUp(self) -> None:
        self.loop = SimulatedLoop()
        self.removals = Removals(lambda coroutine: self.tasks.append(self.loop.create_task(coroutine)))
        self.tasks: list[asyncio.Task[None]] = []
        self.made: list[int] = []
        self.failures: dict[int, int] = {}
        self.at_once = self.most = 0

    async def remove(self, number: int) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(1)
        self.at_once -= 1
        if self.failures.get(number):
            self.failures[number] -= 1
            raise (Unanswered("no") if number % 2 else RequestRefused(10008, "no"))
        self.made.append(number)

    def test_some_at_a_time(self) -> None:
        """A few hundred removals are made, not all at once."""
        async def run() -> float:
            for number in range(320):
                self.removals.add(partial(self.remove, number))
            await self.removals.wait(60)
            return self.loop.time()

        self.assertEqual((self.loop.run(run()), self.most, sorted(self.made)), (10.0, 32, list(range(320))))

    def test_failed_ones_are_made_again(self) -> None:
        """A removal that fails is made again until it succeeds, and is not lost meanwhile."""
        async def run() -> None:
            self.failures = {1: 3, 2: 1}
            for number in range(4):
                self.removals.add(partial(self.remove, number))
            await self.removals.wait(60)
            self.removals.add(partial(self.remove, 9))
            await self.removals.wait(60)

        self.loop.run(run())
        self.assertEqual((sorted(self.made), self.failures), ([0, 1, 2, 3, 9], {1: 0, 2: 0}))

    def test_a_fault(self) -> None:
        """A removal that fails for a reason that was not expected is logged, counted and made again, and others are made."""
        failures = Failures()
        faults = [ZeroDivisionError()]

        async def broken() -> None:
            if faults:
                raise faults.pop()
            self.made.append(99)

        async def run() -> None:
            self.removals = Removals(lambda coroutine: self.tasks.append(self.loop.create_task(coroutine)), failures)
            answers = [self.removals.add(removal) for removal in (broken, partial(self.remove, 1))]
            await self.removals.wait(60)
            self.assertEqual([self.successResultOf(answer) for answer in answers], [True, True])

        self.loop.run(run())
        self.assertEqual((sorted(self.made), failures.number, len(self.flushLoggedErrors(ZeroDivisionError))), ([1, 99], 1, 1))

    def test_answers(self) -> None:
        """A removal answers when it is made, not when it was tried; one that is given up says so, once."""
        async def run() -> list[bool]:
            self.failures = {1: 1, 2: 1000}
            answers = [self.removals.add(partial(self.remove, number)) for number in range(3)]
            await asyncio.sleep(1.2)
            called = [answer.called for answer in answers]
            await asyncio.sleep(3)
            self.removals.give_up()
            self.assertEqual([self.successResultOf(answer) for answer in answers], [True, True, False])
            await self.removals.wait(60)
            return called

        self.assertEqual(self.loop.run(run()), [True, False, False])

    def test_wait_is_bounded(self) -> None:
        """A wait ends when its time is over, and at once if there is nothing."""
        async def run() -> list[float]:
            await self.removals.wait(5)
            before = self.loop.time()
            self.failures = {1: 1000}
            self.removals.add(partial(self.remove, 1))
            await self.removals.wait(5)
            return [before, self.loop.time()]

        self.assertEqual(self.loop.run(run()), [0.0, 5.0])
