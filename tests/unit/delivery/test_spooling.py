"""What of a delivery queue only the spool holds, where the spool cannot be read or what it holds was altered."""

from __future__ import annotations

import re
from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.spool.interface import Quarantined, SpoolBroken
from s2sgw.xmpp.ending import Cause
from tests.support.faulty_spool import FaultySpool
from tests.support.spool_contract import answer_into
from tests.unit.delivery.test_queue import OUT, World, ids, stanza


def away(*names: str) -> tuple[World, FaultySpool]:
    """A world whose peer is away, and whose spool alone holds these stanzas."""
    spool = FaultySpool(1 << 20, lambda call: call())
    world = World(spool=spool)
    world.next_hop.ready = False
    world.custody.services.relief.resident = 0
    for name in names:
        world.accept(stanza(name))
    world.clock.advance(1)
    return world, spool


class UnreadableTests(SynchronousTestCase):
    """A read error is an error, and no empty answer."""

    def test_read_again(self) -> None:
        """What cannot be read stays, is asked for again with growing pauses, and is delivered in order when it can be."""
        world, spool = away("1", "2", "3", "4")
        spool.read_error = SpoolBroken("the disk fails")
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        asked = len(world.next_hop.sent)
        self.assertIn("the disk fails", world.queue.spooled_range.unreadable)
        world.clock.pump([1.0] * 10)
        self.assertEqual((len(world.next_hop.sent), spool.count, len(world.queue.pair_queue)), (asked, 4, 4))
        spool.read_error = None
        world.clock.pump([1.0] * 30)
        self.assertEqual((ids(world.next_hop.sent), world.queue.spooled_range.unreadable), ("1234", ""))
        world.queue.acknowledged(4)
        self.assertEqual((spool.count, len(world.queue.pair_queue)), (0, 0))

    def test_an_error_is_no_expiry(self) -> None:
        """Where the spool cannot say what expired, it is asked again at the next sweep."""
        world, spool = away("1", "2")
        spool.read_error = SpoolBroken("the disk fails")
        world.clock.advance(601)
        world.custody.expiry.sweep()
        world.custody.expiry.sweep()
        spool.read_error = None
        world.custody.expiry.sweep()
        self.assertEqual((len(world.back.sent), spool.count), (2, 0))

    def test_nobody_is_let_in(self) -> None:
        """A start that cannot list what the spool holds waits until it can, and begins behind what it holds."""
        spool = FaultySpool(1 << 20, lambda call: call())
        World(spool=spool).spool.append([], lambda error: None)
        before, _ = away("1", "2")
        rows = [row for rows in before.spool._queues.values() for row in rows.values()]
        spool.append(rows, lambda error: None)
        spool.read_error = SpoolBroken("the disk fails")
        world = World(spool=spool)
        world.next_hop.ready = False
        restored: list[int] = []
        world.custody.restore.restore_all().addCallback(restored.append)
        world.clock.pump([1.0] * 5)
        self.assertEqual(restored, [])
        [row] = world.record.list("")
        self.assertEqual((row.ending.cause, "no peer is admitted" in row.ending.detail), (Cause.SPOOL_UNREADABLE, True))
        spool.read_error = None
        world.clock.advance(1)
        self.assertEqual((restored, world.queue.pair_queue.next_position, len(world.queue.pair_queue)), ([1], 3, 2))

    def test_new_queues_begin_behind(self) -> None:
        """No position that the spool ever held is used again, in a queue of which it holds nothing too."""
        spool = FaultySpool(1 << 20, lambda call: call())
        spool._next_position = 77
        world = World(spool=spool)
        world.custody.restore.restore_all()
        self.assertEqual(world.queue.pair_queue.next_position, 77)


class SweepTests(SynchronousTestCase):
    """One queue that fails does not keep the others from being swept."""

    def test_the_others_expire(self) -> None:
        """The failure is told at the end of the sweep, and comes again at the next."""
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


    def test_wall_clock_steps(self) -> None:
        """A step of the wall clock, forward or back, neither expires what waits nor keeps it."""
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


def fails_for(queue: DeliveryQueue, method: Callable[..., None]) -> Callable[..., None]:
    """Return `method`, which fails for one queue."""
    def called(self: DeliveryQueue, *arguments: object) -> None:
        if self is queue:
            raise OSError("disk full")
        method(self, *arguments)

    return called


class DamageTests(SynchronousTestCase):
    """What was altered on the disk is not delivered."""

    def altered(self, damage: str) -> tuple[World, FaultySpool]:
        world, spool = away("1", "2", "3")
        rows = spool._queues[OUT]
        rows[2] = rows[2]._replace(damage=damage)  # type: ignore[arg-type]
        return world, spool

    def quarantine(self, spool: FaultySpool) -> list[str]:
        found: list[Quarantined] = []
        spool.quarantined(9, answer_into(found))
        return [f"{row.spooled.position} {row.cause}" for row in found]

    def test_content(self) -> None:
        """Its sender is told, it is kept in quarantine, and the others are delivered."""
        world, spool = self.altered("content")
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.assertEqual(ids(world.next_hop.sent), "13")
        [error] = world.back.sent
        self.assertIn(b"spool-damaged", error)
        self.assertEqual((self.quarantine(spool), list(spool._queues[OUT])), (["2 altered on the disk (content)"], [1, 3]))
        world.queue.acknowledged(2)
        self.assertEqual((len(world.queue.pair_queue), spool.count), (0, 0))

    def test_envelope(self) -> None:
        """Nobody can be told; it is kept in quarantine and counted."""
        world, spool = self.altered("envelope")
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.assertEqual((ids(world.next_hop.sent), world.back.sent), ("13", []))
        self.assertEqual(self.quarantine(spool), ["2 altered on the disk (envelope)"])
        self.assertEqual(world.record.stanzas["outbound", "message", "dropped"], 1)

    def test_expired(self) -> None:
        """The same where its deadline comes first; it is told as damaged, the others as late."""
        world, spool = self.altered("content")
        world.clock.advance(601)
        world.custody.expiry.sweep()
        told = re.findall(rb"id=.(\d)|(spool-damaged)", b"".join(world.back.sent))
        self.assertEqual((sorted(told), spool.count), ([(b"", b"spool-damaged"), (b"1", b""), (b"2", b""), (b"3", b"")], 0))
        self.assertEqual(self.quarantine(spool), ["2 altered on the disk (content)"])


class DateTests(SynchronousTestCase):
    """A delay stamp is a date (XEP-0203): it comes from the wall clock, and the delay from the monotonic one."""

    def test_stamp(self) -> None:
        """R39: the stamp is as long ago as the stanza has waited, wherever the wall clock stands."""
        wall = Clock()
        wall.advance(1_700_000_000.0)
        world = World(wall=wall)
        world.next_hop.ready = False
        world.accept(stanza("1"))
        world.clock.advance(99)
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.assertIn(b"stamp='2023-11-14T22:11:41.000Z'", world.next_hop.sent[0].replace(b'"', b"'"))
