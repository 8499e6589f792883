"""Which next hop serves a delivery queue, as Postfix's transport(5) table says which agent delivers to a domain."""

from __future__ import annotations

from typing import Protocol

from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue


class TransportTable(Protocol):
    """Chooses the next hop of each delivery queue by its recipient."""

    def next_hop(self, queue: DeliveryQueue) -> NextHop:
        """Return a new next hop for `queue`. Called once for each queue, when it is made."""
