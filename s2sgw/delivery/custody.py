"""All of custody: the delivery queues, their shared services, and the actions on all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import NamedTuple

from twisted.internet.defer import Deferred, gatherResults

from s2sgw.delivery.expiry import ExpirySweep
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.delivery.restoring import StartupRestore
from s2sgw.delivery.services import DeliveryServices
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Pair

#: Seconds in which a drop that is under way at a stop may go on. What is left of it then is delivered after the next start.
DROP_SECONDS = 5.0


class LostStanzas(NamedTuple):
    """The stanzas of a pair that were neither passed on nor answered, and are on no disk; and how many of these were written."""

    pair: Pair
    stanzas: int
    written: int


@dataclass(frozen=True, slots=True)
class Custody:
    """Built by `composition.custody`. The methods are the steps of a stop that affect all queues (`runtime.shutdown`)."""

    queues: DeliveryQueues
    services: DeliveryServices
    restore: StartupRestore
    expiry: ExpirySweep

    def quiesce(self) -> None:
        """Stop all writing. Stanzas in custody are spooled from now on, even beyond the spool's bounds."""
        memory = self.services.relief.memory
        self.queues.quiesced = True
        self.services.spool.raise_limit(max(memory.limit, memory.used))
        for queue in self.queues:
            queue.quiesce()
        self.services.window.offer_again()

    async def hand_to_spool(self) -> None:
        """Give the spool the stanzas that were not passed on, and bounce those that it does not take.

        Return when the spool has answered.
        """
        self.restore.stop()
        clock = self.services.clock
        until = clock.seconds() + DROP_SECONDS
        while True:
            busy = [queue for queue in self.queues if queue.spooling]  # newer stanzas go after those that the spool was given
            for queue in self.queues:
                queue.hand_to_spool()
            await self._answered()
            if not (busy or (clock.seconds() < until and any(queue.ending for queue in self.queues))):
                return

    def _answered(self) -> Deferred[object]:
        """Return a Deferred that fires when the spool has answered all calls so far. It answers in order."""
        answered: Deferred[object] = Deferred()
        self.services.spool.queues(answered.callback)
        return answered

    def lost(self) -> list[LostStanzas]:
        """Return the lost stanzas of each pair, the most first. Call this at the end of a stop, after `close`."""
        rows = []
        for queue in self.queues:
            items = [item for item in queue.pair_queue.only_in_memory() if not item.kept_upstream]
            if items:
                written = sum(len(item.stanzas) for item in items if item.written)
                rows.append(LostStanzas(queue.pair, sum(len(item.stanzas) for item in items), written))
        return sorted(rows, key=attrgetter("stanzas"), reverse=True)

    async def close(self) -> None:
        """Close the streams of all queues, then the spool. Stanzas still in flight are given to the spool once more."""
        closed = [queue.next_hop.stop(Cause.SHUTDOWN) for queue in self.queues]
        for queue in self.queues:
            queue.pair_queue.take_back()
            queue.spool_now()
        spool: Deferred[None] = Deferred()
        self.services.spool.close(partial(spool.callback, None))
        await gatherResults([*closed, spool])
