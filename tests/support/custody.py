"""Delivery queues as `composition.custody` builds them, with next hops of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from s2sgw.composition.custody import build_custody
from s2sgw.delivery.custody import Custody
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.ingress.filtering import StanzaFilters
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.policy.peers import PeerPolicies
from s2sgw.queue.entries import HoldTimes, UpstreamAck
from s2sgw.queue.evidence import ReceiptEvidence
from s2sgw.reporting.record import EventRecord
from s2sgw.spool.interface import Spool
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.fakes import Transports


def custody_of(
    clock: Any, record: EventRecord, is_local: Callable[[Domain], bool], next_hop: Callable[[DeliveryQueue], NextHop], *,
    memory: int = 1 << 20, hold_times: Callable[[Pair], HoldTimes] = lambda pair: HoldTimes(600, 30), spool: Spool | None = None,
    **options: Any,
) -> Custody:
    """Build the queues. Without `spool` there is no spool."""
    if spool is None:
        spool, options = MemorySpool(0, lambda call: call()), {**options, "spools": False}
    custody = build_custody(clock, record, spool, memory=memory, hold_times=hold_times, is_inbound=lambda pair: is_local(pair.recipient), **options)
    custody.queues.attach(Transports(next_hop))
    return custody


def ingress_services(custody: Custody, peers: PeerPolicies) -> IngressServices:
    services = custody.services
    filters = StanzaFilters(peers, services.clock)
    return IngressServices(custody.queues, services.bounces, services.clock, services.record, filters, soon=services.soon)


def replacing(queue: DeliveryQueue, name: str, act: Callable[..., object]) -> Callable[..., object]:
    """Return a method to patch `DeliveryQueue` with: it calls `act` for `queue`, and does as before for others."""
    before = getattr(DeliveryQueue, name)
    return lambda self, *args: act(*args) if self is queue else before(self, *args)


def stop(custody: Custody) -> Deferred[None]:
    """Spool the held stanzas, and close."""
    async def stopped() -> None:
        await custody.hand_to_spool()
        await custody.close()

    return Deferred.fromCoroutine(stopped())


class Receipt(UpstreamAck):
    """A receipt that calls `settled` with the evidence of the last stanza."""

    def __init__(self, total: int, settled: Callable[[], object] = lambda: None) -> None:
        super().__init__(total)
        self._settled = settled
        #: the label of each piece of evidence, and the number of its stanzas
        self.by: list[tuple[str, int]] = []

    def _settle(self, evidence: ReceiptEvidence, number: int) -> list[tuple[UpstreamAck, int]]:
        self.by.append((evidence.label, number))
        return super()._settle(evidence, number)

    def all_settled(self, evidence: ReceiptEvidence) -> None:
        self._settled()
