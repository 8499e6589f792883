"""The graceful stop: no more stanzas are accepted, as many as possible are passed on, and the spool keeps the rest.

First, stanzas in flight are acknowledged, while the streams towards us are open: a next server without XEP-0198 answers our ping
(R41) on one of those. Then every stream that brings stanzas is closed (`runtime.stream_closing`), also those of ours that carry
stanzas back (XEP-0288).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel

from s2sgw.delivery.custody import Custody, LostStanzas
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.runtime.stream_closing import ACK_SECONDS, BringingStream, close_streams, wait_while
from s2sgw.xmpp.ending import Cause, Ending

#: Seconds in which the next servers can still take waiting stanzas.
DELIVER_SECONDS = 5.0
#: Seconds without an acknowledgement after which a next server counts as silent, if the disk is full.
SILENT_SECONDS = 2.5
#: Pairs that get a log line of their own if some of their stanzas are lost.
PAIRS_LOGGED = 20

_LOST = "at the stop these stanzas were on no disk, and no server took them or an error for them; those written may have arrived"
_UNANSWERED = (
    "the engine was given these stanzas and has not answered: if it has stored them, a node delivers them, otherwise they are "
    "lost; those written may have arrived"
)


class StanzaSources(Protocol):
    """The sources of stanzas."""

    @property
    def admitting(self) -> bool:
        """Whether some stanzas were read whose queue is still being looked up."""

    def bringing_streams(self) -> Iterable[BringingStream]:
        """Return the open streams of others."""

    def own_bringing_streams(self) -> Iterable[BringingStream]:
        """Return the open streams of ours that carry stanzas back."""


class Shutdown:
    """One stop. `run` carries out the steps, each within a bounded time.

    Each of `others` stops another source of stanzas. Its Deferred fires when the last stanza has come.
    `in_engine`: the spool is in the engine of a cluster, which may have stored what it has not answered for.
    """

    log = Logger()

    def __init__(
        self, custody: Custody, clock: IReactorTime, sources: StanzaSources, others: Sequence[Callable[[], Deferred[None]]] = (),
        *, in_engine: bool = False,
    ) -> None:
        self._custody = custody
        self._in_engine = in_engine
        self._queues = custody.queues
        self._clock = clock
        self._sources = sources
        self._others = others
        self._answering: list[DeliveryQueue] = []
        #: the first position in flight of each queue, and since when it has been the first, as far as that was seen
        self._in_flight: dict[DeliveryQueue, tuple[int, float]] = {}

    async def run(self) -> None:
        """Carry out all steps. A step that fails is logged, and the next one follows: what is in memory must reach the spool."""
        for step in (
            self.stop_writing, self.await_in_flight, self.close_bringing_streams, self.deliver_remaining,
            self._custody.hand_to_spool, self.pass_on_rejected, self.close_late_streams, self.write_what_is_in_memory_alone,
            self._custody.close, self.log_lost,
        ):
            try:
                await maybeDeferred(step)
            except Exception:
                self.log.failure("a step of the stop failed")

    def stop_writing(self) -> None:
        """Write nothing more, so that everything in flight can be acknowledged."""
        self._custody.quiesce()
        self._note_in_flight()

    def _note_in_flight(self) -> None:
        """Note what each next server has to acknowledge next."""
        now, before = self._clock.seconds(), self._in_flight
        firsts = [(queue, queue.pair_queue.in_flight_positions.start) for queue in self._queues if queue.pair_queue.in_flight]
        known = ((queue, first, before.get(queue, (0, 0.0))) for queue, first in firsts)
        self._in_flight = {queue: note if note[0] == first else (first, now) for queue, first, note in known}

    async def await_in_flight(self) -> None:
        """Wait until everything in flight is acknowledged."""
        await self._while(self._awaits_acks, ACK_SECONDS)

    def _is_admitting(self) -> bool:
        return self._sources.admitting

    def _awaits_acks(self) -> bool:
        return any(queue.next_hop.ready and queue.pair_queue.in_flight for queue in self._queues)

    async def close_bringing_streams(self) -> None:
        """Close all streams that bring stanzas. Note before which next servers have acknowledged everything."""
        self._answering = [queue for queue in self._queues if not queue.pair_queue.in_flight]
        await self.close_streams([*self._sources.bringing_streams(), *self._sources.own_bringing_streams()], self._others)

    async def close_streams(
        self, streams: Iterable[BringingStream], others: Sequence[Callable[[], Deferred[None]]] = (),
    ) -> None:
        """Close the streams that bring stanzas. Stanzas that were read enter their queues."""
        await close_streams(self._clock, self._is_admitting, streams, Ending(Cause.SHUTDOWN), others)

    async def deliver_remaining(self) -> None:
        """Pass waiting stanzas on to the next servers that have acknowledged everything, one chunk at a time.

        Stanzas for other servers stay in the spool as not written. Without a spool, all are written.
        """
        spools = self._custody.services.spools
        answering = [queue for queue in self._answering if not queue.next_hop.acks_arrive_elsewhere]
        chosen = answering if spools else list(self._queues)
        for queue in chosen:
            queue.resume(one_chunk=spools)
        self._note_in_flight()
        await self._while(partial(_are_delivering, chosen), DELIVER_SECONDS)
        for queue in chosen if spools else ():
            queue.quiesce()

    async def pass_on_rejected(self) -> None:
        """Wait until the stanzas that the spool had no room for are passed on, or bounced.

        What waits for a next server that has acknowledged nothing for `SILENT_SECONDS`, and cannot be sent at once, is bounced.
        Without a spool, wait until the errors of those that were bounced are passed on.
        """
        for _ in range(2):  # a server may have fallen silent just now
            self._note_in_flight()
            since = self._clock.seconds() - SILENT_SECONDS
            for queue in self._queues:
                queue.overflow.silent = queue in self._in_flight and self._in_flight[queue][1] <= since
            await self._while(self._rejected_may_yet_go, DELIVER_SECONDS / 2)

    def _rejected_may_yet_go(self) -> bool:
        return any(map(self._may_yet_go, self._queues))

    def _may_yet_go(self, queue: DeliveryQueue) -> bool:
        if self._custody.services.spools and not queue.overflow.active:
            return False
        if queue.pair_queue.pending:
            ways = (queue, self._queues.queue(queue.pair.inverse))
            return any(way.next_hop.state in ("connecting", "ready") for way in ways)
        # acknowledgements cannot arrive on a stream towards us any more
        return queue.next_hop.ready and not queue.next_hop.acks_arrive_elsewhere and bool(queue.pair_queue.in_flight)

    async def close_late_streams(self) -> None:
        """Close the streams of ours that were opened to pass on the rest: they may have brought stanzas too."""
        if late := list(self._sources.own_bringing_streams()):
            await self.close_streams(late)
            await self._custody.hand_to_spool()

    def write_what_is_in_memory_alone(self) -> None:
        """Write the stanzas that the disk did not take to any server that is there, also to one that does not acknowledge.

        If the sender's server does not keep them, all are written, however much is in flight, but none that waits behind stanzas
        that only the spool has: these would be in doubt for nothing.
        """
        for queue in self._queues:
            if queue.pair_queue.unspooled:
                rejected = queue.overflow.active or not self._custody.services.spools
                waiting = queue.pair_queue.waiting if rejected and queue.pair_queue.spooled_range is None else ()
                queue.last_write = any(not (held.durable or held.kept_upstream) for held in waiting)
                queue.resume()

    def log_lost(self) -> None:
        """Log how many stanzas of each pair are lost. The disk, the next servers and the senders' servers took none of them.

        Those that an engine may have stored are logged apart. Its answers change nothing from now on.
        """
        if not self._in_engine:
            self._log_rows(self._custody.lost(), LogLevel.critical, "stanzas lost", _LOST)
            return
        self._custody.services.window.over = True
        self._log_rows(self._custody.lost(unanswered=False), LogLevel.critical, "stanzas lost", _LOST)
        self._log_rows(self._custody.lost(unanswered=True), LogLevel.warn, "stanzas may be stored", _UNANSWERED)

    def _log_rows(self, lost: Sequence[LostStanzas], level: LogLevel, event: str, detail: str) -> None:
        for (sender, recipient), stanzas, written in lost[:PAIRS_LOGGED]:
            names = {"sender": str(sender), "recipient": str(recipient)}
            self.log.emit(level, event=event, **names, stanzas=stanzas, written=written, detail=detail)
        if rest := lost[PAIRS_LOGGED:]:
            stanzas, written = sum(row.stanzas for row in rest), sum(row.written for row in rest)
            self.log.emit(level, event=event, pairs=len(rest), stanzas=stanzas, written=written, detail=detail)

    def _while(self, busy: Callable[[], bool], at_most: float) -> Deferred[None]:
        return wait_while(self._clock, busy, at_most)


def _are_delivering(queues: Sequence[DeliveryQueue]) -> bool:
    return any(queue.next_hop.ready and len(queue.pair_queue) and not queue.held for queue in queues)

