"""Builds the delivery agent of each queue to another server."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from twisted.internet.interfaces import IReactorTime

from s2sgw.delivery.ack_selection import AckSelection
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.outbound_stream import StreamProvider
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.queue.backoff import BackOff
from s2sgw.reporting.record import EventRecord


@dataclass(frozen=True, slots=True)
class AgentBuilder:
    """The services that all delivery agents share."""

    record: EventRecord
    back_off: BackOff
    random: Random
    clock: IReactorTime
    ack_selection: AckSelection

    def agent(self, queue: DeliveryQueue, provider: StreamProvider) -> DeliveryAgent:
        """Return a new agent that delivers the stanzas of `queue` to the next server, on streams of `provider`."""
        return DeliveryAgent(queue, provider, self.record, self.back_off, self.random, self.clock, self.ack_selection)
