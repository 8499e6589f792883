"""The registry of delivery queues. It makes, finds and forgets the queue of a pair, and does nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol
from weakref import WeakValueDictionary

from s2sgw.delivery.iq_replies import PingReplies
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.services import DeliveryServices
from s2sgw.queue.entries import NO_POSITIONS, HoldTimes
from s2sgw.queue.memory import PeerMemory
from s2sgw.queue.pair_queue import PairQueue
from s2sgw.reporting.record import Direction
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.registered_domain import registered_domain


class TransportTable(Protocol):
    """Chooses the next hop of each delivery queue by its recipient (Postfix: transport(5))."""

    def next_hop(self, queue: DeliveryQueue) -> NextHop:
        """Return a new next hop for `queue`. Called once for each queue, when it is made."""


class DeliveryQueues:
    """All queues, by pair.

    `hold_times` returns how long the stanzas of a pair may wait, `is_inbound` whether a pair's stanzas go to a domain of ours.
    """

    def __init__(self, hold_times: Callable[[Pair], HoldTimes], is_inbound: Callable[[Pair], bool]) -> None:
        self._hold_times = hold_times
        self._is_inbound = is_inbound
        self._services: DeliveryServices
        self._transports: TransportTable
        self._queues: dict[Pair, DeliveryQueue] = {}
        self._towards: dict[Domain, dict[Pair, DeliveryQueue]] = {}
        self._memory: WeakValueDictionary[str, PeerMemory] = WeakValueDictionary()
        #: the queues of each home, if there are several nodes (`index_by`)
        self._home: Callable[[Pair], Domain] | None = None
        self._of_home: dict[Domain, dict[Pair, DeliveryQueue]] = {}
        self._home_of: dict[Pair, Domain] = {}
        #: a position behind all those of forgotten queues, so that new stanzas never get a position that the spool still has
        self._next_position = 1
        #: whether the gateway stops: new queues then write nothing either
        self.quiesced = False

    def serve(self, services: DeliveryServices) -> None:
        """Give `services` to each queue. Call this once: the services find queues here."""
        self._services = services

    def attach(self, transports: TransportTable) -> None:
        """Take the next hops of all queues from `transports`. Call this before the first queue is made.

        Next hops feed queues (answers, stanzas of the same stream), and queues feed next hops. This call closes that circle.
        """
        self._transports = transports

    def index_by(self, home: Callable[[Pair], Domain]) -> None:
        """List the queues by `home` of their pair from now on (`of_home`). Call this before the first queue is made."""
        self._home = home

    def __iter__(self) -> Iterator[DeliveryQueue]:
        return iter(list(self._queues.values()))

    def queue(self, pair: Pair) -> DeliveryQueue:
        """Return the queue of `pair`, made at its first use. The caller has made sure that the pair is proven and resolved."""
        queue = self._queues.get(pair)
        return self._make(pair) if queue is None else queue

    def find(self, pair: Pair) -> DeliveryQueue | None:
        """Return the queue of `pair`, or None. It is never made here."""
        return self._queues.get(pair)

    def _make(self, pair: Pair) -> DeliveryQueue:
        holds = self._services.holds
        parked = holds.positions(pair)
        first = max(self._next_position, max(parked, default=0) + 1)
        pair_queue = PairQueue(pair, self._memory_of(pair), self._hold_times(pair), first)
        queue = self._queues[pair] = DeliveryQueue(pair_queue, self.direction(pair), self._services)
        self._towards.setdefault(pair.recipient, {})[pair] = queue
        if self._home is not None:
            home = self._home_of[pair] = self._home(pair)
            self._of_home.setdefault(home, {})[pair] = queue
        queue.next_hop = self._transports.next_hop(queue)
        queue.held, queue.parked, queue.quiesced = holds.holds(pair), frozenset(parked) if parked else NO_POSITIONS, self.quiesced
        return queue

    def _memory_of(self, pair: Pair) -> PeerMemory:
        """Return the memory of the peer of `pair`, the same for all queues of the registered domain."""
        domain = pair.sender if self._is_inbound(pair) else pair.recipient
        peer = registered_domain(domain.ascii)
        memory = self._memory.get(peer)
        if memory is None:
            memory = self._memory[peer] = PeerMemory(self._services.relief.memory)
        return memory

    def replies(self, pair: Pair) -> PingReplies:
        """Return the caught replies of the queue of `pair`."""
        return self.queue(pair).replies

    def holds_source(self, pair: Pair) -> bool:
        """Return whether the queue of `pair`, if there is one, stops a stream that feeds it from being read."""
        queue = self._queues.get(pair)
        return queue is not None and queue.holds_source

    def direction(self, pair: Pair) -> Direction:
        """Return the direction of the stanzas of `pair`."""
        return "inbound" if self._is_inbound(pair) else "outbound"

    def towards(self, domain: Domain) -> list[DeliveryQueue]:
        """Return the queues to `domain`."""
        return list(self._towards.get(domain, {}).values())

    def change_next_hop(self, queue: DeliveryQueue) -> None:
        """Give `queue` a new next hop: its recipient has another kind of server, or is a peer now."""
        queue.change_next_hop(self._transports.next_hop(queue), self.direction(queue.pair))

    def retry_now(self, peer: Domain, urged: bool = False) -> None:
        """Make the queues to `peer` try again now: it proved itself on its own stream, or (`urged`) an operator asks."""
        for queue in self.towards(peer):
            queue.retry_now(urged)

    def begin_behind(self, position: int) -> None:
        """Give new queues no position before this one."""
        self._next_position = max(self._next_position, position)

    def of_home(self, home: Domain) -> list[DeliveryQueue]:
        """Return the queues whose home is `home`."""
        return list(self._of_home.get(home, {}).values())

    def has_home(self, home: Domain) -> bool:
        """Return whether there is a queue whose home is `home`."""
        return home in self._of_home

    def forget(self, pair: Pair) -> None:
        """Forget a queue that is idle."""
        queue = self._remove(pair)
        self._services.holds.forget(pair)
        queue.dispose()

    def cut_off(self, home: Domain) -> None:
        """End the queues whose home is `home` at once, because another node has them (`DeliveryQueue.cut_off`).

        They are all ended before one of them is told anything, since each may look another one up.
        """
        ended: list[DeliveryQueue] = []
        while queues := self.of_home(home):  # the end of one may have made another
            for queue in queues:
                queue.cut_off()
            for queue in queues:
                self._remove(queue.pair)
            ended += queues
        for queue in ended:
            queue.relieve()

    def _remove(self, pair: Pair) -> DeliveryQueue:
        queue = self._queues.pop(pair)
        self.begin_behind(queue.pair_queue.next_position)
        _discard(self._towards, pair.recipient, pair)
        if pair in self._home_of:
            _discard(self._of_home, self._home_of.pop(pair), pair)
        self._services.relief.forget(queue)
        return queue


def _discard(index: dict[Domain, dict[Pair, DeliveryQueue]], key: Domain, pair: Pair) -> None:
    """Take a queue out of an index. A key without queues is forgotten."""
    queues = index[key]
    del queues[pair]
    if not queues:
        del index[key]
