"""Stand-ins for the neighbours of what is tested: next hops, reactors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue


class Transports:
    """Takes every next hop from `next_hop(queue)`."""

    def __init__(self, next_hop: Callable[[DeliveryQueue], NextHop]) -> None:
        self.next_hop = next_hop


class ThreadlessReactor(MemoryReactorClock):
    """Calls at once what another thread would have called later."""

    def callFromThread(self, call: Any, *args: Any, **options: Any) -> None:
        call(*args, **options)
