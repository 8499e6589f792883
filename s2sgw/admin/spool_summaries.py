"""The spool's part of each lane, and the stanzas in memory only, for the operator's tables."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.services import DeliveryServices
from s2sgw.net.slices import SlicedWork
from s2sgw.spool.interface import LaneSummary, SpoolError
from s2sgw.xmpp.jid import Pair

#: Seconds that a table waits for the spool. A disk that hangs must not hide the rest of the table.
SPOOL_SECONDS = 2.0
#: Stanzas that are examined in one step of the work.
AT_ONCE = 100


async def spool_summaries(services: DeliveryServices) -> Mapping[Pair, LaneSummary]:
    """Return what the spool has of each lane; nothing if it cannot be read, or not in time."""
    answered: Deferred[Any] = Deferred()

    def found(summaries: Any) -> None:
        if not answered.called:
            answered.callback(summaries)

    services.spool.queues(found)
    answered.addTimeout(SPOOL_SECONDS, services.clock)
    try:
        answer = await answered
    except TimeoutError:
        return {}
    return {} if isinstance(answer, SpoolError) else {summary.pair: summary for summary in answer}


def number_without_disk(queues: Iterable[DeliveryQueue]) -> SlicedWork[int]:
    """Return how many stanzas are in memory only, because the disk is full or fails. Each None is a step of the work."""
    total = 0
    for count, queue in enumerate(queues, 1):
        if queue.overflow.without_disk:
            for number, item in enumerate(list(queue.pair_queue.only_in_memory()), 1):
                total += len(item.stanzas)
                if number % AT_ONCE == 0:
                    yield None
        if count % AT_ONCE == 0:
            yield None
    return total


def unspooled_bytes(queue: DeliveryQueue) -> Generator[None, None, int]:
    """Return the size of the stanzas that are not on disk. Each None is a step of the work."""
    total = 0
    for number, held in enumerate(list(queue.pair_queue), 1):
        total += 0 if held.durable else len(held.stanza.data)
        if number % AT_ONCE == 0:
            yield None
    return total
