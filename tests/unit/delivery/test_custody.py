"""Tests of the count of lost stanzas, by pair, at the end of a stop."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.custody import STALL_SECONDS, LostStanzas
from s2sgw.spool.interface import SpoolFull
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.custody import stop
from tests.support.faulty_spool import FaultySpool
from tests.unit.delivery.test_queue import HERE, OUT, THERE, WINDOW, World, stanza


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
