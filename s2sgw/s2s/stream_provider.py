"""The source of streams to a peer or to the backend: the `StreamProvider` of `delivery.outbound_stream`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from twisted.internet.defer import Deferred

from s2sgw.delivery.outbound_stream import OutboundStream, ResumableStream, StreamUnavailable
from s2sgw.reporting.record import Leg
from s2sgw.s2s.connecting import ConnectServices, awaited_place, open_stream
from s2sgw.s2s.legs import InitiatingLeg
from s2sgw.s2s.resumption import BrokenStream
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair


@dataclass(frozen=True, slots=True)
class PeerStreamProvider:
    """Finds a stream of theirs that carries the pair back, or a shareable one of ours on `side`, or opens a new one."""

    side: InitiatingLeg
    connect_services: ConnectServices

    @property
    def leg(self) -> Leg:
        return self.side.leg

    def place(self, pair: Pair) -> Deferred[None] | None:
        """Return the wait for a place among the streams to a backend. Others may be shared, or the peer's own (XEP-0288)."""
        return awaited_place(self.side, pair, self.connect_services) if self.side.leg == "backend" else None

    async def find(self, pair: Pair, broken: ResumableStream | None = None, alone: bool = False) -> OutboundStream:
        former = cast(BrokenStream | None, broken)  # one that a stream of this provider left
        lender = self.connect_services.carrying_back
        pair_stream = lender.pair_stream(pair, alone) if lender is not None and former is None else None
        if pair_stream is not None:
            return pair_stream
        shown = self.side.shown(pair)
        if shown is None:
            stream = await open_stream(self.side, pair, self.connect_services, broken=former)
            self.connect_services.initiated.add(stream)
            return stream.part
        if alone or former is not None or not self.connect_services.extensions.usable(pair.recipient.ascii, "multiplexing"):
            return await self._own(pair, shown, former)
        return await self._shared(pair, shown)

    def urge(self, recipient: Domain) -> None:
        self.connect_services.destinations.retry_now(recipient.ascii)

    async def _shared(self, pair: Pair, shown: str) -> OutboundStream:
        multiplexing = self.connect_services.multiplexing
        await multiplexing.settled(pair.recipient.ascii, shown)
        pair_stream = await multiplexing.join(pair, shown)
        if pair_stream is not None:
            return pair_stream
        try:
            return await self._own(pair, shown)
        except StreamUnavailable as refused:
            # a stream that shows another certificate is better than none
            pair_stream = await multiplexing.join(pair) if refused.ending.cause is Cause.TOO_MANY_STREAMS else None
            if pair_stream is None:
                raise
            return pair_stream

    async def _own(self, pair: Pair, shown: str, broken: BrokenStream | None = None) -> OutboundStream:
        with self.connect_services.multiplexing.opening(pair.recipient.ascii, shown):
            stream = await open_stream(self.side, pair, self.connect_services, broken=broken)
            self.connect_services.initiated.add(stream)
            self.connect_services.multiplexing.add(stream)
        return stream.part
