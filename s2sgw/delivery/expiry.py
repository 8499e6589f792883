"""The sweep, once a second: it bounces stanzas whose hold time is over, in memory or on the disk, and forgets idle queues."""

from __future__ import annotations

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.delivery.services import DeliveryServices
from s2sgw.spool.interface import Spooled, SpoolError
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Pair

#: Expired stanzas that are read from the spool at once.
EXPIRED_AT_ONCE = 500


class ExpirySweep:
    """`sweep` is to be called once a second."""

    def __init__(self, queues: DeliveryQueues, services: DeliveryServices) -> None:
        self._queues = queues
        self._services = services
        self._question = services.expiry_question

    def sweep(self) -> None:
        """Bounce what has expired. Raises `ExceptionGroup` after all queues were swept, if some could not be."""
        services, now = self._services, self._services.clock.seconds()
        services.window.offer_again()
        services.holds.write_again()
        errors: list[Exception] = []
        for queue in self._queues:
            try:
                self._sweep(queue, now)
            except Exception as error:  # the other queues are swept all the same
                errors.append(error)
        if services.spools and services.spool.count and not self._question.open and not services.relief.memory.full:
            self._question.open = True
            services.spool.expired(now, EXPIRED_AT_ONCE, self._expired)
        if errors:
            raise ExceptionGroup(f"{len(errors)} queues could not be swept", errors)

    def _sweep(self, queue: DeliveryQueue, now: float) -> None:
        queue.expire(now)
        queue.relieve()
        if queue.idle:
            self._queues.forget(queue.pair)

    def _expired(self, spooled: list[Spooled] | SpoolError) -> None:
        self._question.open = False
        if isinstance(spooled, SpoolError):
            self._services.window.trouble(Ending(Cause.SPOOL_UNREADABLE, str(spooled)))
            return
        by_pair: dict[Pair, list[Spooled]] = {}
        for row in spooled:
            by_pair.setdefault(row.pair, []).append(row)
        for pair, rows in by_pair.items():
            self._queues.queue(pair).expire_spooled(rows)
        for queue in self._queues:
            queue.spooled_range.forget()
