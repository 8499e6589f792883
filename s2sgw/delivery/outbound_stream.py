"""An open stream as its user sees it, whoever opened it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from s2sgw.delivery.next_hop import NextHopLimits
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Target
from s2sgw.reporting.record import Leg
from s2sgw.s2s.legs import Legged
from s2sgw.s2s.resumption import ResumableStream
from s2sgw.stream.events import Event, NotResumed, Resumed
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain, Pair


class StreamUser(Protocol):
    """Whoever uses an open stream. Who has nothing to send again leaves out what concerns resumption (XEP-0198 §5)."""

    @property
    def alone(self) -> bool:
        """Nobody else may use the stream, lest it be lost to them over what this one sends (decision 10)."""
        return False

    @property
    def busy(self) -> bool:
        """Something of it is in flight."""

    @property
    def burden(self) -> int:
        """Bytes of the largest stanza of it in flight."""
        return 0

    def stream_event(self, event: Event) -> None: ...

    def stream_lost(self, ending: Ending) -> None: ...

    def holds(self, number: int) -> bool:
        """Whether the `number` stanzas that are unacknowledged are all in hand, in their order, and nothing else was counted."""
        return False

    def again(self) -> list[bytes]:
        """Those stanzas."""
        return []

    def stream_broken(self, ending: Ending) -> None:
        """It broke off, and goes on with another one (`stream_resumed`) or comes to nothing (`stream_lost`) shortly."""
        return

    def stream_resumed(self, stream: OutboundStream) -> None:
        """It goes on with this one, and `again` was written."""
        return

    def stream_slow(self) -> None: ...

    def stream_free(self) -> None: ...


class OutboundCounters(Protocol):
    """What is needed of the engine of an open stream."""

    @property
    def managed(self) -> bool: ...

    @property
    def unacknowledged(self) -> int: ...

    def sent(self, number: int) -> None: ...


class OutboundStream(Protocol):
    """The part of a stream that carries one pair: of one of ours, or of one of theirs that carries it back (XEP-0288)."""

    method: str
    reasons: tuple[str, ...]
    pair: Pair
    listener: StreamUser | None
    connection: StreamConnection
    #: it was lost with stanzas of several pairs in doubt
    ambiguous: bool

    @property
    def side(self) -> Legged: ...

    @property
    def engine(self) -> OutboundCounters: ...

    @property
    def target(self) -> Target | None:
        """Where we connected to."""

    @property
    def broken(self) -> ResumableStream | None:
        """What is left of a stream of ours that broke off and may be resumed."""

    @property
    def outcome(self) -> Resumed | NotResumed | None:
        """What became of the stream with which this one was to go on."""

    @property
    def incoming(self) -> StreamIngress | None:
        """Where stanzas go that come on a stream of ours."""

    @property
    def fitness(self) -> NextHopLimits:
        """What of stanzas the other side takes."""

    @property
    def asking(self) -> bool:
        """As it ended, the other side had yet to answer whether it acknowledges stanzas, or takes a further pair."""

    def write(self, stanzas: Sequence[bytes]) -> None:
        """Send these, and whatever else stands between stanzas."""

    @property
    def burden(self) -> int:
        """Bytes of the largest stanza in flight, of all users; 0 where the stream is not to be ended over one."""

    @property
    def sole(self) -> bool:
        """Nobody else uses the stream."""

    def leave(self, ending: Ending) -> Deferred[None]:
        """Use it no more; the last user closes the stream. Fires when that is done, which takes a bounded time."""

    def close(self, ending: Ending) -> Deferred[None]:
        """Close the stream, for all of its pairs."""


class StreamProvider(Protocol):
    """Where the streams of a lane come from."""

    @property
    def leg(self) -> Leg: ...

    async def find(self, pair: Pair, broken: ResumableStream | None = None, alone: bool = False) -> OutboundStream:
        """A stream for `pair`, a new one where it is to go on with `broken`; raises `StreamUnavailable`.

        `alone`: no other pair may be on it.
        """

    def urge(self, recipient: Domain) -> None:
        """The operator's word: try at once."""
