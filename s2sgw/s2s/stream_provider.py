"""The way to a next server that streams are opened to (`openstream.Way`)."""

from __future__ import annotations

from dataclasses import dataclass

from s2sgw.delivery.outbound_stream import OutboundStream
from s2sgw.reporting.record import Leg
from s2sgw.s2s.connecting import ConnectServices, InitiatedStream, StreamUnavailable, open_stream
from s2sgw.s2s.legs import InitiatingLeg
from s2sgw.s2s.resumption import ResumableStream
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair


@dataclass(frozen=True, slots=True)
class PeerStreamProvider:
    """A `StreamProvider` (see `openstream`): a stream of theirs that carries the pair back, one of ours on `side` that may be
    shared, or
    a new one, once there is room."""

    side: InitiatingLeg
    connect_services: ConnectServices

    @property
    def leg(self) -> Leg:
        return self.side.leg

    async def find(self, pair: Pair, broken: ResumableStream | None = None, alone: bool = False) -> OutboundStream:
        pair_stream = self.connect_services.pair_stream(pair, alone) if broken is None else None
        if pair_stream is not None:
            return pair_stream
        shown = self.side.shown(pair)
        if shown is None:
            return (await self._new(pair, broken)).part
        if alone or broken is not None or not self.connect_services.extensions.usable(pair.recipient.ascii, "multiplexing"):
            return await self._own(pair, shown, broken)
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
            # rather on a stream that shows another certificate than on none
            pair_stream = await multiplexing.join(pair) if refused.ending.cause is Cause.TOO_MANY_STREAMS else None
            if pair_stream is None:
                raise
            return pair_stream

    async def _own(self, pair: Pair, shown: str, broken: ResumableStream | None = None) -> OutboundStream:
        with self.connect_services.multiplexing.opening(pair.recipient.ascii, shown):
            stream = await self._new(pair, broken)
            self.connect_services.multiplexing.add(stream)
        return stream.part

    async def _new(self, pair: Pair, broken: ResumableStream | None) -> InitiatedStream:
        """As soon as there is room for it."""
        room = self.connect_services.room
        if room is None:
            return await open_stream(self.side, pair, self.connect_services, broken=broken)
        async with room.entering():
            stream = await open_stream(self.side, pair, self.connect_services, broken=broken)
            room.joined(stream)
        return stream
