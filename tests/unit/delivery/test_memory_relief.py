"""Tests of eviction: stanzas that the spool has leave memory if other queues need the room."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.memory_relief import MemoryRelief
from s2sgw.queue.entries import HoldTimes
from s2sgw.queue.memory import PeerMemory, SharedMemory
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

HERE = Domain.parse("here.example")


class FakeQueue:
    """A queue with waiting stanzas that are all in the spool."""

    def __init__(self, memory: SharedMemory, number: int, stanzas: int) -> None:
        self.pair_queue = PairQueue(Pair(HERE, Domain.parse(f"peer{number}.example")), PeerMemory(memory), HoldTimes())
        self.evicted: list[int] = []
        data = b"<message/>".ljust(400)
        self.pair_queue.accept([Stanza("message", data, "u@there.example", "u@here.example", None, "a")] * stanzas, 0.0)
        self.pair_queue.mark_durable(self.pair_queue.take_unspooled(0.0))

    def evict(self, at_most: int) -> None:
        self.evicted.append(at_most)
        self.pair_queue.evict(at_most)


class MemoryReliefTests(SynchronousTestCase):
    """Many unreachable peers must not fill the memory for good."""

    def setUp(self) -> None:
        self.memory = SharedMemory(64_000)
        self.relief = MemoryRelief(self.memory)

    def queues(self, *stanzas: int) -> list[FakeQueue]:
        """Return queues that each hold this many stanzas of 1,000 bytes."""
        queues = [FakeQueue(self.memory, *each) for each in enumerate(stanzas)]
        for queue in queues:
            self.relief.keeps(queue)
        return queues

    def test_there_is_room(self) -> None:
        """Nothing is evicted while at most half of the memory is used."""
        first, second = self.queues(10, 20)
        self.assertEqual((first.evicted, second.evicted), ([], []))

    def test_another_needs_room(self) -> None:
        """The queues of the peer that uses most are evicted first, and only as much as needed."""
        first, second = self.queues(10, 20)
        self.memory.used += 5_000
        self.relief.relieve()
        self.assertEqual((first.evicted, second.evicted), ([], [0]))
        self.assertEqual((first.pair_queue.bytes, second.pair_queue.bytes), (10_000, 0))

    def test_queues_that_wait(self) -> None:
        """The queues that wait are part of the memory that a peer holds."""
        first, second = self.queues(10, 20)
        first.pair_queue.memory.count_queue(11_000)
        self.memory.used += 5_000
        self.relief.relieve()
        self.assertEqual((first.evicted, second.evicted), ([0], []))

    def test_many_peers_away(self) -> None:
        """Stanzas in the spool leave memory, even if each of many queues holds only a little."""
        self.queues(*[2] * 64)
        self.assertLessEqual(self.memory.used, self.memory.limit // 2)

    def test_what_is_kept_while_there_is_room(self) -> None:
        """A queue may keep a small part of all memory for what was just spooled, so that a short queue is not read back."""
        (queue,) = self.queues(5)
        self.relief.spooled(queue)
        self.assertEqual(queue.evicted, [1_000])

    def test_forgotten(self) -> None:
        """A queue that was removed is not asked."""
        first, second = self.queues(10, 20)
        self.relief.forget(second)
        self.memory.used += 50_000
        self.relief.relieve()
        self.assertEqual((first.evicted, second.evicted), ([0], []))
