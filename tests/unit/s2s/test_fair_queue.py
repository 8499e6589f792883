"""Tests of a waiting line that is shared fairly."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s.fair_queue import RELEASED_AT_ONCE, FairQueue


def _any(owner: str) -> bool:
    return True


class FairQueueTests(SynchronousTestCase):
    """Tests of `FairQueue`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.closed = ""
        self.queue: FairQueue[str] = FairQueue(self.clock, lambda owner: owner not in self.closed)
        self.order: list[str] = []

    def wait(self, name: str) -> None:
        self.queue.wait(name[0]).addCallbacks(lambda _: self.order.append(name), lambda _: None)

    def test_round_robin(self) -> None:
        """Owners take turns, each in the order of its own waiters: a late owner with one waiter is next, not last."""
        for name in ("a1", "a2", "a3", "b1"):
            self.wait(name)
        self.queue.release(_any)
        self.wait("c1")
        self.assertEqual([self.queue.release(_any) for _ in range(5)], [True, True, True, True, False])
        self.assertEqual((self.order, len(self.queue)), (["a1", "b1", "a2", "c1", "a3"], 0))

    def test_owners_that_may_not(self) -> None:
        """An owner that may not start is skipped and keeps its place."""
        for name in ("a1", "b1"):
            self.wait(name)
        self.assertTrue(self.queue.release(lambda owner: owner == "b"))
        self.assertFalse(self.queue.release(lambda owner: owner == "b"))
        self.assertEqual((self.order, len(self.queue)), (["b1"], 1))

    def test_cancelled(self) -> None:
        """A cancelled waiter leaves the line, and an owner without waiters is forgotten."""
        first, second = self.queue.wait("a"), self.queue.wait("a")
        for waiter in (first, second):
            waiter.addErrback(lambda _: None)
            waiter.cancel()
        self.assertEqual((len(self.queue), self.queue.release(_any), dict(self.queue._waiters)), (0, False, {}))

    def test_waits_again(self) -> None:
        """A waiter that is released and waits again at once is placed behind the others."""
        self.queue.wait("a").addCallback(lambda _: self.wait("a2"))
        self.wait("b1")
        for _ in range(3):
            self.queue.release(_any)
        self.assertEqual(self.order, ["b1", "a2"])

    def test_first(self) -> None:
        """A waiter that had its turn before is released before all others, of its owner and of others."""
        for name in ("a1", "b1", "b2"):
            self.wait(name)
        self.queue.wait("b", first=True).addCallback(lambda _: self.order.append("b0"))
        for _ in range(4):
            self.queue.release(_any)
        self.assertEqual(self.order, ["b0", "a1", "b1", "b2"])

    def test_serve(self) -> None:
        """The waiters that are due are released, if their owners may go: a few at once, the others in later turns of the reactor."""
        for number in range(3 * RELEASED_AT_ONCE):
            self.wait(f"a{number}")
            self.wait(f"b{number}")
        self.closed = "b"
        self.queue.serve(2 * RELEASED_AT_ONCE + 1)
        self.assertEqual(len(self.order), RELEASED_AT_ONCE)
        self.clock.callLater(0, lambda: self.assertEqual(len(self.order), 2 * RELEASED_AT_ONCE))
        self.clock.advance(0)
        self.assertEqual((len(self.order), {name[0] for name in self.order}), (2 * RELEASED_AT_ONCE + 1, {"a"}))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_served_meanwhile(self) -> None:
        """A waiter that ends at once and calls `serve` for the next is no recursion. What is due by then is released too."""
        ended: list[int] = []

        def end(_: None, number: int) -> None:
            ended.append(number)
            self.queue.serve(1)

        for number in range(5000):
            self.queue.wait("a").addCallback(end, number)
        self.queue.serve(1)
        self.assertEqual(len(ended), RELEASED_AT_ONCE)
        self.clock.advance(0)
        self.assertEqual((ended, len(self.queue), self.clock.getDelayedCalls()), (list(range(5000)), 0, []))

    def test_served_for_those_that_wait(self) -> None:
        """If exactly those of one turn waited, the rest of what was due is not for later ones."""
        for number in range(RELEASED_AT_ONCE):
            self.wait(f"a{number}")
        self.queue.serve(100)
        self.wait("b1")
        self.wait("b2")
        self.queue.serve(1)
        self.assertEqual((self.order[RELEASED_AT_ONCE:], self.clock.getDelayedCalls()), (["b1"], []))

    def test_served_again_in_one_turn(self) -> None:
        """Several calls in one turn of the reactor release no more than one of them would."""
        for number in range(10 * RELEASED_AT_ONCE):
            self.wait(f"a{number}")
        for _ in range(5):
            self.queue.serve(100)
        self.assertEqual(len(self.order), RELEASED_AT_ONCE)
        self.clock.advance(0)
        self.assertEqual(len(self.order), RELEASED_AT_ONCE + 100)

    def test_recall(self) -> None:
        """All that wait are released, the first of each line first, in later turns. One that has left meanwhile is not."""
        names = [f"a{number}" for number in range(RELEASED_AT_ONCE + 2)]
        for name in (*names, "b0", "b1"):
            self.wait(name)
        gone = self.queue.wait("a").addErrback(lambda _: None)
        self.queue.recall()
        gone.cancel()
        self.assertEqual(self.order, [])
        self.clock.advance(0)
        self.assertEqual(self.order, ["a0", "b0", "a1", "b1", *names[2 : RELEASED_AT_ONCE - 2]])
        self.clock.advance(1)
        self.assertEqual((self.order[RELEASED_AT_ONCE:], self.queue.owners(), len(self.queue)), (names[RELEASED_AT_ONCE - 2 :], [], 0))

    def test_recall_of_many_lines(self) -> None:
        """Thousands of owners with one waiter each are no more for one turn of the reactor than one owner with thousands."""
        for number in range(3 * RELEASED_AT_ONCE):
            self.queue.wait(chr(0x4E00 + number)).addCallback(lambda _: self.order.append(""))
        self.queue.recall()
        self.clock.advance(0)
        self.assertEqual(len(self.order), RELEASED_AT_ONCE)
        self.clock.pump([0.001] * 2)
        self.assertEqual((len(self.order), self.clock.getDelayedCalls()), (3 * RELEASED_AT_ONCE, []))

    def test_released_and_recalled(self) -> None:
        """One that was released meanwhile, and waits again, is not released twice by one call. Without waiters nothing happens."""
        self.queue.recall()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.wait("a0")
        self.queue.recall()
        self.queue.release(_any)
        self.wait("a1")
        self.clock.advance(1)
        self.assertEqual((self.order, len(self.queue)), (["a0"], 1))
