"""How the acknowledgements of each next server are had: as configured for a backend, the best there is for a peer."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from twisted.internet.interfaces import IReactorTime

from s2sgw.gateway.acks import OVERDUE, Acks, ManagedReceipts, NoReceipts, PingReceipts, Receipts, Silent
from s2sgw.gateway.courier import Courier
from s2sgw.gateway.flow import Flow
from s2sgw.gateway.lanes import Lanes
from s2sgw.gateway.manners import Manners
from s2sgw.gateway.openstream import OpenStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair


class Receipting:
    """Chooses for each open stream: XEP-0198 where it is to be had, else pings, else nothing but TCP."""

    def __init__(self, acks: Callable[[Domain], Acks], lanes: Callable[[], Lanes], manners: Manners, clock: IReactorTime) -> None:
        self._acks = acks
        self._lanes = lanes
        self._manners = manners
        self._clock = clock
        self._silent = Silent(clock)

    def managed(self, domain: Domain) -> bool:
        """Whether the server of `domain` is to be asked for acknowledgements (XEP-0198)."""
        return self._acks(domain) in ("auto", "sm") and self._manners.bears(domain.ascii, "management")

    def resumes(self, domain: Domain) -> bool:
        """Whether the server of `domain` bears to be asked to resume a stream."""
        return self._manners.bears(domain.ascii, "resumption")

    def of(self, courier: Courier, stream: OpenStream) -> Receipts:
        """The receipts for one stream that is ready."""
        acks, name, engine = self._acks(stream.pair.recipient), stream.pair.recipient.ascii, stream.engine
        if engine.managed:
            return ManagedReceipts(engine.sent, self._clock, partial(self._overdue, stream), engine.unacknowledged)
        if acks == "tcp" or (acks != "ping" and name in self._silent):
            return NoReceipts(engine.sent)
        way_back = partial(self._way_back, stream.pair.inverse)
        return PingReceipts(
            stream.pair, lambda ping: stream.write([ping]), lambda id, answered: way_back().expect(id, answered),
            lambda id: way_back().unexpect(id), courier.flow.acknowledged, partial(self._silent.remember, name), self._clock,
            lambda: f"s2sgw-{secrets.token_hex(12)}", engine.sent, insist=acks == "ping",
        )

    def _way_back(self, pair: Pair) -> Flow:
        """Where the answers of `pair` arrive: looked up for each ping, since a flow that rests between two is forgotten."""
        return self._lanes().flow(pair)

    def _overdue(self, stream: OpenStream, heard: bool) -> None:
        """Who has acknowledged before is gone without a word, and what broke off may be resumed. Who has not never will.

        A new stream to such a one goes without acknowledgements, for a day.
        """
        if heard:
            stream.connection.abort(Ending(Cause.UNRESPONSIVE, f"nothing was acknowledged for {OVERDUE:g} seconds", "them"))
            return
        ending = Ending(Cause.UNRESPONSIVE, f"acknowledgements were promised, and none came for {OVERDUE:g} seconds")
        self._manners.broke(stream.pair.recipient.ascii, "management", ending)
        stream.close(ending)
