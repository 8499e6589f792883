"""The spool's part of each lane, and the stanzas in memory only, for the operator's tables."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.services import DeliveryServices
from s2sgw.net.slices import SlicedWork
from s2sgw.spool.interface import LaneSummary, SpoolError
from s2sgw.xmpp.jid import Pair

#: Stanzas, or lanes, that are examined in one step of the work.
AT_ONCE = 100


async def spool_summaries(services: DeliveryServices) -> Sequence[LaneSummary]:
    """Return what the spool has of each lane; nothing if it cannot be read, or not in time.

    A spool that hangs must not hide the rest of a table.
    """
    answered: Deferred[Any] = Deferred()

    def found(summaries: Any) -> None:
        if not answered.called:
            answered.callback(summaries)

    services.spool.queues(found)
    answered.addTimeout(services.spool.table_seconds, services.clock)
    try:
        answer = await answered
    except TimeoutError:
        return []
    return [] if isinstance(answer, SpoolError) else answer


def by_pair(summaries: Iterable[LaneSummary]) -> Generator[None, None, Mapping[Pair, LaneSummary]]:
    """Return the summaries by their pairs. Each None is a step of the work."""
    found: dict[Pair, LaneSummary] = {}
    for number, summary in enumerate(summaries, 1):
        found[summary.pair] = summary
        if number % AT_ONCE == 0:
            yield None
    return found


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
