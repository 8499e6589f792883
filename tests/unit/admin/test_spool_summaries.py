"""Tests of the count of stanzas that are in memory only because the disk is full or fails."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.spool_summaries import by_pair, number_without_disk
from s2sgw.net.slices import Slices
from s2sgw.spool.interface import LaneSummary, SpoolBroken, SpoolError, SpoolFull
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.faulty_spool import FaultySpool
from tests.unit.delivery.test_queue import WINDOW, World, stanza


class SummariesTests(SynchronousTestCase):
    """Tests of what the spool has of each lane."""

    def test_steps(self) -> None:
        """Very many summaries are read in steps."""
        here = Domain.parse("here.example")
        summaries = [LaneSummary(Pair(here, Domain.parse(f"p{number}.example")), 1, 1, 1, 1, 0.0) for number in range(1000)]
        steps = by_pair(summaries)
        for _ in range(10):
            self.assertIsNone(next(steps))
        with self.assertRaises(StopIteration) as end:
            next(steps)
        self.assertEqual({summary.pair: summary for summary in summaries}, end.exception.value)


class WithoutDiskTests(SynchronousTestCase):
    """Tests of `drain` with a disk that stores nothing."""

    def number(self, error: SpoolError | None) -> int:
        spool = FaultySpool(1 << 20, lambda call: world._deliver(call))
        world = World(spool=spool)
        world.next_hop.ready = world.back.ready = False
        world.accept(stanza("1"))
        world.clock.advance(WINDOW)
        spool.write_error = error
        world.accept(stanza("2"), stanza("3"))
        world.clock.advance(WINDOW)
        asked = Slices(world.clock).run(number_without_disk(world.queues))
        world.clock.advance(0)
        return self.successResultOf(asked)

    def test_number(self) -> None:
        """Only stanzas that a full or failing disk did not store are counted: a stop exceeds the configured limits."""
        self.assertEqual(2, self.number(SpoolFull("the disk is full", "disk")))
        self.assertEqual(2, self.number(SpoolBroken("it fails")))
        self.assertEqual(0, self.number(SpoolFull("queue.share", "share")))
        self.assertEqual(0, self.number(SpoolFull("queue.disk", "spool")))
        self.assertEqual(0, self.number(None))
