"""The sweep, once a second: it bounces stanzas whose hold time is over, in memory or on the disk, and forgets idle queues."""

from __future__ import annotations

from functools import partial

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.delivery.services import DeliveryServices
from s2sgw.queue.bounce import BOUNCED_AT_ONCE
from s2sgw.spool.interface import Spooled, SpoolError
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Pair

#: Expired stanzas that are read from the spool at once.
EXPIRED_AT_ONCE = 500


class ExpirySweep:
    """The sweep. Call `sweep` once a second."""

    def __init__(self, queues: DeliveryQueues, services: DeliveryServices) -> None:
        self._queues = queues
        self._services = services
        self._question = services.expiry_question
        #: queues with more expired stanzas, and expired rows of the spool, which are bounced in the next steps
        self._late: dict[DeliveryQueue, None] = {}
        self._rows: list[tuple[Pair, list[Spooled]]] = []
        #: the number of the question: answers to earlier ones are of no use (`start_anew`)
        self._number = 0
        self._step_is_due = False
        self._stopped = False

    def stop(self) -> None:
        """Sweep no more: the spool is being closed."""
        self._stopped = True

    def sweep(self) -> None:
        """Bounce expired stanzas. Raises `ExceptionGroup` after all queues were swept, if some could not be."""
        if self._stopped:
            return
        services, now = self._services, self._services.clock.seconds()
        services.window.offer_again()
        services.holds.write_again()
        errors: list[Exception] = []
        room = BOUNCED_AT_ONCE
        for queue in self._queues:
            if queue.is_quiet(now):
                continue
            try:
                room -= self._sweep(queue, now, room)
            except Exception as error:  # the other queues are still swept
                errors.append(error)
        self._go_on()
        if services.spools and services.spool.count and not self._question.open and not services.relief.memory.full:
            self._question.open = True
            services.spool.expired(now, EXPIRED_AT_ONCE, partial(self._expired, self._number))
        if errors:
            raise ExceptionGroup(f"{len(errors)} queues could not be swept", errors)

    def _sweep(self, queue: DeliveryQueue, now: float, at_most: int) -> int:
        """Bounce up to `at_most` stanzas of a queue that have expired. Return how many."""
        expired = queue.expire(now, at_most)
        if queue.pair_queue.has_expired(now):
            self._late[queue] = None
        queue.relieve()
        if queue.idle:
            self._queues.forget(queue.pair)
        return expired

    def _go_on(self) -> None:
        """Schedule the next step, if more has expired."""
        if (self._late or self._rows) and not self._step_is_due:
            self._step_is_due = True
            self._services.soon(self._step)

    def _step(self) -> None:
        """Bounce some more expired stanzas. The queues take turns."""
        self._step_is_due = False
        try:
            if self._late:
                queue = next(iter(self._late))
                del self._late[queue]
                if not queue.forgotten:
                    self._sweep(queue, self._services.clock.seconds(), BOUNCED_AT_ONCE)
            elif self._rows:
                self._expire_rows()
        finally:
            self._go_on()

    def start_anew(self) -> None:
        """Forget which rows of the spool have expired: queues were cut off, and the rows may have another home by now."""
        self._number += 1
        self._rows.clear()
        self._question.open = False

    def _expired(self, number: int, spooled: list[Spooled] | SpoolError) -> None:
        if number != self._number or self._stopped:
            return
        if isinstance(spooled, SpoolError):
            self._question.open = False
            self._services.window.trouble(Ending(Cause.SPOOL_UNREADABLE, str(spooled)))
            return
        by_pair: dict[Pair, list[Spooled]] = {}
        for row in spooled:
            by_pair.setdefault(row.pair, []).append(row)
        for pair, rows in by_pair.items():
            self._rows += [(pair, rows[at : at + BOUNCED_AT_ONCE]) for at in range(0, len(rows), BOUNCED_AT_ONCE)]
        self._rows.reverse()
        self._expire_rows()
        self._go_on()

    def _expire_rows(self) -> None:
        """Bounce some rows in the spool's answer.

        The question stays open until all are bounced. Stanzas that left meanwhile are skipped.
        """
        try:
            if self._rows:
                pair, rows = self._rows.pop()
                queue = self._queues.find(pair)
                if queue is not None:
                    queue.expire_spooled(rows)
        finally:
            if not self._rows:
                self._question.open = False
                for queue in self._queues:
                    if queue.spooled_range.ended:
                        queue.spooled_range.forget()
