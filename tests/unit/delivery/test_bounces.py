"""R33, R34: the upstream acknowledgement of a bounced stanza is settled when its error is safe, never before."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.ending import Cause
from tests.support.custody import Receipt
from tests.unit.delivery.test_queue import OUT, WINDOW, Source, World, ids, stanza


class RefusedTests(SynchronousTestCase):
    """Tests of stanzas that were not taken into custody."""

    def setUp(self) -> None:
        self.world = World()
        self.world.back.ready = False
        self.receipt = Receipt(2)

    def refuse(self, *types: str | None) -> None:
        stanzas = [stanza(str(number), type=type) for number, type in enumerate(types, 1)]
        self.world.custody.services.bounces.refuse(OUT, stanzas, Cause.NOT_ALLOWED, self.receipt)

    def test_the_error_is_spooled(self) -> None:
        """Errors wait for the sender's server. Nothing is settled before the commit that holds both is done."""
        self.refuse(None, None)
        self.world.hold_back = True
        self.world.clock.advance(WINDOW)
        self.assertEqual(self.receipt.by, [])
        self.world.answer()
        self.assertEqual(self.receipt.by, [("answered", 2)])

    def test_the_error_finds_no_room(self) -> None:
        """If the disk has no room for the error, the error stays in memory until the sender's server has it."""
        self.world = World(disk=10)
        self.world.back.ready = False
        self.refuse(None, None)
        for _ in range(5):
            self.world.clock.advance(WINDOW)
            self.world.custody.expiry.sweep()
        self.assertEqual(self.receipt.by, [])
        self.world.back.ready = True
        self.world.queues.queue(OUT.inverse).next_hop_ready()
        self.assertEqual((self.receipt.by, ids(self.world.back.sent)), ([("answered", 2)], "12"))

    def test_no_error_may_answer(self) -> None:
        """A stanza that must not be answered by an error is dropped at once."""
        self.refuse("error", None)
        self.assertEqual(self.receipt.by, [("dropped_by_rule", 1)])

    def test_another_node_gets_the_error(self) -> None:
        """If another node has the queue of the errors, the refused stanzas are given up too: nothing of them is settled."""
        self.refuse(None, None)
        self.world.queues.queue(OUT.inverse).cut_off()
        self.assertEqual((self.receipt.by, self.receipt.abandoned), ([], True))

    def test_the_stream_waits(self) -> None:
        """If errors find no room on the disk and fill the memory, the stream that brings more of these stanzas is paused."""
        self.world, source = World(disk=10, memory=4_000), Source(shared=True)
        self.world.back.ready = False
        self.refuse(None, None)
        self.world.clock.advance(WINDOW)
        self.world.custody.services.bounces.refuse(OUT, [stanza("3")], Cause.NOT_ALLOWED, Receipt(1), source)
        self.assertTrue(source.paused)


class GivenUpTests(SynchronousTestCase):
    """Tests of stanzas in custody whose queue is forgotten before the spool answers."""

    def test_passed_on_before_it_is_on_the_disk(self) -> None:
        """The error is passed on first and the queue is forgotten. The late commit settles the other stanzas."""
        world = World()
        world.next_hop.ready = False
        world.accept(stanza("1"))
        world.clock.advance(WINDOW)
        world.back.ready, world.back.acknowledges = True, True
        back, other = world.queues.queue(OUT.inverse), Receipt(1)
        world.hold_back = True
        world.queue.give_up(Cause.NO_SUCH_DOMAIN)
        back.acknowledged(1)
        back.accept([stanza("2")], None, other)
        world.custody.expiry.sweep()
        self.assertNotIn(OUT, [queue.pair for queue in world.queues])
        world.hold_back = False
        world.clock.advance(WINDOW)
        world.answer()
        self.assertEqual((other.by, list(world.spooled())), ([("on_disk", 1)], []))
