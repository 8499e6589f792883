"""The next hop of each delivery queue: the existing server for a local domain, the federation for any other."""

from __future__ import annotations

from dataclasses import dataclass

from s2sgw.composition.backends import Backends
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.composition.federation import Federation
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue


@dataclass(frozen=True, slots=True)
class Transports:
    """The `delivery.queue_table.TransportTable` of a whole gateway."""

    running: RunningConfiguration
    backends: Backends
    federation: Federation

    def next_hop(self, queue: DeliveryQueue) -> NextHop:
        """Return a new next hop for `queue`.

        The federation carries nothing in the name of a domain that is not ours: such stanzas are bounced on the other leg.
        """
        if self.running.is_inbound(queue.pair) or not self.running.is_own(queue.pair.sender):
            return self.backends.next_hop(queue)
        return self.federation.next_hop(queue)
