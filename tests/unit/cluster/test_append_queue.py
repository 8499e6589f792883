"""The appends of one peer: their order, what is joined, and who is told what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.append_queue import AppendQueue, Call
from s2sgw.cluster.engine import EngineError, EngineFull, EngineGone, Fence, Fenced
from s2sgw.cluster.jetstream_api import Record
from s2sgw.xmpp.jid import Domain
from tests.support.simulated_loop import SimulatedLoop

PEER = Domain.parse("peer.example")
ONE, TWO = Fence(PEER, 1), Fence(PEER, 2)


class AppendQueueTests(SynchronousTestCase):
    """A queue whose requests take one second each. `errors`: those of requests, by one of their records."""

    def setUp(self) -> None:
        self.requests: list[tuple[int, list[str]]] = []
        self.errors: dict[str, EngineError] = {}
        self.answers: dict[str, Deferred[Sequence[int]]] = {}
        self.sequences = count(1)
        self.queue = AppendQueue(self.append)

    async def append(self, fence: Fence, records: Sequence[Record], identity: str) -> Sequence[int]:
        names = [record.subject for record in records]
        self.requests.append((fence.sequence, names))
        await asyncio.sleep(1)
        for name in names:
            if name in self.errors:
                raise self.errors[name]
        return [next(self.sequences) for _ in records]

    def call(self, fence: Fence, *names: str, size: int = 10) -> None:
        answer: Deferred[Sequence[int]] = Deferred()
        self.answers[names[0]] = answer
        self.queue.add(Call(fence, [Record(name, {}, b"x" * size) for name in names], names[0], answer))

    def results(self) -> list[Sequence[int]]:
        return [self.successResultOf(answer) for answer in self.answers.values()]

    def test_joined(self) -> None:
        """Calls during a request go together into the next one, in order. Each call gets its own sequences."""
        async def run() -> None:
            self.call(ONE, "a")
            asyncio.get_running_loop().call_later(0.5, self.call, ONE, "b", "c")
            asyncio.get_running_loop().call_later(0.6, self.call, ONE, "d")
            await self.queue.run()

        SimulatedLoop().run(run())
        self.assertEqual((self.requests, self.results()), ([(1, ["a"]), (1, ["b", "c", "d"])], [[1], [2, 3], [4]]))

    def test_fences_are_not_joined(self) -> None:
        """A request has the records of one fence."""
        for fence, name in ((ONE, "a"), (ONE, "b"), (TWO, "c"), (ONE, "d")):
            self.call(fence, name)
        SimulatedLoop().run(self.queue.run())
        self.assertEqual(self.requests, [(1, ["a", "b"]), (2, ["c"]), (1, ["d"])])

    def test_bounds(self) -> None:
        """Joined requests are bounded in records and in bytes. One call is never cut."""
        for number in range(250):
            self.call(ONE, str(number))
        self.call(ONE, *(f"x{number}" for number in range(150)))
        self.call(ONE, "large", size=500_000)
        self.call(ONE, "larger", size=600_000)
        SimulatedLoop().run(self.queue.run())
        self.assertEqual([len(names) for _, names in self.requests], [100, 100, 50, 150, 1, 1])

    def test_one_is_refused(self) -> None:
        """A call that is refused takes no other with it: each is judged alone."""
        self.errors["b"] = EngineFull("full")
        for name in "abc":
            self.call(ONE, name)
        SimulatedLoop().run(self.queue.run())
        self.failureResultOf(self.answers["b"], EngineFull)
        self.assertEqual([self.successResultOf(self.answers[name]) for name in "ac"], [[1], [2]])
        self.assertEqual(self.requests, [(1, ["a", "b", "c"]), (1, ["a"]), (1, ["b"]), (1, ["c"])])

    def test_fence_is_old(self) -> None:
        """A fence is old for all of its calls."""
        self.errors["a"] = Fenced("old")
        for name in "ab":
            self.call(ONE, name)
        self.call(TWO, "c")
        SimulatedLoop().run(self.queue.run())
        for name in "ab":
            self.failureResultOf(self.answers[name], Fenced)
        self.assertEqual(self.successResultOf(self.answers["c"]), [1])

    def test_the_end(self) -> None:
        """A run that is cancelled leaves every call without an answer to `give_up`."""
        async def run() -> None:
            task = asyncio.ensure_future(self.queue.run())
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.wait([task])

        for fence, name in ((ONE, "a"), (ONE, "b"), (TWO, "c")):
            self.call(fence, name)
        SimulatedLoop().run(run())
        self.assertEqual([answer.called for answer in self.answers.values()], [False] * 3)
        self.queue.give_up(EngineGone("closed"))
        for answer in self.answers.values():
            self.failureResultOf(answer, EngineGone)

    def test_caller_that_has_gone(self) -> None:
        """A call that was cancelled has its effect, and its answer is dropped."""
        self.call(ONE, "a")
        answer = self.answers["a"]
        answer.cancel()
        self.failureResultOf(answer)
        SimulatedLoop().run(self.queue.run())
        self.assertEqual(self.requests, [(1, ["a"])])
