"""Makes room in memory: stanzas that the spool has leave memory if others need the room, from any queue."""

from __future__ import annotations

from operator import attrgetter
from typing import Protocol

from s2sgw.queue.memory import SharedMemory
from s2sgw.queue.pair_queue import PairQueue

#: The part of all memory that one queue may use for stanzas that are also in the spool, while less than half of all is used.
RESIDENT_PART = 64


class EvictableQueue(Protocol):
    """The interface of a delivery queue that keeps stanzas in memory that are also in the spool."""

    pair_queue: PairQueue

    def evict(self, at_most: int) -> None:
        """Evict stanzas that the spool has, until memory holds about `at_most` bytes of the queue."""


_held_by_peer = attrgetter("pair_queue.memory.held")


class MemoryRelief:
    """Lists the queues that can evict stanzas, and makes them do so: first the queues of the peer that holds most."""

    def __init__(self, memory: SharedMemory) -> None:
        self.memory = memory
        #: bytes of stanzas that are also in the spool and that one queue may keep while there is room
        self.resident = memory.limit // RESIDENT_PART
        self._evictable: dict[EvictableQueue, None] = {}

    def spooled(self, queue: EvictableQueue) -> None:
        """Note that the spool has more of `queue` now. Keep as much of it in memory as there is room for."""
        short = self.memory.short or queue.pair_queue.memory.tight
        queue.evict(0 if short else self.resident)
        if short:
            self._evictable.pop(queue, None)
            self.relieve()
        elif queue.pair_queue.waiting:
            self._evictable[queue] = None

    def keeps(self, queue: EvictableQueue) -> None:
        """Note that `queue` has stanzas in memory that are also in the spool."""
        if queue.pair_queue.waiting:
            self._evictable[queue] = None
            self.relieve()

    def forget(self, queue: EvictableQueue) -> None:
        """Forget a queue."""
        self._evictable.pop(queue, None)

    def relieve(self) -> None:
        """Evict until at most half of the memory is used, or nothing is left to evict."""
        if self.memory.short and self._evictable:
            for queue in sorted(self._evictable, key=_held_by_peer, reverse=True):
                self._evict(queue)

    def _evict(self, queue: EvictableQueue) -> None:
        if self.memory.short:
            del self._evictable[queue]
            queue.evict(0)
