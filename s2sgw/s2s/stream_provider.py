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
    opener: ConnectServices

    @property
    def leg(self) -> Leg:
        return self.side.leg

    async def find(self, pair: Pair, broken: ResumableStream | None = None, alone: bool = False) -> OutboundStream:
        lent = self.opener.lent(pair, alone) if broken is None else None
        if lent is not None:
            return lent
        shown = self.side.shown(pair)
        if shown is None:
            return (await self._new(pair, broken)).part
        if alone or broken is not None or not self.opener.manners.bears(pair.recipient.ascii, "multiplexing"):
            return await self._own(pair, shown, broken)
        return await self._shared(pair, shown)

    def urge(self, recipient: Domain) -> None:
        self.opener.manners.urge(recipient.ascii)

    async def _shared(self, pair: Pair, shown: str) -> OutboundStream:
        multiplexing = self.opener.multiplexing
        await multiplexing.settled(pair.recipient.ascii, shown)
        lent = await multiplexing.join(pair, shown)
        if lent is not None:
            return lent
        try:
            return await self._own(pair, shown)
        except StreamUnavailable as refused:
            # rather on a stream that shows another certificate than on none
            lent = await multiplexing.join(pair) if refused.ending.cause is Cause.TOO_MANY_STREAMS else None
            if lent is None:
                raise
            return lent

    async def _own(self, pair: Pair, shown: str, broken: ResumableStream | None = None) -> OutboundStream:
        with self.opener.multiplexing.opening(pair.recipient.ascii, shown):
            stream = await self._new(pair, broken)
            self.opener.multiplexing.add(stream)
        return stream.part

    async def _new(self, pair: Pair, broken: ResumableStream | None) -> InitiatedStream:
        """As soon as there is room for it."""
        room = self.opener.room
        if room is None:
            return await open_stream(self.side, pair, self.opener, broken=broken)
        async with room.entering():
            stream = await open_stream(self.side, pair, self.opener, broken=broken)
            room.joined(stream)
        return stream
