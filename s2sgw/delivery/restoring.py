"""Delivers the queues that a start finds in the spool: a bounded number at a time, those that have waited longest first.

Without the bound each queue would have a stream, and a part of its stanzas in memory, before the first one was empty. A queue
keeps its place until it is empty, or its attempt has failed, or it has taken too long. So a slow queue delays no other. While
others wait, the stream of a finished queue is closed, as in Postfix's connection cache, unless new stanzas came for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.spooling import READ_AGAIN
from s2sgw.spool.interface import LaneSummary, Spool, SpoolError
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Pair

#: Queues at a time.
AT_ONCE = 128
#: Queues that begin in one turn of the reactor.
BEGUN_AT_ONCE = 128
#: Seconds after which a queue gives its place to the next. It continues without one.
TURN_SECONDS = 5.0
#: Seconds by which a timer may be early, because floating-point numbers are rounded.
ROUNDING_SECONDS = 0.001


class RestorableQueues(Protocol):
    """The interface of the registry of queues."""

    def queue(self, pair: Pair) -> DeliveryQueue: ...

    def begin_behind(self, position: int) -> None: ...


class StartupRestore:
    """Makes a queue for each pair in the spool, and lets `at_once` queues deliver at a time."""

    def __init__(
        self, queues: RestorableQueues, spool: Spool, clock: IReactorTime, trouble: Callable[[Ending], None],
        at_once: int = AT_ONCE,
    ) -> None:
        """Take the registry. `trouble` is called when the spool cannot be read."""
        self._queues = queues
        self._spool = spool
        self._clock = clock
        self._trouble = trouble
        self._at_once = at_once
        self._waiting: dict[DeliveryQueue, None] = {}
        #: queues that deliver -> the position behind the stanzas that they began with
        self._begun: dict[DeliveryQueue, int] = {}
        #: queues that have a place -> the time since when; the first is the oldest
        self._placed: dict[DeliveryQueue, float] = {}
        self._timer: IDelayedCall | None = None
        self._next_turn: IDelayedCall | None = None
        self._filling = False

    def __len__(self) -> int:
        """Return the number of queues that have not had their turn."""
        return len(self._waiting)

    def restore_all(self) -> Deferred[int]:
        """Make a queue for each pair in the spool, after a start. The result is their number, when the spool could be read.

        Until then no stream may be accepted: a new stanza must go after those in the spool.
        """
        restored: Deferred[int] = Deferred()

        def listed(summaries: list[LaneSummary] | SpoolError) -> None:
            if isinstance(summaries, SpoolError):
                self._trouble(Ending(Cause.SPOOL_UNREADABLE, f"{summaries}; no peer is admitted until it can be read"))
                self._clock.callLater(READ_AGAIN, self._spool.queues, listed)
            else:
                self._queues.begin_behind(self._spool.next_position)
                restored.callback(self.restore(summaries))

        self._spool.queues(listed)
        return restored

    def restore(self, summaries: Iterable[LaneSummary]) -> int:
        """Make the queues that `summaries` name, at any time. Return their number. None of them may hold anything yet."""
        queues = []
        for summary in sorted(summaries, key=attrgetter("oldest")):
            if summary.count:
                queue = self._queues.queue(summary.pair)
                queue.pair_queue.restore(summary.first, summary.last, summary.count, summary.oldest)
                queue.count_wait()
                queues.append(queue)
        self.add(queues)
        return len(queues)

    def add(self, queues: Iterable[DeliveryQueue]) -> None:
        """Let queues wait for their turn, in this order. The first of them begin now."""
        for queue in queues:
            self._waiting[queue] = None
            queue.restore_turn = self
        self._fill()

    def start_now(self, queue: DeliveryQueue) -> None:
        """Let `queue` begin now: it is needed before its turn."""
        if queue in self._waiting:
            del self._waiting[queue]
            queue.restore_turn = None
            self._begin(queue)

    def reconsider(self, queue: DeliveryQueue) -> None:
        """Check whether `queue` is done, or has nothing left before its turn: its state has changed."""
        if queue in self._waiting and not len(queue.pair_queue):
            del self._waiting[queue]
            queue.restore_turn = None
            return
        if queue not in self._begun or (len(queue.pair_queue) and queue.next_hop.state in ("connecting", "ready")):
            return
        queue.restore_turn = None
        self._placed.pop(queue, None)
        if self._begun.pop(queue) == queue.pair_queue.next_position and self._waiting and not len(queue.pair_queue):
            queue.next_hop.release_stream()
        self._fill()

    def _fill(self) -> None:
        """Give places to waiting queues, to some in each turn of the reactor: those of barred peers are done at once.

        A queue that is done calls this again: one loop serves all.
        """
        if self._filling or self._next_turn is not None:
            return
        self._filling = True
        try:
            for _ in range(BEGUN_AT_ONCE):
                if not self._waiting or len(self._placed) >= self._at_once:
                    break
                queue = next(iter(self._waiting))
                del self._waiting[queue]
                self._begun[queue], self._placed[queue] = queue.pair_queue.next_position, self._clock.seconds()
                self._begin(queue)
                self.reconsider(queue)
        finally:
            self._filling = False
            self._watch()

    def _begin(self, queue: DeliveryQueue) -> None:
        """Let `queue` deliver. A queue that an operator holds waits for the release."""
        if queue.next_hop.ready:
            queue.next_hop_ready()
        elif not queue.held:
            queue.next_hop.request_delivery()

    def _watch(self) -> None:
        if self._waiting and len(self._placed) < self._at_once:
            self._next_turn = self._clock.callLater(0, self._go_on)
        if self._waiting and self._placed and self._timer is None:
            began = next(iter(self._placed.values()))
            delay = max(0.0, began + TURN_SECONDS - self._clock.seconds())
            self._timer = self._clock.callLater(delay, self._pass_slow_ones)

    def _go_on(self) -> None:
        self._next_turn = None
        self._fill()

    def _pass_slow_ones(self) -> None:
        self._timer = None
        before = self._clock.seconds() - TURN_SECONDS + ROUNDING_SECONDS
        for queue in [queue for queue, began in self._placed.items() if began <= before]:
            del self._placed[queue]
        self._fill()

    def stop(self) -> None:
        """Give no more turns."""
        self._waiting.clear()
        for timer in (self._timer, self._next_turn):
            if timer is not None:
                timer.cancel()
        self._timer = self._next_turn = None
