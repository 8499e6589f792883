"""The choice of acknowledgements for each next server, and the meaning of its silence."""

from __future__ import annotations

from collections.abc import Callable
from os import urandom

from twisted.internet.interfaces import IReactorTime

from s2sgw.delivery.acknowledgements import (
    LARGE,
    OVERDUE_SECONDS,
    PING_SECONDS,
    AckedQueue,
    Acknowledgements,
    Acks,
    PingAcks,
    ReplyCatcher,
    ReplyQueues,
    StreamManagementAcks,
    TcpAcks,
)
from s2sgw.delivery.outbound_stream import KnownExtensions, OutboundStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.fair_dict import FairNames
from s2sgw.xmpp.jid import Domain

#: Seconds for which the gateway remembers whether a server answers pings; the most servers that it remembers. Beyond that, the
#: registered domain with the most names is forgotten first.
REMEMBERED_SECONDS = 86_400.0
#: Seconds after which a server that answered pings before, but answers none on new streams, counts as one that never does.
MUTE_SECONDS = 300.0
MAX_SERVERS = 10_000


class RememberedServers:
    """Servers that share a known property, each for `REMEMBERED_SECONDS`."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._until: FairNames[float] = FairNames(MAX_SERVERS)

    def remember(self, name: str) -> None:
        """Remember the server called `name`."""
        self._until[name] = self._clock.seconds() + REMEMBERED_SECONDS

    def forget(self, name: str) -> None:
        """Forget the server called `name`."""
        self._until.discard(name)

    def __contains__(self, name: str) -> bool:
        until = self._until.get(name)
        if until is not None and until <= self._clock.seconds():
            del self._until[name]
            until = None
        return until is not None


class AckSelection:
    """Chooses the acknowledgements of each open stream: XEP-0198 if it is offered, else pings, else TCP alone.

    `acks` returns the configured choice for a domain. `queues` catch the replies to pings.
    """

    def __init__(
        self, acks: Callable[[Domain], Acks], queues: ReplyQueues, extensions: KnownExtensions,
        clock: IReactorTime,
    ) -> None:
        self._acks = acks
        self._queues = queues
        self._extensions = extensions
        self._clock = clock
        #: servers that never answered a ping, and those that did
        self._never_answering = RememberedServers(clock)
        self._answering = RememberedServers(clock)
        #: servers of the latter that are silent on new streams too, and since when
        self._silent_since: FairNames[float] = FairNames(MAX_SERVERS)

    def use_stream_management(self, domain: Domain) -> bool:
        """Return whether the server of `domain` is to be asked for acknowledgements (XEP-0198)."""
        return self._acks(domain) in ("auto", "sm") and self._extensions.usable(domain.ascii, "management")

    def use_resumption(self, domain: Domain) -> bool:
        """Return whether the server of `domain` may be asked to resume a stream."""
        return self._extensions.usable(domain.ascii, "resumption")

    def choose(self, queue: AckedQueue, stream: OutboundStream, stalled_before: bool = False) -> Acknowledgements:
        """Return the acknowledgements for one stream that is ready. `stalled_before`: the last one ended by a stall."""
        acks, name = self._acks(stream.pair.recipient), stream.pair.recipient.ascii
        if stream.managed:
            return StreamManagementAcks(stream, self, self._clock, stream.unacknowledged, stalled_before)
        if acks == "tcp" or (acks != "ping" and name in self._never_answering):
            return TcpAcks(stream)
        replies = ReplyCatcher(self._queues, stream.pair.inverse)
        return PingAcks(stream, queue, replies, self, self._clock, _token, always=acks == "ping")

    def forget(self, name: str) -> None:
        """Forget whether the server of the domain `name` answers pings: another server has the domain now."""
        self._never_answering.forget(name)
        self._answering.forget(name)
        self._silent_since.discard(name)

    # --- the meaning of a server's silence (`acknowledgements.StallPolicy`) ---

    def ping_answered(self, stream: OutboundStream) -> None:
        stream.note_answer()
        self._silent_since.discard(stream.pair.recipient.ascii)
        self._answering.remember(stream.pair.recipient.ascii)
        self._never_answering.forget(stream.pair.recipient.ascii)

    def answers_pings(self, stream: OutboundStream) -> bool:
        return stream.answers or stream.pair.recipient.ascii in self._answering

    def ping_unanswered(self, stream: OutboundStream) -> bool:
        """Judge a missing reply. Return whether the stream was ended for it.

        A server that has answered before is presumed dead: its stream ends. A server that has never answered is presumed never
        to answer, for a day. So is a server that has answered before, accepts new streams, and answers on none of them for
        `MUTE_SECONDS`: it can no longer reach us.
        """
        name = stream.pair.recipient.ascii
        if stream.answers and self._end_over_large(stream, PING_SECONDS):
            return True
        if self.answers_pings(stream) and (stream.answers or not self._mute(name)):
            text = f"it has answered pings before, but none for {PING_SECONDS:g} seconds"
            stream.abort(Ending(Cause.UNRESPONSIVE, text, "network"))
            return True
        self._answering.forget(name)
        self._silent_since.discard(name)
        self._never_answering.remember(name)
        return False

    def _mute(self, name: str) -> bool:
        """Return whether the server has been silent for `MUTE_SECONDS`, over several streams."""
        now = self._clock.seconds()
        if name not in self._silent_since:
            self._silent_since[name] = now
        return now - self._silent_since[name] >= MUTE_SECONDS

    def acks_overdue(self, stream: OutboundStream, acked_before: bool) -> None:
        """Judge missing acknowledgements.

        A server that has acknowledged before is presumed dead: its stream ends, and may be resumed. A server that has never
        acknowledged is presumed not to implement XEP-0198, which is not used with it for a day.
        """
        if not acked_before:
            ending = Ending(Cause.UNRESPONSIVE, f"acknowledgements were promised, but none came for {OVERDUE_SECONDS:g} seconds")
            self._extensions.disable(stream.pair.recipient.ascii, "management", ending)
            stream.close(ending)
        elif not self._end_over_large(stream, OVERDUE_SECONDS):
            text = f"nothing was acknowledged for {OVERDUE_SECONDS:g} seconds"
            stream.abort(Ending(Cause.UNRESPONSIVE, text, "network"))

    def _end_over_large(self, stream: OutboundStream, seconds: float) -> bool:
        """Close the stream if a large stanza is in flight: the server may have a limit that it does not announce.

        A closed stream is not resumed, so what is in doubt goes one at a time (`delivery.poison`). Return whether it is closed.
        """
        if stream.largest_in_flight <= LARGE:
            return False
        text = f"it has answered nothing for {seconds:g} seconds, with a stanza of {stream.largest_in_flight} bytes in flight"
        stream.close(Ending(Cause.UNRESPONSIVE, text, "them"))
        return True


def _token() -> str:
    return f"s2sgw-{urandom(12).hex()}"
