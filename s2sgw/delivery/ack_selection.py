"""How the acknowledgements of each next server are had: as configured for a backend, the best there is for a peer."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from twisted.internet.interfaces import IReactorTime

from s2sgw.delivery.acknowledgements import (
    LARGE,
    OVERDUE,
    PATIENCE,
    Acknowledgements,
    Acks,
    PingAcks,
    StreamManagementAcks,
    TcpAcks,
    UnansweredPings,
)
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.outbound_stream import KnownExtensions, OutboundStream
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair


class AckSelection:
    """Chooses for each open stream: XEP-0198 where it is to be had, else pings, else nothing but TCP."""

    def __init__(
        self, acks: Callable[[Domain], Acks], queues: Callable[[], DeliveryQueues], extensions: KnownExtensions,
        clock: IReactorTime,
    ) -> None:
        self._acks = acks
        self._queues = queues
        self._extensions = extensions
        self._clock = clock
        self._silent = UnansweredPings(clock)

    def managed(self, domain: Domain) -> bool:
        """Whether the server of `domain` is to be asked for acknowledgements (XEP-0198)."""
        return self._acks(domain) in ("auto", "sm") and self._extensions.usable(domain.ascii, "management")

    def resumes(self, domain: Domain) -> bool:
        """Whether the server of `domain` bears to be asked to resume a stream."""
        return self._extensions.usable(domain.ascii, "resumption")

    def of(self, agent: DeliveryAgent, stream: OutboundStream) -> Acknowledgements:
        """The receipts for one stream that is ready."""
        acks, name = self._acks(stream.pair.recipient), stream.pair.recipient.ascii
        if stream.managed:
            overdue = partial(self._overdue, stream)
            heard = agent.poison_detector.stifled
            return StreamManagementAcks(stream.count_sent, self._clock, overdue, stream.unacknowledged, heard)
        if acks == "tcp" or (acks != "ping" and name in self._silent):
            return TcpAcks(stream.count_sent)
        way_back, noted = partial(self._way_back, stream.pair.inverse), partial(self._heard, stream)
        return PingAcks(
            stream.pair, lambda ping: stream.write([ping]), lambda id, answered: way_back().expect(id, noted(answered)),
            lambda id: way_back().unexpect(id), agent.queue.acknowledged, partial(self._silent.remember, name), self._clock,
            lambda: f"s2sgw-{secrets.token_hex(12)}", stream.count_sent, insist=acks == "ping",
            choked=lambda: stream.answers and self._choked(stream, PATIENCE),
        )

    def _way_back(self, pair: Pair) -> DeliveryQueue:
        """Where the answers of `pair` arrive: looked up for each ping, since a flow that rests between two is forgotten."""
        return self._queues().queue(pair)

    def _heard(self, stream: OutboundStream, answered: Callable[[], None]) -> Callable[[], None]:
        """`answered`, and noted: there are answers on this stream, whichever lane of it is told."""
        def noted() -> None:
            stream.note_answer()
            answered()
        return noted

    def _choked(self, stream: OutboundStream, seconds: float) -> bool:
        """Whether a server that has answered before, and not for so many `seconds`, may have met a limit that it told nobody of.

        Then the stream ends, and is not resumed: what is in doubt goes one at a time (`delivery.poison`).
        """
        if stream.largest_in_flight <= LARGE:
            return False
        text = f"it answers nothing for {seconds:g} seconds, with a stanza of {stream.largest_in_flight} bytes on its way"
        stream.close(Ending(Cause.UNRESPONSIVE, text, "them"))
        return True

    def _overdue(self, stream: OutboundStream, heard: bool) -> None:
        """Who has acknowledged before is gone without a word, and what broke off may be resumed. Who has not never will.

        A new stream to such a one goes without acknowledgements, for a day.
        """
        if heard and self._choked(stream, OVERDUE):
            return
        if heard:
            stream.abort(Ending(Cause.UNRESPONSIVE, f"nothing was acknowledged for {OVERDUE:g} seconds", "them"))
            return
        ending = Ending(Cause.UNRESPONSIVE, f"acknowledgements were promised, and none came for {OVERDUE:g} seconds")
        self._extensions.disable(stream.pair.recipient.ascii, "management", ending)
        stream.close(ending)
