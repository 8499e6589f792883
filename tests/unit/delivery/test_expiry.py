"""Tests of the sweep: it bounces expired stanzas in steps, and the failure of one queue does not stop it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.queue.bounce import BOUNCED_AT_ONCE
from s2sgw.spool.interface import SpoolBroken, SpoolError
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.xmpp.jid import Domain
from tests.unit.delivery.test_queue import OUT, WINDOW, Source, World, stanza

OTHER = OUT._replace(recipient=Domain.parse("other.example"))


class SweepTests(SynchronousTestCase):
    """Tests of a sweep in which one queue fails."""

    def test_the_others_expire(self) -> None:
        """The other queues are swept. The failure is reported at the end of this sweep and of the next one."""
        world = World()
        world.next_hop.ready = False
        world.accept(stanza("1"))
        other = world.queues.queue(OUT._replace(recipient=OUT.sender))
        self.patch(type(other), "expire", fails_for(other, type(other).expire))
        world.clock.advance(601)
        for _ in range(2):
            error = self.assertRaises(ExceptionGroup, world.custody.expiry.sweep)
            self.assertEqual(str(error.exceptions[0]), "disk full")
        self.assertEqual(len(world.back.sent), 1)

    def test_quiet(self) -> None:
        """A sweep does nothing with queues whose stanzas wait, in memory or on the disk alone, and have not expired."""
        world = World()
        world.next_hop.ready = False
        for pair in (OUT, OTHER):
            world.queues.queue(pair).accept([stanza("1")])
        world.clock.advance(WINDOW)
        world.clock.pump([0] * 6)
        world.queues.queue(OTHER).evict(0)
        self.assertEqual(world.queues.queue(OTHER).pair_queue.only_spooled, 1)
        swept: list[DeliveryQueue] = []
        self.patch(DeliveryQueue, "expire", sweeping(swept))
        world.custody.expiry.sweep()
        self.assertEqual(swept, [])
        world.clock.advance(601)
        world.custody.expiry.sweep()
        self.assertIn(world.queue, swept)

    def test_not_quiet(self) -> None:
        """A sweep looks after a queue that holds nothing, that has only stanzas in flight, or for which something waits."""
        world = World()
        self.assertFalse(world.queue.is_quiet(0.0))
        world.accept(stanza("1"))
        self.assertEqual((world.queue.pair_queue.in_flight_count, world.queue.is_quiet(0.0)), (1, False))
        queue = world.queues.queue(OTHER)
        world.next_hop.ready = False
        queue.accept([stanza("1")])
        self.assertTrue(queue.is_quiet(0.0))
        for name, value in (("restore_turn", world.custody.restore), ("_slowed", {Source(): None})):
            before = getattr(queue, name)
            setattr(queue, name, value)
            self.assertFalse(queue.is_quiet(0.0))
            setattr(queue, name, before)
        self.assertTrue(queue.is_quiet(0.0))

    def test_wall_clock_steps(self) -> None:
        """A step of the wall clock, forward or back, neither expires a stanza nor extends its time."""
        wall = Clock()
        world = World(wall=wall)
        world.next_hop.ready = False
        world.accept(stanza("1"))
        for step in (3600.0, -3600.0):
            wall.rightNow = step
            world.clock.advance(290)
            world.custody.expiry.sweep()
        self.assertEqual(world.back.sent, [])
        world.clock.advance(30)
        world.custody.expiry.sweep()
        self.assertEqual(len(world.back.sent), 1)


class StopTests(SynchronousTestCase):
    """Tests of a stop."""

    def test_closed_spool(self) -> None:
        """A spool that is being closed is asked nothing. That it gives no answer then is not told as a fault of the disk."""
        world = World()
        world.next_hop.ready = False
        world.accept(stanza("1"))
        world.clock.advance(WINDOW)
        asked: list[Callable[[SpoolError], None]] = []
        told: list[object] = []
        self.patch(world.custody.services.spool, "expired", lambda now, number, answer: asked.append(answer))
        self.patch(world.custody.services.window, "trouble", told.append)
        world.custody.expiry.sweep()
        Deferred.fromCoroutine(world.custody.close())
        asked.pop()(SpoolBroken("the spool is closed"))
        world.custody.expiry.sweep()
        self.assertEqual(([], []), (asked, told))

    def test_no_question_after_a_stop(self) -> None:
        """The next sweep asks nothing either."""
        world = World()
        world.next_hop.ready = False
        world.accept(stanza("1"))
        world.clock.advance(WINDOW)
        asked: list[object] = []
        self.patch(world.custody.services.spool, "expired", lambda *given: asked.append(given))
        Deferred.fromCoroutine(world.custody.close())
        world.custody.expiry.sweep()
        self.assertEqual([], asked)


class StepTests(SynchronousTestCase):
    """Tests of many stanzas that expire together."""

    def setUp(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.world = World(soon=self.steps.append)
        self.world.next_hop.ready = False

    def step(self) -> None:
        """Run one turn of the reactor, in which everything due is done."""
        steps, self.steps[:] = list(self.steps), []
        for each in steps:
            each()

    def expire(self) -> None:
        self.world.clock.pump([601])
        self.world.custody.expiry.sweep()

    def test_in_memory(self) -> None:
        """The sweep bounces some stanzas, and each step some more. The queues take turns."""
        self.patch(self.world.spool, "append", lambda *_: None)
        for pair in (OUT, OTHER):
            self.world.queues.queue(pair).accept([stanza(str(number)) for number in range(2 * BOUNCED_AT_ONCE)])
        self.expire()
        left = []
        for _ in range(5):
            left.append((len(self.world.queue.pair_queue), len(self.world.queues.queue(OTHER).pair_queue)))
            self.step()
        step = BOUNCED_AT_ONCE
        self.assertEqual(left, [(step, 2 * step), (0, 2 * step), (0, step), (0, 0), (0, 0)])
        self.assertEqual(len(self.world.back.sent), 4 * step)

    def test_on_the_disk_alone(self) -> None:
        """Rows that the spool named are bounced in steps. A row that was dropped meanwhile is not bounced."""
        for pair in (OUT, OTHER):
            queue = self.world.queues.queue(pair)
            queue.accept([stanza(str(number)) for number in range(BOUNCED_AT_ONCE + 1)])
            self.world.clock.advance(WINDOW)
            queue.evict(0)
        self.expire()
        self.assertEqual(len(self.world.back.sent), BOUNCED_AT_ONCE)
        self.world.queues.queue(OTHER).drop(True)
        for _ in range(9):
            self.step()
        self.assertEqual(len(self.world.back.sent), BOUNCED_AT_ONCE + 1)
        self.assertEqual((self.world.spool.count, self.world.queue.idle), (0, True))
        self.assertFalse(self.world.custody.services.expiry_question.open)


def fails_for(queue: DeliveryQueue, method: Callable[..., int]) -> Callable[..., int]:
    """Return `method`, which fails for one queue."""
    def called(self: DeliveryQueue, *arguments: object) -> int:
        if self is queue:
            raise OSError("disk full")
        return method(self, *arguments)

    return called


class AnewTests(SynchronousTestCase):
    """Queues were cut off: rows that were found before are not bounced."""

    def setUp(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.late: list[Callable[[], None]] = []
        self.world = World(soon=self.steps.append, spool=MemorySpool(1 << 20, self.late.append))
        self.world.next_hop.ready = False
        self.world.accept(*(stanza(str(number)) for number in range(BOUNCED_AT_ONCE + 1)))
        self.world.clock.advance(WINDOW)
        self.world.clock.pump([0] * 6)
        self.answer()
        self.world.queue.evict(0)
        self.world.clock.advance(700)
        self.world.custody.expiry.sweep()

    def answer(self) -> None:
        while self.late:
            self.late.pop(0)()

    def left(self) -> int:
        return len(self.world.queue.pair_queue)

    def test_answer_under_way(self) -> None:
        """An answer to the earlier question is of no use. The next sweep asks again."""
        self.world.custody.expiry.start_anew()
        self.answer()
        self.assertEqual(BOUNCED_AT_ONCE + 1, self.left())
        self.world.custody.expiry.sweep()
        self.answer()
        self.assertEqual(1, self.left())

    def test_rows_that_wait(self) -> None:
        """Rows that were to be bounced in the next step are forgotten, and found again."""
        self.answer()
        self.assertEqual(1, self.left())
        self.world.custody.expiry.start_anew()
        while self.steps:
            self.steps.pop(0)()
        self.assertEqual(1, self.left())
        self.world.custody.expiry.sweep()
        self.answer()
        self.assertEqual(0, self.left())


def sweeping(swept: list[DeliveryQueue]) -> Callable[..., int]:
    """Return a method that notes the queues, and expires nothing."""

    def expire(queue: DeliveryQueue, now: float, at_most: int) -> int:
        swept.append(queue)
        return 0
    return expire
