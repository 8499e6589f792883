"""All of custody: the delivery queues, their shared services, and the actions on all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import NamedTuple

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from s2sgw.delivery.expiry import ExpirySweep
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.delivery.restoring import StartupRestore
from s2sgw.delivery.services import DeliveryServices
from s2sgw.spool.interface import Spool
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Pair

log = Logger()

#: Seconds of a stop for stanzas that are bounced or dropped in steps. What is left of a drop then is delivered after the next
#: start; without a spool, the rest is bounced at once.
STEP_SECONDS = 5.0
#: Seconds without an answer of the spool after which a step of a stop goes on without it.
STALL_SECONDS = 10.0
#: Seconds between two looks whether the spool is stalled.
LOOK_SECONDS = 0.5
#: Queues that are handled in one turn of the reactor during a stop: a few milliseconds of work.
QUEUES_AT_ONCE = 25


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

        Return when the spool has answered, or is stalled. Without a spool, the stanzas are bounced.
        """
        self.restore.stop()
        until = self.services.clock.seconds() + STEP_SECONDS
        while True:
            for queue in self.queues:
                await self._end_steps(queue, until)
            if not self.services.spools:
                await self._bounce_rest(until)
                return
            busy = False
            async for queue in self._few_at_once(self.queues):
                busy = busy or queue.spooling  # newer stanzas go after those that the spool was given
                _guarded(queue.hand_to_spool)
            await self._answered()
            if not busy or self.services.spool.stalled:
                return

    async def _few_at_once(self, queues: Iterable[DeliveryQueue]) -> AsyncIterator[DeliveryQueue]:
        """Yield the queues, a few in each turn of the reactor. One that is forgotten meanwhile is empty."""
        for number, queue in enumerate(queues, 1):
            yield queue
            if number % QUEUES_AT_ONCE == 0:
                await self._turn()

    def _turn(self) -> Deferred[None]:
        """Return a Deferred that fires in one of the next turns of the reactor."""
        turn: Deferred[None] = Deferred()
        self.services.soon(partial(turn.callback, None))
        return turn

    async def _end_steps(self, queue: DeliveryQueue, until: float) -> None:
        """Wait for the steps in which stanzas of `queue` are bounced or dropped."""
        clock = self.services.clock
        while queue.ending and clock.seconds() < until:
            if queue.spooled_range.reading:
                await self._answered()
            await self._turn()

    async def _bounce_rest(self, until: float) -> None:
        """Without a spool: bounce all that waits, in steps. What is left at `until` is bounced at once: that loses nothing."""
        async for queue in self._few_at_once(self.queues):
            _guarded(queue.bounce_rest)
            await self._end_steps(queue, until)
            _guarded(queue.end_at_once)
        async for queue in self._few_at_once(self.queues):  # also those that were made just now, for the errors
            _guarded(queue.resume)

    def _answered(self) -> Deferred[None]:
        """Return a Deferred that fires when the spool has answered all calls so far, or is stalled. It answers in order."""
        wait = SpoolWait(self.services.spool, self.services.clock)
        self.services.spool.queues(wait.answered)
        return wait.over

    def lost(self, unanswered: bool | None = None) -> list[LostStanzas]:
        """Return the lost stanzas of each pair, the most first. Call this at the end of a stop, after `close`.

        `unanswered`: only those that the spool was given and has not answered for (True), or only all others (False).
        """
        rows = []
        for queue in self.queues:
            items = [item for item in queue.pair_queue.only_in_memory() if not item.kept_upstream]
            if unanswered is not None:
                items = [item for item in items if item.spooled is unanswered]
            if items:
                written = sum(len(item.stanzas) for item in items if item.written)
                rows.append(LostStanzas(queue.pair, sum(len(item.stanzas) for item in items), written))
        return sorted(rows, key=attrgetter("stanzas"), reverse=True)

    async def close(self) -> None:
        """Close the streams of all queues, then the spool. Stanzas still in flight are given to the spool once more.

        A spool that is stalled is not awaited.
        """
        closed = await self._stop_next_hops()
        async for queue in self._few_at_once(self.queues):
            _guarded(queue.pair_queue.take_back)
            _guarded(queue.spool_now)
        for queue in self.queues if self.services.spools else ():  # accepted meanwhile, such as errors
            if queue.pair_queue.unspooled and not queue.overflow.active:
                _guarded(queue.spool_now)
        wait = SpoolWait(self.services.spool, self.services.clock)
        self.expiry.stop()
        self.services.spool.close(wait.answered)
        await DeferredList([*closed, wait.over], consumeErrors=True)

    async def _stop_next_hops(self) -> list[Deferred[None]]:
        """Stop the next hops of all queues, also of those that are made meanwhile.

        The newest come first: most of these wait for a place, and would be given those of the older ones that stop.
        """
        stopped: dict[DeliveryQueue, Deferred[None]] = {}
        while left := [queue for queue in self.queues if queue not in stopped]:
            async for queue in self._few_at_once(reversed(left)):
                stopped[queue] = maybeDeferred(queue.next_hop.stop, Cause.SHUTDOWN)
        return list(stopped.values())


class SpoolWait:
    """The wait for an answer of `spool`.

    `over` fires with the answer, or when the spool has answered nothing for `STALL_SECONDS`.
    """

    def __init__(self, spool: Spool, clock: IReactorTime) -> None:
        self.over: Deferred[None] = Deferred()
        self._spool = spool
        self._clock = clock
        self._worked_at = clock.seconds()
        self._timer: IDelayedCall | None = clock.callLater(LOOK_SECONDS, self._look)

    def answered(self, _answer: object = None) -> None:
        """Take the answer. It may come after the wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._end()

    def _end(self) -> None:
        self._timer = None
        self.over.callback(None)

    def _look(self) -> None:
        now = self._clock.seconds()
        if not self._spool.stalled:
            self._worked_at = now
        if now - self._worked_at >= STALL_SECONDS:
            self._end()
        else:
            self._timer = self._clock.callLater(LOOK_SECONDS, self._look)


def _guarded(step: Callable[[], object]) -> None:
    """Do one step of one queue. If it fails, the other queues still have theirs."""
    try:
        step()
    except Exception:
        log.failure("a step of the stop failed for one queue")
