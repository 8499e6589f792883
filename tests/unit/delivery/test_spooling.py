"""Tests of stanzas that only the spool holds, when the spool cannot be read or a row was altered."""

from __future__ import annotations

import re
from collections.abc import Callable
from unittest.mock import patch

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.queue.bounce import BOUNCED_AT_ONCE
from s2sgw.spool.interface import Quarantined, SpoolBroken
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.custody import replacing, stop
from tests.support.faulty_spool import FaultySpool
from tests.support.spool_contract import answer_into
from tests.unit.delivery.test_queue import OUT, WINDOW, World, ids, raises, stanza


def away(*names: str) -> tuple[World, FaultySpool]:
    """Return a world with an unreachable peer, whose stanzas are only in the spool."""
    spool = FaultySpool(1 << 20, lambda call: call())
    world = World(spool=spool)
    world.next_hop.ready = False
    world.custody.services.relief.resident = 0
    for name in names:
        world.accept(stanza(name))
    world.clock.advance(1)
    return world, spool


class UnreadableTests(SynchronousTestCase):
    """A read error is an error, not an empty answer."""

    def test_read_again(self) -> None:
        """A stanza that cannot be read stays. It is requested again at growing intervals, and delivered in order once it is readable."""
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
        """If the spool cannot tell what expired, it is asked again at the next sweep."""
        world, spool = away("1", "2")
        spool.read_error = SpoolBroken("the disk fails")
        world.clock.advance(601)
        world.custody.expiry.sweep()
        world.custody.expiry.sweep()
        spool.read_error = None
        world.custody.expiry.sweep()
        self.assertEqual((len(world.back.sent), spool.count), (2, 0))

    def test_nobody_is_let_in(self) -> None:
        """If the start cannot list the spool's content, new stanzas wait until it can. Their positions begin behind that content."""
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
        """No position that the spool ever held is used again, not even in a queue of which it holds nothing."""
        spool = FaultySpool(1 << 20, lambda call: call())
        spool._next_position = 77
        world = World(spool=spool)
        world.custody.restore.restore_all()
        self.assertEqual(world.queue.pair_queue.next_position, 77)


class OverflowTests(SynchronousTestCase):
    """Tests of many stanzas that the spool rejects: they are bounced in steps."""

    def setUp(self) -> None:
        self.steps: list[Callable[[], None]] = []
        self.world = World(disk=10, soon=self.steps.append)
        self.world.next_hop.ready = False

    def step(self) -> None:
        """Run one turn of the reactor, in which everything due is done."""
        steps, self.steps[:] = list(self.steps), []
        for each in steps:
            each()

    def accept(self, number: int) -> list[str]:
        """Accept stanzas that the disk does not store; return their ids."""
        names = [str(name) for name in range(number)]
        for name in names:
            self.world.accept(stanza(name))
        self.world.clock.advance(WINDOW)
        return names

    def bounced(self) -> list[str]:
        return [each.split(b"id='")[1].split(b"'")[0].decode() for each in self.world.back.sent]

    def test_steps(self) -> None:
        """Each step bounces some, in order. No upstream acknowledgement is settled before its error is safe."""
        names = self.accept(2 * BOUNCED_AT_ONCE + 5)
        for number in (1, 2):
            self.assertEqual(self.bounced(), names[: number * BOUNCED_AT_ONCE])
            self.assertEqual(self.world.settled, self.bounced())
            self.assertTrue(self.world.queue.overflow.active)
            self.step()
        self.assertEqual((self.bounced(), self.world.settled), (names, names))
        self.assertFalse(self.world.queue.overflow.active)
        self.assertTrue(self.world.queue.idle)

    def test_room_again(self) -> None:
        """Operators are told which bound is reached until the spool stores something again, also if nothing was left that it rejected."""
        self.accept(3)
        self.assertEqual((False, ["disk"]), (self.world.queue.overflow.active, self.world.queue.full_bounds()))
        self.world.spool.raise_limit(10_000)
        self.accept(1)
        self.assertEqual((1, []), (len(self.world.spooled()), self.world.queue.full_bounds()))

    def test_no_disk(self) -> None:
        """Without a spool no bound of the disk is named."""
        self.world = World(spools=False, memory=2_000, soon=self.steps.append)
        self.world.next_hop.ready = False
        for name in map(str, range(20)):
            self.world.accept(stanza(name))
        self.assertTrue(self.bounced())
        self.assertEqual([], self.world.queue.full_bounds())

    def test_next_hop_is_back(self) -> None:
        """Stanzas that are still to be bounced when the next hop is ready are passed on."""
        names = self.accept(BOUNCED_AT_ONCE + 5)
        self.world.next_hop.ready = True
        self.step()
        self.assertEqual(self.bounced(), names[:BOUNCED_AT_ONCE])
        self.assertEqual(len(self.world.next_hop.sent), 5)
        self.world.queue.acknowledged(5)
        self.assertEqual(self.world.settled, names)
        self.world.custody.expiry.sweep()
        self.assertFalse(self.world.queue.overflow.active)

    def test_sender_takes_nothing_more(self) -> None:
        """If no more errors can be sent, the stanzas that are still to be bounced wait, and are offered to the spool again."""
        self.accept(BOUNCED_AT_ONCE + 5)
        self.world.back.ready = False
        self.step()
        self.assertEqual(len(self.bounced()), BOUNCED_AT_ONCE)
        self.assertEqual(len(self.world.queue.pair_queue), 5)
        self.world.spool.raise_limit(10_000)
        self.world.custody.expiry.sweep()
        self.assertEqual(len(self.world.spooled()), 5)
        self.assertEqual(len(self.world.settled), BOUNCED_AT_ONCE + 5)

    def test_bounce_that_fails(self) -> None:
        """Stanzas whose errors cannot be made wait again, in order, and block nothing: they are bounced or passed on later."""
        bounces = type(self.world.custody.services.bounces)
        with patch.object(bounces, "give_up", raises):
            names = [str(name) for name in range(3)]
            for name in names:
                self.world.accept(stanza(name))
            self.world.clock.advance(WINDOW)
            self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
            queue = self.world.queue
            self.assertEqual((queue.overflow.unacked_bounces, queue.overflow.active, len(queue.pair_queue)), (0, True, 3))
            self.assertEqual(queue.pair_queue.memory.used, sum(held.cost for held in queue.pair_queue))
        self.world.custody.expiry.sweep()
        self.assertEqual((self.bounced(), self.world.settled), (names, names))
        self.assertEqual((queue.pair_queue.memory.used, queue.pair_queue.unsaved, queue.overflow.active), (0, 0, False))

    def test_one_queue_that_cannot_be_spooled(self) -> None:
        """The stanzas of the other queues go to the spool at the end of the window all the same, and its own later."""
        world = World()
        other = world.queues.queue(Pair(OUT.sender, Domain.parse("other.example")))
        world.next_hop.ready = False
        for queue in (world.queue, other):
            queue.accept([stanza("1")])
        with patch.object(DeliveryQueue, "spool_now", replacing(world.queue, "spool_now", raises)):
            world.clock.advance(WINDOW)
        self.assertEqual((len(self.flushLoggedErrors(OSError)), world.spool.count, world.queue.pair_queue.unsaved > 0), (1, 1, True))
        world.custody.expiry.sweep()
        self.assertEqual((world.spool.count, world.queue.pair_queue.unsaved), (2, 0))

    def test_dropped_meanwhile(self) -> None:
        """A queue that is emptied and forgotten before the next step is not touched."""
        self.accept(BOUNCED_AT_ONCE + 5)
        self.world.queue.drop(True)
        self.world.queues.forget(OUT)
        self.step()
        self.assertEqual(len(self.bounced()), BOUNCED_AT_ONCE)

    def test_stop_meanwhile(self) -> None:
        """A stop offers the disk what is still to be bounced. If the disk stores it, it is not bounced."""
        self.accept(BOUNCED_AT_ONCE + 5)
        self.world.spool.raise_limit(10_000)
        self.successResultOf(stop(self.world.custody))
        self.step()
        self.assertEqual((len(self.world.settled), len(self.world.spooled())), (BOUNCED_AT_ONCE + 5, 5))
        self.assertEqual(len(self.bounced()), BOUNCED_AT_ONCE)
        self.assertEqual(self.world.custody.lost(), [])


class DamageTests(SynchronousTestCase):
    """Tests of rows that were altered on the disk: they are not delivered."""

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
        """The sender gets an error, the stanza is put in quarantine, and the others are delivered."""
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
        """If no error can be sent, the stanza is put in quarantine and counted."""
        world, spool = self.altered("envelope")
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.assertEqual((ids(world.next_hop.sent), world.back.sent), ("13", []))
        self.assertEqual(self.quarantine(spool), ["2 altered on the disk (envelope)"])
        self.assertEqual(world.record.stanzas["outbound", "message", "dropped"], 1)

    def test_expired(self) -> None:
        """The same holds if the deadline comes first. The altered stanza is reported as damaged, the others as expired."""
        world, spool = self.altered("content")
        world.clock.advance(601)
        world.custody.expiry.sweep()
        told = re.findall(rb"id=.(\d)|(spool-damaged)", b"".join(world.back.sent))
        self.assertEqual((sorted(told), spool.count), ([(b"", b"spool-damaged"), (b"1", b""), (b"2", b""), (b"3", b"")], 0))
        self.assertEqual(self.quarantine(spool), ["2 altered on the disk (content)"])


class DateTests(SynchronousTestCase):
    """A delay stamp is a date (XEP-0203): it comes from the wall clock, and the delay from the monotonic one."""

    def test_stamp(self) -> None:
        """R39: the stamp is as long ago as the stanza has waited, whatever the wall clock shows."""
        wall = Clock()
        wall.advance(1_700_000_000.0)
        world = World(wall=wall)
        world.next_hop.ready = False
        world.accept(stanza("1"))
        world.clock.advance(99)
        world.next_hop.ready = True
        world.queue.next_hop_ready()
        self.assertIn(b"stamp='2023-11-14T22:11:41.000Z'", world.next_hop.sent[0].replace(b'"', b"'"))
