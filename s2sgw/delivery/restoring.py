"""The lanes that a start found in the spool, brought one after another: so many at a time, those that wait longest first.

All at once they would each have a stream, and a part of its stanzas in memory, before the first of them was done. A lane has
its place from its turn until it is empty, or its attempt came to nothing, or it has taken too long: what is slow holds nobody
up. While others wait, the stream of one that is done is closed (Postfix's connection cache does the same), unless what came
since shows that it is in use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.delivery.next_hop import NextHop
from s2sgw.queue.pair_queue import PairQueue

#: Lanes at a time.
AT_ONCE = 128
#: Seconds after which one gives its place to the next, and goes on without.
PATIENCE = 5.0


class Restored(Protocol):
    """What is needed of a flow."""

    pair_queue: PairQueue
    next_hop: NextHop
    held: bool
    backlog: StartupRestore | None

    def drain(self) -> None: ...


class StartupRestore:
    """Flows in the order in which they come, `at_once` of them under way."""

    def __init__(self, clock: IReactorTime, at_once: int = AT_ONCE) -> None:
        self._clock = clock
        self._at_once = at_once
        self._waiting: dict[Restored, None] = {}
        #: under way: the position behind those stanzas that each began with
        self._begun: dict[Restored, int] = {}
        #: those of them that have a place: since when; the first is the oldest
        self._placed: dict[Restored, float] = {}
        self._timer: IDelayedCall | None = None
        self._filling = False

    def __len__(self) -> int:
        """How many have not had their turn."""
        return len(self._waiting)

    def add(self, queues: Iterable[Restored]) -> None:
        """These wait, in this order; the first of them go on now."""
        for queue in queues:
            self._waiting[queue] = None
            queue.backlog = self
        self._fill()

    def hurry(self, queue: Restored) -> None:
        """Somebody asks for this one: it does not wait for a place."""
        if queue in self._waiting:
            del self._waiting[queue]
            queue.backlog = None
            self._begin(queue)

    def look(self, queue: Restored) -> None:
        """Something changed for `flow`: it may be done."""
        if queue not in self._begun or (len(queue.pair_queue) and queue.next_hop.state in ("connecting", "ready")):
            return
        queue.backlog = None
        self._placed.pop(queue, None)
        if self._begun.pop(queue) == queue.pair_queue.next_position and self._waiting and not len(queue.pair_queue):
            queue.next_hop.release_stream()
        self._fill()

    def _fill(self) -> None:
        """Each that begins may be done at once, and ask for the next: one loop serves them all."""
        if self._filling:
            return
        self._filling = True
        while self._waiting and len(self._placed) < self._at_once:
            queue = next(iter(self._waiting))
            del self._waiting[queue]
            self._begun[queue], self._placed[queue] = queue.pair_queue.next_position, self._clock.seconds()
            self._begin(queue)
            self.look(queue)
        self._filling = False
        self._watch()

    def _begin(self, queue: Restored) -> None:
        """One that was asked for already goes its way; one that the operator holds waits for his word."""
        if queue.next_hop.ready:
            queue.drain()
        elif not queue.held:
            queue.next_hop.request_delivery()

    def _watch(self) -> None:
        if self._waiting and self._placed and self._timer is None:
            began = next(iter(self._placed.values()))
            self._timer = self._clock.callLater(max(0.0, began + PATIENCE - self._clock.seconds()), self._look_at_slow)

    def _look_at_slow(self) -> None:
        self._timer = None
        before = self._clock.seconds() - PATIENCE
        for queue in [queue for queue, began in self._placed.items() if began <= before]:
            del self._placed[queue]
        self._fill()

    def stop(self) -> None:
        """Nobody gets a turn any more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
