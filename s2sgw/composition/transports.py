"""The next hop of each delivery queue: the existing server for a local domain, the federation for any other."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from s2sgw.composition.backends import Backends
from s2sgw.composition.federation import Federation
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.xmpp.jid import Domain


@dataclass(frozen=True, slots=True)
class Transports:
    """The `delivery.queue_table.TransportTable` of a whole gateway."""

    local_domains: Set[Domain]
    backends: Backends
    federation: Federation

    def next_hop(self, queue: DeliveryQueue) -> NextHop:
        """Return a new next hop for `queue`."""
        local = queue.pair.recipient in self.local_domains
        return self.backends.next_hop(queue) if local else self.federation.next_hop(queue)
