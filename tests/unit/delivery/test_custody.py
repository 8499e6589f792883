"""Tests of the steps of a stop that affect all queues, and of the count of lost stanzas at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.custody import QUEUES_AT_ONCE, STALL_SECONDS, LostStanzas
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.spool.interface import Done, Replaced, Spooled, SpoolFull
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.custody import stop
from tests.support.faulty_spool import FaultySpool
from tests.unit.delivery.test_queue import HERE, OUT, THERE, WINDOW, FakeHop, World, stanza


class LostTests(SynchronousTestCase):
    """Tests of a stop with a full disk."""

    def setUp(self) -> None:
        self.spool = FaultySpool(1 << 20, lambda call: self.world._deliver(call))
        self.world = World(spool=self.spool)
        self.world.next_hop.ready = self.world.back.ready = False

    def fill(self) -> None:
        self.spool.write_error = SpoolFull("the disk is full", "disk")

    def accept(self, pair: Pair, *names: str) -> None:
        """Accept stanzas of a server without XEP-0198."""
        self.world.queues.queue(pair).accept([stanza(name) for name in names])

    def lost(self) -> list[LostStanzas]:
        self.world.clock.advance(WINDOW)
        self.successResultOf(stop(self.world.custody))
        return self.world.custody.lost()

    def test_by_pair(self) -> None:
        """Stanzas on the disk, or kept by the sender's server, are not lost. The pair with the most lost stanzas comes first."""
        self.accept(OUT, "1", "2")
        self.world.clock.advance(WINDOW)
        self.fill()
        other = Pair(HERE, Domain.parse("other.example"))
        self.accept(OUT, "3")
        self.accept(other, "4", "5")
        self.world.accept(stanza("6"))  # its upstream acknowledgement is not settled
        self.assertEqual([LostStanzas(other, 2, 0), LostStanzas(OUT, 1, 0)], self.lost())

    def test_none(self) -> None:
        """Nothing is lost if the disk has room for everything."""
        self.accept(OUT, "1", "2")
        self.assertEqual([], self.lost())

    def test_written(self) -> None:
        """Stanzas that were written and not acknowledged are counted separately: they may have arrived."""
        self.fill()
        self.world.next_hop.ready = True
        self.accept(OUT, "1", "2")
        self.world.next_hop.ready = False
        self.accept(OUT, "3")
        self.assertEqual([LostStanzas(OUT, 3, 2)], self.lost())

    def test_without_a_spool(self) -> None:
        """Errors that were neither delivered nor stored are named, whichever queue comes first."""
        for first, second in ((OUT, OUT.inverse), (OUT.inverse, OUT)):
            self.world = World(spools=False)
            self.world.next_hop.ready = self.world.back.ready = False
            self.world.queues.queue(first)
            self.world.queues.queue(second)
            self.accept(OUT, "1", "2")
            self.assertEqual([LostStanzas(OUT.inverse, 2, 0)], self.lost())

    def test_answered(self) -> None:
        """An answered stanza is lost with its error, unless the disk or the sender's server has the stanza."""
        self.accept(OUT, "1")
        self.world.clock.advance(WINDOW)
        self.fill()
        self.world.queue.give_up(Cause.DROPPED_BY_OPERATOR)
        self.world.accept(stanza("2"))
        self.world.queue.give_up(Cause.DROPPED_BY_OPERATOR)
        self.accept(OUT, "3")
        self.world.queue.give_up(Cause.DROPPED_BY_OPERATOR)
        self.assertEqual([LostStanzas(Pair(THERE, HERE), 1, 0)], self.lost())

    def test_errors_of_what_was_refused(self) -> None:
        """An error for a stanza that no queue accepted is counted as lost too."""
        self.fill()
        self.world.custody.services.bounces.refuse(OUT, [stanza("1")], Cause.NOT_ALLOWED)
        self.assertEqual([LostStanzas(OUT.inverse, 1, 0)], self.lost())


class StalledTests(SynchronousTestCase):
    """A stop on a disk that does not answer."""

    def setUp(self) -> None:
        self.spool = FaultySpool(1 << 20, lambda call: self.world._deliver(call))
        self.world = World(spool=self.spool)
        self.world.next_hop.ready = False
        self.world.queues.queue(OUT).accept([stanza("1")])
        self.spool.stall()

    def test_bounded(self) -> None:
        """The stop ends, and names the stanzas whose commit is unknown."""
        done = stop(self.world.custody)
        self.world.clock.pump([0.5] * int(2 * STALL_SECONDS - 2))
        self.assertNoResult(done)
        self.world.clock.pump([0.5] * int(2 * STALL_SECONDS + 4))
        self.successResultOf(done)
        self.assertEqual(self.world.custody.lost(), [LostStanzas(OUT, 1, 0)])
        self.spool.go_on()  # the answers come too late, and do no harm
        self.assertEqual(self.world.custody.lost(), [])

    def test_answers_in_time(self) -> None:
        """A disk that goes on in time has everything."""
        done = stop(self.world.custody)
        self.world.clock.pump([0.5] * int(2 * STALL_SECONDS - 2))
        self.spool.go_on()
        self.successResultOf(done)
        self.assertEqual((self.world.custody.lost(), self.world.spooled(), self.world.clock.getDelayedCalls()), ([], ["1"], []))

    def test_slow(self) -> None:
        """A disk that is slow, and not stalled, is awaited for as long as it takes."""
        self.spool.go_on()
        self.world.hold_back = True
        done = stop(self.world.custody)
        self.world.clock.pump([0.5] * int(4 * STALL_SECONDS))
        self.assertNoResult(done)
        self.world.hold_back = False
        self.world.answer()
        self.successResultOf(done)


class RecordingHop(FakeHop):
    """A next hop that lists the pairs whose next hops were stopped. `act` is called first."""

    def __init__(self, pair: Pair, stopped: list[Pair], act: Callable[[], object]) -> None:
        super().__init__(ready=False)
        self._pair = pair
        self._stopped = stopped
        self._act = act

    def stop(self, cause: Cause) -> Deferred[None]:
        self._stopped.append(self._pair)
        self._act()
        return succeed(None)


class ManyQueuesWorld(World):
    """A world with more queues than are handled in one turn. The test makes the turns."""

    def __init__(self, **options: Any) -> None:
        self.steps: list[Callable[[], None]] = []
        self.stopped: list[Pair] = []
        self.given: list[Pair] = []
        self.at_stop: Callable[[], object] = lambda: None
        super().__init__(soon=self.steps.append, **options)
        self.pairs = [Pair(HERE, Domain.parse(f"{number}.example")) for number in range(2 * QUEUES_AT_ONCE + 5)]
        for pair in self.pairs:
            self.queues.queue(pair).accept([stanza(str(pair.recipient))])

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        return RecordingHop(queue.pair, self.stopped, lambda: self.at_stop())

    def turns(self, done: Deferred[None], counted: list[Pair]) -> list[int]:
        """Make turns until `done` has fired. Return how much `counted` grew in each."""
        grown, before = [len(counted)], len(counted)
        while not done.called:
            self.steps.pop(0)()
            grown.append(len(counted) - before)
            before = len(counted)
        return grown


class ManyQueuesTests(SynchronousTestCase):
    """A stop with many queues takes many short turns."""

    def world(self, **options: Any) -> ManyQueuesWorld:
        world = ManyQueuesWorld(**options)
        append = world.spool.append

        def appended(batch: Sequence[Spooled], done: Done, replaces: Sequence[Replaced] = ()) -> None:
            world.given.extend(row.pair for row in batch)
            append(batch, done, replaces)

        self.patch(world.spool, "append", appended)
        return world

    def test_handed_to_the_spool(self) -> None:
        """The spool is given a few queues in each turn, each once."""
        world = self.world()
        grown = world.turns(Deferred.fromCoroutine(world.custody.hand_to_spool()), world.given)
        self.assertEqual((grown[:3], sum(grown), world.given), ([QUEUES_AT_ONCE, QUEUES_AT_ONCE, 5], len(world.pairs), world.pairs))

    def test_close(self) -> None:
        """A few next hops are stopped in each turn, the newest first. When all are stopped, the spool is given what is left."""
        world = self.world()
        closed = Deferred.fromCoroutine(world.custody.close())
        grown = world.turns(closed, world.stopped)
        self.successResultOf(closed)
        self.assertEqual((grown[:3], world.stopped), ([QUEUES_AT_ONCE, QUEUES_AT_ONCE, 5], world.pairs[::-1]))
        self.assertEqual((world.given, world.spool.count), (world.pairs, len(world.pairs)))

    def test_order(self) -> None:
        """The spool is given nothing while a next hop may still take stanzas."""
        world = self.world()
        world.at_stop = lambda: self.assertEqual(world.given, [])
        closed = Deferred.fromCoroutine(world.custody.close())
        world.turns(closed, world.given)
        self.successResultOf(closed)
        self.assertEqual(len(world.given), len(world.pairs))

    def test_stanza_that_comes_meanwhile(self) -> None:
        """A stanza that a queue accepts after its turn, such as an error that answers one of a later queue, is spooled too."""
        world = self.world()
        first, later = (world.queues.queue(world.pairs[number]) for number in (0, QUEUES_AT_ONCE + 1))
        take_back = PairQueue.take_back

        def taken_back(each: PairQueue) -> Any:
            if each is later.pair_queue:
                first.accept([stanza("late")])
            return take_back(each)

        self.patch(PairQueue, "take_back", taken_back)
        closed = Deferred.fromCoroutine(world.custody.close())
        world.turns(closed, world.stopped)
        self.successResultOf(closed)
        self.assertEqual((world.given[-1], len(world.given), world.spool.count), (first.pair, len(world.pairs) + 1, len(world.pairs) + 1))

    def test_queue_made_meanwhile(self) -> None:
        """The next hop of a queue that is made while others are stopped is stopped too, once."""
        world = self.world()
        late = Pair(HERE, Domain.parse("late.example"))
        world.at_stop = lambda: world.queues.queue(late)
        closed = Deferred.fromCoroutine(world.custody.close())
        world.turns(closed, world.stopped)
        self.assertEqual((world.stopped[-1], len(world.stopped)), (late, len(world.pairs) + 1))

    def test_queue_forgotten_meanwhile(self) -> None:
        """A queue that is empty and forgotten during the close does no harm."""
        world = self.world()
        oldest = world.pairs[0]
        world.queues.queue(oldest).drop(quietly=True)

        def forget() -> None:
            if world.queues.find(oldest) is not None:
                world.queues.forget(oldest)

        world.at_stop = forget
        closed = Deferred.fromCoroutine(world.custody.close())
        world.turns(closed, world.stopped)
        self.successResultOf(closed)
        self.assertEqual((world.stopped, world.given), (world.pairs[:0:-1], world.pairs[1:]))

    def test_one_that_fails(self) -> None:
        """If a next hop or a queue fails, the stanzas of the others are spooled, and the spool is closed."""
        world = self.world()
        failing = world.queues.queue(world.pairs[3])
        self.patch(PairQueue, "take_back", lambda each: 1 / 0 if each is failing.pair_queue else [])
        self.patch(world.queues.queue(world.pairs[5]), "next_hop", SimpleNamespace(stop=lambda cause: 1 / 0))
        closing = Mock(wraps=world.spool.close)
        self.patch(world.spool, "close", closing)
        closed = Deferred.fromCoroutine(world.custody.close())
        world.turns(closed, world.stopped)
        self.successResultOf(closed)
        self.assertEqual((len(world.given), closing.call_count), (len(world.pairs), 1))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_without_a_spool(self) -> None:
        """Waiting stanzas are bounced in many turns."""
        world = ManyQueuesWorld(spools=False)
        done = Deferred.fromCoroutine(world.custody.hand_to_spool())
        waiting = [sum(len(world.queues.queue(pair).pair_queue) for pair in world.pairs)]
        while not done.called:
            world.steps.pop(0)()
            waiting.append(sum(len(world.queues.queue(pair).pair_queue) for pair in world.pairs))
        self.assertEqual((waiting[0], waiting[-1]), (len(world.pairs) - QUEUES_AT_ONCE, 0))
        self.assertLessEqual(max(earlier - later for earlier, later in pairwise(waiting)), QUEUES_AT_ONCE)
