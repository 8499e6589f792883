"""The way to a next server that streams are opened to (`openstream.Way`)."""

from __future__ import annotations

from dataclasses import dataclass

from s2sgw.gateway.broken import BrokenStream
from s2sgw.gateway.opening import Opener, open_stream
from s2sgw.gateway.openstream import OpenStream
from s2sgw.gateway.record import Leg
from s2sgw.gateway.sides import SendingSide
from s2sgw.xmpp.jid import Domain, Pair


@dataclass(frozen=True, slots=True)
class Opening:
    """A `Way` (see `openstream`): one that is open and carries the pair back, or a new one on `side`, once there is room."""

    side: SendingSide
    opener: Opener

    @property
    def leg(self) -> Leg:
        return self.side.leg

    async def find(self, pair: Pair, broken: BrokenStream | None = None) -> OpenStream:
        opener = self.opener
        lent = opener.lent(pair) if broken is None else None
        if lent is not None or opener.room is None:
            return lent or await open_stream(self.side, pair, opener, broken=broken)
        async with opener.room.entering():
            stream = await open_stream(self.side, pair, opener, broken=broken)
            opener.room.joined(stream)
        return stream

    def urge(self, recipient: Domain) -> None:
        self.opener.manners.urge(recipient.ascii)
